//! `enftunctl check`: what is wrong with the configuration, all of it at once. Works without the daemon and changes nothing.

use super::{CliError, args, output};
use crate::config::{self, Finding, Severity};
use crate::terminal::{Span, Tone};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The files: tunnels, enftun.toml, router.toml; the whole configuration directory when left out.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config_dir: args::ConfigDir,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let dir = &args.config_dir.path;
    let wanted = if args.files.is_empty() { std::slice::from_ref(dir) } else { &args.files };
    // A file that is not there has no mistakes: that must not look like success.
    if let Some(missing) = wanted.iter().find(|path| matches!(path.try_exists(), Ok(false))) {
        return Err(CliError::NoFile(missing.clone()));
    }
    let findings =
        if args.files.is_empty() { config::load(dir).findings } else { config::check_files(&args.files, dir) };
    if args.json {
        output::document(&config::findings_json(&findings))?;
    } else {
        for (at, finding) in findings.iter().enumerate() {
            if at > 0 {
                output::line("")?;
            }
            tell(finding)?;
        }
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(()),
        errors => Err(CliError::Configuration { errors }),
    }
}

/// As the finding writes itself, its first word by how bad it is.
fn tell(finding: &Finding) -> Result<(), CliError> {
    let (text, severity) = (finding.to_string(), finding.severity.as_str());
    text.lines().try_for_each(|line| match line.strip_prefix(severity) {
        Some(rest) => output::spans(&[Span::new(Tone::of_severity(severity), severity), rest.into()]),
        None => output::line(line),
    })
}
