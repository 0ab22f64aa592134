//! `enftunctl logs [NAME]`: what the journal has of the daemon and of the tunnels, or of one tunnel. It becomes journalctl,
//! and adds only what to look for.

use super::CliError;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Where journald keeps its files.
const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what is about this tunnel, and the daemon's coming and going.
    name: Option<String>,
    /// Goes on telling, until it is interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Only from then on: "1 hour ago", today, "2026-01-02 03:04".
    #[arg(short = 'S', long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last ones.
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<u32>,
    /// More for journalctl, such as -o json or --boot.
    #[arg(last = true, value_name = "JOURNALCTL OPTION")]
    more: Vec<OsString>,
}

pub fn run(args: Args) -> Result<(), CliError> {
    if args.more.is_empty() && !is_readable() {
        return Err(CliError::JournalForbidden);
    }
    let mut journalctl = Command::new("journalctl");
    journalctl.args(args.follow.then_some("--follow"));
    journalctl.args(args.since.map(|since| format!("--since={since}")));
    journalctl.args(args.lines.map(|lines| format!("--lines={lines}")));
    journalctl.args(args.more).args(matches(args.name.as_deref()));
    let error = journalctl.exec();
    Err(match error.kind() {
        io::ErrorKind::NotFound => CliError::NoJournal,
        _ => CliError::Start(error),
    })
}

/// What journalctl shall look for. Only the journal itself writes the fields that begin with `_`: nobody else can put lines
/// among these.
pub fn matches(name: Option<&str>) -> Vec<String> {
    let Some(name) = name else {
        return ["enftund.service", "enftun@*.service", "enftun-lockdown@*.service", "enftun-wait-online@*.service"]
            .map(|unit| format!("--unit={unit}"))
            .to_vec();
    };
    let daemon = "enftund.service".to_owned();
    let units = ["enftun", "enftun-lockdown", "enftun-wait-online"].map(|unit| format!("{unit}@{name}.service"));
    let of_daemon = [format!("_SYSTEMD_UNIT={daemon}"), format!("ENFTUN_TUNNEL={name}")];
    let of_units = units.iter().flat_map(|unit| ["+".to_owned(), format!("_SYSTEMD_UNIT={unit}")]);
    let of_manager =
        units.iter().chain([&daemon]).flat_map(|unit| ["+".into(), "_PID=1".into(), format!("UNIT={unit}")]);
    of_daemon.into_iter().chain(of_units).chain(of_manager).collect()
}

/// Whether the caller may read the system's journal; where there is none yet, that is no matter of permission.
fn is_readable() -> bool {
    let directories = JOURNALS.iter().filter_map(|directory| Path::new(directory).read_dir().ok()).flatten().flatten();
    let mut files =
        directories.map(|entry| entry.path().join("system.journal")).filter(|file| file.exists()).peekable();
    files.peek().is_none() || files.any(|file| std::fs::File::open(file).is_ok())
}
