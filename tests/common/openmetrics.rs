//! OpenMetrics text read by others: by the reference parser, and by node-exporter's textfile collector.

use super::netns::Running;
use super::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's own, which has Debian's modules: another may come first in PATH.
const PYTHON: &str = "/usr/bin/python3";

/// A document as the reference parser has read it.
#[derive(Debug)]
pub struct Samples(Value);

impl Samples {
    /// Reads it; what is not as the standard has it ends the test. None when the parser is not here.
    pub fn read(test: &str, text: &str) -> Option<Self> {
        if !Path::new("/usr/lib/python3/dist-packages/prometheus_client").exists() {
            super::skip(test, "python3-prometheus-client is missing");
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/openmetrics.py");
        let mut parser = Command::new(PYTHON);
        parser.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut parser = parser.spawn().unwrap();
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = parser.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        Some(Self(serde_json::from_slice(&output.stdout).unwrap()))
    }

    /// `name{label=value,…}`, labels sorted, in the order of the document.
    pub fn names(&self) -> Vec<&str> {
        self.0.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// Type, unit and value of one sample.
    #[track_caller]
    pub fn get(&self, name: &str) -> (&str, &str, f64) {
        let sample = &self.0[name];
        assert!(!sample.is_null(), "{name} is not among {:?}", self.names());
        (sample["type"].as_str().unwrap(), sample["unit"].as_str().unwrap(), sample["value"].as_f64().unwrap())
    }

    /// The reference has each with its type and labels, and has no others that begin so.
    #[track_caller]
    pub fn are_documented(&self, prefix: &str, but: &str) {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let ours = |name: &str| name.starts_with(prefix) && (but.is_empty() || !name.starts_with(but));
        let row = |name: &str, kind: &str, labels: &str| format!("{name} | {kind} | {labels}");
        let written: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|line| line.replace('`', ""))
            .filter_map(|line| {
                let mut cells = line.split('|').map(str::trim).map(str::to_owned);
                let (name, kind, labels) = (cells.next()?, cells.next()?, cells.next()?);
                let mut labels: Vec<_> = labels.split_whitespace().collect();
                labels.sort_unstable();
                ours(&name).then(|| row(&name, &kind, &labels.join(" ")))
            })
            .collect();
        let printed: BTreeSet<_> = self
            .names()
            .into_iter()
            .map(|sample| {
                let (name, labels) = sample.trim_end_matches('}').split_once('{').unwrap();
                let labels: Vec<_> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
                row(name, self.get(sample).0, &labels.join(" "))
            })
            .collect();
        assert_eq!(written, printed);
    }

    /// The value of one sample.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        self.get(name).2
    }
}

/// What node-exporter tells of the `.prom` files in a directory. None when it is not here.
pub fn node_exporter(test: &str, directory: &Path) -> Option<String> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus-node-exporter");
    let program = ["/usr/bin/prometheus-node-exporter".into(), root.join("usr/bin/prometheus-node-exporter")];
    let Some(program) = program.into_iter().find(|program: &PathBuf| program.exists()) else {
        super::skip(test, "prometheus-node-exporter is missing");
        return None;
    };
    // Somebody else may take the port in between: then node-exporter ends, and the wait does.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut exporter = Command::new(program);
    exporter
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!("--collector.textfile.directory={}", directory.display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let _running = Running(exporter.spawn().unwrap());
    let mut text = String::new();
    wait_for("node-exporter to answer", || {
        let Ok(mut connection) = TcpStream::connect(address) else { return false };
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        text.clear();
        connection.read_to_string(&mut text).is_ok()
    });
    Some(text)
}
