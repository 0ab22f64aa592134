//! Figures as OpenMetrics text, for whoever has them to show: the command line for the daemon, the router for itself. It
//! formats and knows nothing of what is counted.
//!
//! Only gauges and counters: the text is read by node-exporter's textfile collector too, whose parser is of the older
//! Prometheus format and rejects the whole file for a type that it does not know (`info`, `stateset`). So a state is one
//! gauge per word, of which one is 1, and what an `info` would say stands in the labels of a gauge that is 1.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// Whether a figure may go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

/// A document that is being written. Families come in the order in which they are added; one without samples is left out.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// One metric with all its samples.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: String,
}

/// A number as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Whole(i128),
    /// So many microseconds, written as seconds: exact, where a binary fraction is not.
    Micros(i128),
}

impl Value {
    /// The seconds from `now` to `end`, both in microseconds since 1970; negative when it is past.
    pub fn left(end: u64, now: u64) -> Self {
        Self::Micros(i128::from(end) - i128::from(now))
    }

    /// So many microseconds, in seconds.
    pub fn micros(usec: u64) -> Self {
        Self::Micros(usec.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Whole(yes.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Micros(usec) => {
                let sign = if *usec < 0 { "-" } else { "" };
                let usec = usec.unsigned_abs();
                write!(f, "{sign}{}.{:06}", usec / 1_000_000, usec % 1_000_000)
            }
        }
    }
}

impl Family {
    /// A figure that goes up and down. A unit is the end of its name: `_seconds`, `_bytes`.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help, samples: String::new() }
    }

    /// A figure that only grows, until the program that counts starts again. Its samples are called `NAME_total`.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help, samples: String::new() }
    }

    /// Adds a sample. The labels tell it from the others of its family.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.samples += self.name;
        if self.kind == Kind::Counter {
            self.samples += "_total";
        }
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            self.samples += &format!("{before}{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.samples.push('}');
        }
        self.samples += &format!(" {}\n", value.into());
    }

    /// Adds one sample per word: 1 for the one that holds, 0 for the others.
    pub fn one_of<'a>(
        &mut self,
        label: &str,
        labels: &[(&str, &str)],
        words: impl Iterator<Item = &'a str>,
        now: &str,
    ) {
        for word in words {
            let labels: Vec<_> = labels.iter().copied().chain([(label, word)]).collect();
            self.add(&labels, word == now);
        }
    }

    fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(&format!("_{unit}")))
    }
}

impl Exposition {
    /// Adds a family.
    pub fn family(&mut self, family: &Family) {
        let Family { name, kind, help, samples } = family;
        if samples.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        self.0 += &format!("# TYPE {name} {kind}\n");
        if let Some(unit) = family.unit() {
            self.0 += &format!("# UNIT {name} {unit}\n");
        }
        self.0 += &format!("# HELP {name} {}\n{samples}", escaped(help));
    }

    /// Adds a gauge that has one sample.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: impl Into<Value>) {
        let mut family = Family::gauge(name, help);
        family.add(labels, value);
        self.family(&family);
    }

    /// Adds a counter that has one sample.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: impl Into<Value>) {
        let mut family = Family::counter(name, help);
        family.add(&[], value);
        self.family(&family);
    }

    /// The whole document.
    pub fn text(self) -> String {
        self.0 + "# EOF\n"
    }
}

/// Puts a document where it belongs: into a file that readers see whole or not at all and that everybody may read, or to
/// stdout.
pub fn deliver(text: &str, file: Option<&Path>) -> io::Result<()> {
    match file {
        Some(file) => crate::files::replace(file, text.as_bytes(), 0o644),
        None => std::io::stdout().lock().write_all(text.as_bytes()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_as_the_standard_has_it() {
        let mut sent = Family::counter("sent_bytes", "What was \"sent\",\nin all.");
        sent.add(&[("to", "a\\b\"c\nd"), ("by", "x")], 7_u64);
        sent.add(&[("to", "e"), ("by", "")], u64::MAX);
        let mut state = Family::gauge("state", "How it is.");
        state.one_of("state", &[("of", "it")], ["up", "down"].into_iter(), "down");
        let mut document = Exposition::default();
        document.family(&sent);
        document.family(&state);
        document.family(&Family::gauge("nothing", "Not there."));
        document.gauge("left_seconds", "Until then.", &[], Value::left(1_000_000, 2_500_001));
        document.counter("tries", "How often.", 3_u32);
        let expected = r#"# TYPE sent_bytes counter
# UNIT sent_bytes bytes
# HELP sent_bytes What was \"sent\",\nin all.
sent_bytes_total{to="a\\b\"c\nd",by="x"} 7
sent_bytes_total{to="e",by=""} 18446744073709551615
# TYPE state gauge
# HELP state How it is.
state{of="it",state="up"} 0
state{of="it",state="down"} 1
# TYPE left_seconds gauge
# UNIT left_seconds seconds
# HELP left_seconds Until then.
left_seconds -1.500001
# TYPE tries counter
# HELP tries How often.
tries_total 3
# EOF
"#;
        assert_eq!(document.text(), expected);
    }
}
