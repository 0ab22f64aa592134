//! `enftunctl report`: what a maintainer needs to understand a problem, in one text. It asks, and changes and sends nothing;
//! what cannot be had says why; no secret is in it (see [`super::redact`]).

use super::redact::redacted;
use super::{CliError, logs, output, time};
use crate::config::{self, Finding};
use crate::dbus::client::{Client, ClientError, Overview, TunnelInfo};
use crate::error::chain;
use crate::plan::TABLE;
use crate::terminal::{Span, Tone};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

/// A program that does not end by then is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lines of the journal.
const LINES: &str = "--lines=300";
/// Where programs are that only root has in PATH.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config_dir: super::args::ConfigDir,
}

/// The whole report.
#[derive(Serialize)]
struct Report {
    time: u64,
    parts: Vec<Part>,
}

/// One thing that was asked: its text, or why there is none.
#[derive(Serialize)]
struct Part {
    name: String,
    text: Option<String>,
    missing: Option<String>,
}

impl Part {
    fn new(name: impl Into<String>, asked: Result<String, String>) -> Self {
        let (text, missing) = match asked {
            Ok(text) => (Some(redacted(text.trim_end())), None),
            Err(why) => (None, Some(redacted(why.trim_end()))),
        };
        Self { name: name.into(), text, missing }
    }

    /// What a command prints; it is the name of the part, too.
    async fn of(command: &[&str]) -> Self {
        Self::new(command.join(" "), printed(command).await)
    }
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let report = Report { time: time::now(), parts: parts(&args.config_dir.path).await };
    if args.json {
        return output::json(&report);
    }
    output::line(&format!("enftunctl report, {}", time::utc(report.time)))?;
    output::line("It was sent nowhere. No key and no password is in it, but names and addresses of your network are.")?;
    for part in &report.parts {
        output::line("")?;
        output::spans(&[Span::new(Tone::Strong, format!("== {}", part.name))])?;
        let missing = part.missing.as_ref().map(|why| format!("(not to be had: {why})"));
        let text = part.text.as_ref().filter(|text| !text.is_empty());
        let text = missing.as_ref().or(text).map_or("(nothing)", String::as_str);
        text.lines().try_for_each(output::line)?;
    }
    Ok(())
}

async fn parts(config_dir: &Path) -> Vec<Part> {
    let mut parts = vec![Part::new("enftunctl", Ok(format!("version {}", env!("CARGO_PKG_VERSION"))))];
    parts.push(Part::of(&["uname", "-srvm"]).await);
    parts.push(Part::new(
        "/etc/os-release",
        std::fs::read_to_string("/etc/os-release").map_err(|error| error.to_string()),
    ));
    for command in [&["systemctl", "--version"], &["nft", "--version"], &["ip", "-V"]] {
        parts.push(Part::of(command).await);
    }
    let asked = ask().await;
    parts.push(Part::new("status", asked.as_ref().map_err(said).and_then(|(_, overview)| pretty(overview))));
    let config = config::load(config_dir);
    parts.push(check(config_dir, &config.findings));
    parts.push(Part::of(&["systemctl", "list-units", "--all", "--no-pager", "--plain", "enftun*"]).await);
    for family in ["-4", "-6"] {
        parts.push(Part::of(&["ip", family, "rule"]).await);
    }
    let tunnels = match &asked {
        Ok((_, overview)) => overview.tunnels.iter().map(Known::from).collect(),
        Err(_) => config.config.tunnels.values().map(Known::from).collect::<Vec<_>>(),
    };
    for tunnel in &tunnels {
        let plan = match &asked {
            Ok((client, _)) => client.plan(&tunnel.name).await.map_err(|error| said(&error)),
            Err(error) => Err(said(error)),
        };
        parts.push(Part::new(format!("plan of {}", tunnel.name), plan));
        of_kernel(tunnel, &mut parts).await;
    }
    parts.push(Part::of(&["nft", "list", "tables"]).await);
    parts.push(Part::of(&["nft", "list", "table", "inet", TABLE]).await);
    parts.push(journal().await);
    parts
}

/// What must be known of a tunnel to look for it in the kernel: from the daemon, else from its file.
struct Known {
    name: String,
    table: u32,
    interface: Option<String>,
}

impl From<&TunnelInfo> for Known {
    fn from(tunnel: &TunnelInfo) -> Self {
        Self { name: tunnel.name.clone(), table: tunnel.table, interface: tunnel.interface.clone() }
    }
}

impl From<&config::Tunnel> for Known {
    fn from(tunnel: &config::Tunnel) -> Self {
        let interface = tunnel.kind.enf().map(|enf| enf.tun.dev.clone());
        Self { name: tunnel.name.clone(), table: tunnel.route.table, interface }
    }
}

async fn ask() -> Result<(Client, Overview), ClientError> {
    let client = Client::connect().await?;
    if !client.is_running().await? {
        return Err(ClientError::NotRunning);
    }
    let overview = client.overview().await?;
    Ok((client, overview))
}

/// Routes and link of one tunnel.
async fn of_kernel(tunnel: &Known, parts: &mut Vec<Part>) {
    let table = tunnel.table.to_string();
    for family in ["-4", "-6"] {
        parts.push(Part::of(&["ip", family, "route", "show", "table", &table]).await);
    }
    if let Some(interface) = &tunnel.interface {
        parts.push(Part::of(&["ip", "-details", "-statistics", "address", "show", "dev", interface]).await);
    }
}

/// A finding a line: an excerpt of the file might show what is nobody's business.
fn check(config_dir: &Path, findings: &[Finding]) -> Part {
    let text = findings.iter().map(|finding| finding.one_line() + "\n").collect::<String>();
    let text = if findings.is_empty() { "no findings".to_owned() } else { text };
    Part::new(format!("check {}", config_dir.display()), Ok(text))
}

async fn journal() -> Part {
    let matches = logs::matches(None);
    let fixed = ["journalctl", "--no-pager", "--output=short-iso-precise", LINES];
    let command: Vec<_> = fixed.into_iter().chain(matches.iter().map(String::as_str)).collect();
    Part::new("journal", printed(&command).await)
}

fn pretty(overview: &Overview) -> Result<String, String> {
    serde_json::to_string_pretty(overview).map_err(|error| error.to_string())
}

fn said(error: &ClientError) -> String {
    chain(error)
}

/// What a program prints; if it fails, why.
async fn printed(command: &[&str]) -> Result<String, String> {
    let Some((program, arguments)) = command.split_first() else { return Err(String::new()) };
    let path = std::env::var("PATH").unwrap_or_default();
    let running = tokio::process::Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{SBIN}"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, running).await {
        Err(_) => Err(format!("{program} did not end within {}", time::seconds(PATIENCE))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(format!("the program {program} is not there")),
        Ok(Err(error)) => Err(format!("{program} cannot be started: {error}")),
        Ok(Ok(output)) => judged(program, &output),
    }
}

/// What was printed before a failure is worth keeping, beside the reason.
fn judged(program: &str, output: &Output) -> Result<String, String> {
    let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        // journalctl says there what the caller may not see.
        return Ok(if complaint.is_empty() { text.into_owned() } else { format!("{text}\n{complaint}") });
    }
    let complaint = complaint.trim();
    Err(if complaint.is_empty() { format!("{program} ended with {}", output.status) } else { complaint.to_owned() })
}
