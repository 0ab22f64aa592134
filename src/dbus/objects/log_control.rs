//! `org.freedesktop.LogControl1` (org.freedesktop.LogControl1(5)), by which `systemctl service-log-level` and
//! `service-log-target` change the log of a running service. The interface is systemd's: its levels are those of syslog.

use crate::daemon::Request;
use crate::dbus::fault::Fault;
use crate::dbus::gate::Gate;
use crate::logging::{self, Target};
use log::LevelFilter;
use zbus::message::Header;
use zbus::{Connection, interface};

/// The object.
#[derive(Clone)]
pub(crate) struct LogControl {
    pub gate: Gate,
}

/// syslog's words, and the least level that shows what they ask for. Of several the last is how a level reads.
const LEVELS: [(&str, LevelFilter); 8] = [
    ("alert", LevelFilter::Off),
    ("emerg", LevelFilter::Off),
    ("crit", LevelFilter::Error),
    ("err", LevelFilter::Error),
    ("warning", LevelFilter::Warn),
    ("notice", LevelFilter::Info),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
];

fn unidentified() -> Fault {
    Fault::denied("the bus does not say who you are")
}

#[interface(name = "org.freedesktop.LogControl1", introspection_docs = false)]
impl LogControl {
    #[zbus(property(emits_changed_signal = "false"))]
    fn log_level(&self) -> &'static str {
        let level = log::max_level();
        LEVELS.iter().rev().find(|(_, known)| *known == level).map_or("debug", |(word, _)| word)
    }

    #[zbus(property)]
    async fn set_log_level(
        &self,
        word: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> Result<(), Fault> {
        let Some((_, level)) = LEVELS.iter().find(|(known, _)| *known == word) else {
            let words = LEVELS.map(|(word, _)| word).join(", ");
            return Err(Fault::ours("InvalidArgument", format!("there is no log level \"{word}\"; there are {words}")));
        };
        self.gate.ask(Request::SetLogLevel(*level), connection, &header.ok_or_else(unidentified)?).await
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn log_target(&self) -> &'static str {
        logging::target().as_str()
    }

    #[zbus(property)]
    async fn set_log_target(
        &self,
        word: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Option<Header<'_>>,
    ) -> Result<(), Fault> {
        let Some(target) = Target::ALL.iter().find(|target| target.as_str() == word) else {
            return Err(Fault::ours(
                "Unsupported",
                format!("enftund does not log to \"{word}\"; there are journal and console"),
            ));
        };
        self.gate.ask(Request::SetLogTarget(*target), connection, &header.ok_or_else(unidentified)?).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn syslog_identifier(&self) -> &'static str {
        "enftund"
    }
}
