//! Where log lines go: the journal with its fields when the journal is attached, else stderr. It formats; it decides nothing.

use log::LevelFilter;
use std::io::Write;

/// Starts logging. Call it once, before anything is logged; later the level alone can change (`log::set_max_level`).
/// Lines of the log target `except` are left out.
pub fn init(program: &str, level: LevelFilter, except: Option<&str>) {
    if except.is_none()
        && systemd_journal_logger::connected_to_journal()
        && let Ok(logger) = systemd_journal_logger::JournalLog::new()
        && logger.with_syslog_identifier(program.to_owned()).install().is_ok()
    {
        log::set_max_level(level);
        return;
    }
    // The logger itself lets everything through: the level is `log`'s, so that it can change while the program runs.
    let mut builder = env_logger::Builder::new();
    if let Some(target) = except {
        builder.filter_module(target, LevelFilter::Off);
    }
    let installed = builder
        .filter_level(LevelFilter::Trace)
        .format(|out, record| {
            write!(out, "{:<5} {}", record.level().as_str().to_lowercase(), record.args())?;
            let mut fields = Fields(out, Ok(()));
            let _ = record.key_values().visit(&mut fields);
            let (out, result) = (fields.0, fields.1);
            result?;
            writeln!(out)
        })
        .try_init();
    if installed.is_ok() {
        log::set_max_level(level);
    }
}

/// Writes `key=value` behind the message.
struct Fields<'a, W>(&'a mut W, std::io::Result<()>);

impl<'kvs, W: Write> log::kv::VisitSource<'kvs> for Fields<'_, W> {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        if self.1.is_ok() {
            self.1 = write!(self.0, " {}={value}", key.as_str().trim_start_matches("ENFTUN_").to_lowercase());
        }
        Ok(())
    }
}
