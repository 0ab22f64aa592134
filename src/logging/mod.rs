//! Where log lines go: the journal with its fields, or stderr for people. It formats; it decides nothing.

pub mod message;

use crate::state::words;
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use systemd_journal_logger::JournalLog;

words! {
    /// Where log lines go, in the words of `org.freedesktop.LogControl1`.
    Target {
        /// The journal, each line with its fields.
        Journal => "journal",
        /// stderr.
        Console => "console",
    }
}

/// Where lines go may change while the program runs, as `log`'s level may.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    /// None where there is no journal on this host.
    journal: Option<JournalLog>,
    console: env_logger::Logger,
    to_journal: AtomicBool,
}

/// Starts logging. Call it once, before anything is logged; later the level (`log::set_max_level`) and the target can change.
/// Lines go to the journal when stderr does, else to stderr. Lines of the log target `except` are left out.
pub fn init(program: &str, level: LevelFilter, except: Option<&str>) {
    // The console itself lets everything through: the level is `log`'s, so that it can change while the program runs.
    let mut console = env_logger::Builder::new();
    if let Some(target) = except {
        console.filter_module(target, LevelFilter::Off);
    }
    let console = console.filter_level(LevelFilter::Trace).format(write_line).build();
    let journal = JournalLog::new().ok().map(|journal| journal.with_syslog_identifier(program.to_owned()));
    let attached = except.is_none() && journal.is_some() && systemd_journal_logger::connected_to_journal();
    let logger = LOGGER.get_or_init(|| Logger { journal, console, to_journal: AtomicBool::new(attached) });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Where lines go now.
pub fn target() -> Target {
    match LOGGER.get() {
        Some(logger) if logger.to_journal.load(Relaxed) => Target::Journal,
        _ => Target::Console,
    }
}

/// Sends lines elsewhere from now on. Whether that can be: without a journal there is only the console.
pub fn set_target(target: Target) -> bool {
    let Some(logger) = LOGGER.get() else { return target == Target::Console };
    let possible = target == Target::Console || logger.journal.is_some();
    if possible {
        logger.to_journal.store(target == Target::Journal, Relaxed);
    }
    possible
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.console.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // The TPM library logs each error that it returns, and what became of one is said in our own words.
        if record.target().starts_with("tss_esapi") && log::max_level() < LevelFilter::Debug {
            return;
        }
        // And the WebSocket's logs each message, with all that is in it, and every look at its socket.
        if ["tungstenite", "tokio_tungstenite"].iter().any(|library| record.target().starts_with(library))
            && record.level() > log::Level::Info
        {
            return;
        }
        match &self.journal {
            Some(journal) if self.to_journal.load(Relaxed) => journal.log(record),
            _ => self.console.log(record),
        }
    }

    fn flush(&self) {}
}

/// `level message key=value…`
fn write_line(out: &mut env_logger::fmt::Formatter, record: &Record<'_>) -> std::io::Result<()> {
    write!(out, "{:<5} {}", record.level().as_str().to_lowercase(), record.args())?;
    let mut fields = Fields(out, Ok(()));
    let _ = record.key_values().visit(&mut fields);
    let (out, result) = (fields.0, fields.1);
    result?;
    writeln!(out)
}

/// Writes `key=value` behind the message.
struct Fields<'a, W>(&'a mut W, std::io::Result<()>);

impl<'kvs, W: Write> log::kv::VisitSource<'kvs> for Fields<'_, W> {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        // The kind of event is for programs, and programs read the journal.
        if self.1.is_ok() && key.as_str() != "MESSAGE_ID" {
            self.1 = write!(self.0, " {}={value}", key.as_str().trim_start_matches("ENFTUN_").to_lowercase());
        }
        Ok(())
    }
}
