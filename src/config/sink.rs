//! Collects the findings of one file: at most so many, none twice, none that only follows from a syntax error.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::findings::{Finding, Severity, Source};
use super::values::{Complaint, quoted};

/// More findings than this in one file are counted and not kept: a file may come from anybody.
const MOST_FINDINGS: usize = 200;

#[derive(Default)]
struct Collected {
    findings: Vec<Finding>,
    places: BTreeMap<String, Range<usize>>,
    secrets: Vec<(String, Range<usize>)>,
    known: BTreeSet<String>,
    left_out: usize,
    errors_left_out: bool,
}

/// What was collected.
pub(super) struct Parts {
    /// In the order of the file.
    pub(super) findings: Vec<Finding>,
    /// Where each key stands.
    pub(super) places: BTreeMap<String, Range<usize>>,
    /// What is not for everybody: keys, and where their values stand.
    pub(super) secrets: Vec<(String, Range<usize>)>,
    /// Every key that was asked for.
    pub(super) known: BTreeSet<String>,
}

/// Where the findings of one file go while it is read. What follows from a syntax error is not said a second time.
pub(super) struct Sink<'a> {
    source: &'a Source,
    state: RefCell<Collected>,
    /// Lines with a syntax error: what the parser guessed there is not worth a second finding.
    broken_lines: BTreeSet<usize>,
    /// From this byte on the parser has lost its way in the tables, and its guesses are not worth a finding at all.
    lost_from: usize,
}

impl<'a> Sink<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, state: RefCell::default(), broken_lines: BTreeSet::new(), lost_from: usize::MAX }
    }

    pub(super) fn into_parts(self) -> Parts {
        let Collected { mut findings, places, secrets, known, left_out, errors_left_out } = self.state.into_inner();
        findings.sort_by_key(|finding| (finding.line, finding.column));
        if left_out > 0 {
            let text = format!("and {left_out} more findings, which are not shown");
            let mut rest = Finding::of_file(self.source.file(), text);
            rest.severity = if errors_left_out { Severity::Error } else { Severity::Warning };
            findings.push(rest);
        }
        Parts { findings, places, secrets, known }
    }

    /// Remembers where something stands, for findings that compare files; the first place counts.
    pub(super) fn place(&self, name: String, span: Range<usize>) {
        self.state.borrow_mut().places.entry(name).or_insert(span);
    }

    /// Remembers that what stands there is not for everybody.
    pub(super) fn secret(&self, key: String, span: Range<usize>) {
        self.state.borrow_mut().secrets.push((key, span));
    }

    /// Remembers that a reader knows `key`, whether it stands in the file or not.
    pub(super) fn know(&self, key: String) {
        self.state.borrow_mut().known.insert(key);
    }

    pub(super) fn has_syntax_errors(&self) -> bool {
        !self.broken_lines.is_empty()
    }

    pub(super) fn syntax(&mut self, message: &str, span: Range<usize>) {
        let line = self.source.line(span.start);
        if span.start >= self.lost_from || !self.broken_lines.insert(line) {
            return;
        }
        if self.is_full() {
            return self.leave_out(Severity::Error);
        }
        let there = self.source.text().get(span.clone()).unwrap_or_default().trim();
        let text = if message == "duplicate key" {
            format!("{} is given twice", quoted(there))
        } else if message.starts_with("missing comma") && self.source.begins_statement(line) {
            self.lost_from = span.start;
            "an array or inline table that begins above is not closed, or lacks a comma".to_owned()
        } else if message.starts_with("string values must be quoted") && there.is_empty() {
            "the value is missing".to_owned()
        } else {
            if message.starts_with("unclosed") {
                self.lost_from = span.start;
            }
            message.replace('\n', " ")
        };
        self.keep(Severity::Error, || self.source.finding(Severity::Error, String::new(), span, text));
    }

    pub(super) fn push(&self, severity: Severity, key: String, span: Range<usize>, complaint: Complaint) {
        self.push_as(severity, key, span, complaint, |finding| finding);
    }

    /// Adds an error without the line that it is about.
    pub(super) fn push_hidden(&self, key: String, span: Range<usize>, complaint: Complaint) {
        self.push_as(Severity::Error, key, span, complaint, Finding::without_excerpt);
    }

    fn push_as(
        &self,
        severity: Severity,
        key: String,
        span: Range<usize>,
        complaint: Complaint,
        form: impl FnOnce(Finding) -> Finding,
    ) {
        if span.start >= self.lost_from || self.broken_lines.contains(&self.source.line(span.start)) {
            return;
        }
        self.keep(severity, || {
            let mut finding = self.source.finding(severity, key, span, complaint.text);
            finding.help = complaint.help;
            form(finding)
        });
    }

    fn keep(&self, severity: Severity, finding: impl FnOnce() -> Finding) {
        if self.is_full() {
            self.leave_out(severity);
        } else {
            self.state.borrow_mut().findings.push(finding());
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.state.borrow().findings.len() >= MOST_FINDINGS
    }

    pub(super) fn leave_out(&self, severity: Severity) {
        let mut state = self.state.borrow_mut();
        state.left_out += 1;
        state.errors_left_out |= severity == Severity::Error;
    }
}
