//! Judges a configuration that somebody hands over as an open file. Whoever may call it is not trusted: what is read is bounded
//! in size and time, and few are read at once. Nothing is opened by name.

use super::fault::Fault;
use crate::config::{self, Finding, Severity};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// No configuration file is larger, in bytes.
const LARGEST: u64 = 1 << 20;
/// A file that is not at its end by then is given up; a thread may go on waiting for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files that are read or judged at once.
const AT_ONCE: usize = 4;

/// Severity, key, line, column, text.
pub(super) type Row = (&'static str, String, u32, u32, String);

/// Judges files, a few at once.
#[derive(Clone, Debug)]
pub(super) struct Validator(Arc<Semaphore>);

impl Default for Validator {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Validator {
    /// Whether there is no error, and everything there is to say.
    pub async fn judge(&self, file: OwnedFd) -> Result<(bool, Vec<Row>), Fault> {
        let Ok(turn) = self.0.clone().try_acquire_owned() else {
            return Err(Fault::ours("Busy", format!("{AT_ONCE} files are being judged already; try again")));
        };
        let judged = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read(file).map(|text| config::check_text(Path::new("configuration.toml"), Path::new("/etc/enftun"), &text))
        });
        let late = |_| Fault::ours("Timeout", format!("the file did not end within {} s", PATIENCE.as_secs()));
        let findings = timeout(PATIENCE, judged)
            .await
            .map_err(late)?
            .map_err(|_| Fault::ours("Failed", "the file could not be judged"))??;
        let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
        Ok((ok, findings.iter().map(row).collect()))
    }
}

fn read(file: OwnedFd) -> Result<String, Fault> {
    let bad = |text: String| Fault::ours("InvalidArgument", text);
    let mut bytes = Vec::new();
    File::from(file)
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| bad(format!("the file cannot be read: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(bad("the file is larger than 1 MiB; no configuration is".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| bad(format!("the file is not UTF-8 text: {error}")))
}

fn row(finding: &Finding) -> Row {
    let text = match &finding.help {
        Some(help) => format!("{}; {help}", finding.text),
        None => finding.text.clone(),
    };
    (finding.severity.as_str(), finding.key.clone(), finding.line, finding.column, text)
}
