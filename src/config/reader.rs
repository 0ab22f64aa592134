//! A cursor over one TOML file that collects every finding on its way: syntax errors, unknown keys, wrong types, values that
//! a judge refuses. It knows TOML and nothing of what the keys mean.
//!
//! A reader takes the keys it knows from a [`Section`]; what is left over when the section is dropped is unknown.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::findings::{BYTE_ORDER_MARK, Finding, Severity, Source};
use super::sink::{Parts, Sink};
use super::values::{self, Complaint, clipped, quoted};

/// What came out of one file.
pub(super) struct Reading<T> {
    pub(super) value: T,
    pub(super) findings: Vec<Finding>,
    /// Every key that the reader asked for.
    pub(super) known: BTreeSet<String>,
    source: Source,
    places: BTreeMap<String, Range<usize>>,
    secrets: Vec<(String, Range<usize>)>,
}

impl<T> Reading<T> {
    pub(super) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    pub(super) fn file(&self) -> &Path {
        self.source.file()
    }

    /// The file has something in it that is not for everybody.
    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Adds a warning at everything that is not for everybody.
    pub(super) fn warn_of_secrets(&mut self, complaint: &Complaint) {
        for (key, span) in std::mem::take(&mut self.secrets) {
            let mut finding = self.source.finding(Severity::Warning, key, span, complaint.text.clone());
            finding.help.clone_from(&complaint.help);
            self.findings.push(finding);
        }
        self.findings.sort_by_key(|finding| (finding.line, finding.column));
    }

    /// Adds an error at `place`, or where the nearest table around it begins when the file does not name it.
    pub(super) fn error_at(&mut self, place: &str, key: &str, complaint: Complaint) {
        let mut nearest = place;
        let span = loop {
            match (self.places.get(nearest), nearest.rsplit_once('.')) {
                (Some(span), _) => break span.clone(),
                (None, Some((outer, _))) => nearest = outer,
                (None, None) => break 0..0,
            }
        };
        let mut finding = self.source.finding(Severity::Error, key.to_owned(), span, complaint.text);
        finding.help = complaint.help;
        self.findings.push(finding);
        self.findings.sort_by_key(|finding| (finding.line, finding.column));
    }
}

/// Parses `text` and lets `walk` read it. `walk` runs even after syntax errors, over what could be understood.
pub(super) fn read<T>(file: &Path, text: &str, walk: impl FnOnce(&mut Section<'_>) -> T) -> Reading<T> {
    let source = Source::new(file, text);
    let (root, errors) = DeTable::parse_recoverable(source.text());
    let mut sink = Sink::new(&source);
    // The parser forgives one byte order mark, as `Source` does; together they would forgive two.
    if source.text().starts_with(BYTE_ORDER_MARK) {
        sink.syntax("a second byte order mark", 0..BYTE_ORDER_MARK.len_utf8());
    }
    for error in &errors {
        sink.syntax(error.message(), error.span().unwrap_or(0..0));
    }
    let value = walk(&mut Section::new(&sink, String::new(), Some(root.get_ref()), 0..0));
    let Parts { findings, places, secrets, known } = sink.into_parts();
    Reading { value, findings, known, source, places, secrets }
}

/// Whether `text` has `key` at its top: enough to tell one sort of file from another, however broken the rest is.
pub(super) fn has_top_level(text: &str, key: &str) -> bool {
    DeTable::parse_recoverable(text).0.get_ref().contains_key(key)
}

/// A table of the file, or the place where it could stand. Dropping it reports the keys that nobody took.
pub(super) struct Section<'a> {
    sink: &'a Sink<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    span: Range<usize>,
    known: Vec<&'static str>,
    /// Something stands here that is no table, and that has been said.
    faulty: bool,
    /// Any key may stand here.
    open: bool,
}

impl<'a> Section<'a> {
    fn new(sink: &'a Sink<'a>, path: String, table: Option<&'a DeTable<'a>>, span: Range<usize>) -> Self {
        Self { sink, path, table, span, known: Vec::new(), faulty: false, open: false }
    }

    /// Leaves what was not taken unjudged.
    pub(super) fn ignore_the_rest(&mut self) {
        self.open = true;
    }

    /// The value of `key`, which is known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        self.sink.know(join(&self.path, key));
        let (name, value) = self.table?.get_key_value(key)?;
        // A value that the parser made up for a missing one has no place in the file.
        (!value.span().is_empty()).then(|| self.item(key, name.span(), value))
    }

    fn item(&self, key: &str, key_span: Range<usize>, value: &'a toml::Spanned<DeValue<'a>>) -> Item<'a> {
        let path = join(&self.path, key);
        self.sink.place(path.clone(), value.span());
        Item { sink: self.sink, path, key_span, span: value.span(), value: value.get_ref() }
    }

    /// As [`Self::take`]; that it is missing is an error, and `help` says what to write.
    pub(super) fn require(&mut self, key: &'static str, help: &str) -> Option<Item<'a>> {
        let item = self.take(key);
        let given = self.table.is_some_and(|table| table.contains_key(key));
        if !given && !self.faulty {
            self.missing(Severity::Error, key, Complaint::new("is missing").help(help));
        }
        item
    }

    /// Reports that `key` does not stand here, unless a syntax error may have swallowed it.
    pub(super) fn missing(&self, severity: Severity, key: &str, complaint: Complaint) {
        if !self.sink.has_syntax_errors() && !self.faulty {
            self.sink.push(severity, join(&self.path, key), self.span.clone(), complaint);
        }
    }

    /// An error about the file as a whole.
    pub(super) fn file_error(&self, complaint: Complaint) {
        self.sink.push(Severity::Error, String::new(), 0..0, complaint);
    }

    /// The table called `key`; what is not there, or is something else, reads as an empty one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        match self.take(key) {
            Some(item) => item.section(),
            None => Section::new(self.sink, join(&self.path, key), None, self.span.clone()),
        }
    }

    /// Every key with its value, in the order of the file; none of them is unknown.
    pub(super) fn entries(&mut self) -> Vec<(&'a str, Item<'a>)> {
        self.open = true;
        let Some(table) = self.table else { return Vec::new() };
        let real = table.iter().filter(|(_, value)| !value.span().is_empty());
        let mut all: Vec<_> =
            real.map(|(name, value)| (&**name.get_ref(), self.item(name.get_ref(), name.span(), value))).collect();
        all.sort_by_key(|(_, item)| item.key_span.start);
        all
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key).and_then(|item| item.boolean()).unwrap_or(default)
    }

    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>, default: u32) -> u32 {
        self.take(key).and_then(|item| item.integer(range)).unwrap_or(default)
    }

    /// A string that `judge` turns into a value.
    pub(super) fn parse<T>(
        &mut self,
        key: &'static str,
        judge: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        self.take(key)?.parse(judge)
    }
}

/// Getters for values that more than one file has.
impl Section<'_> {
    /// `mtu`: what IPv6 needs at least (RFC 8200 section 5) and what one frame carries at most.
    /// A duration, or what stands for it when there is none.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        judge: impl FnOnce(&str) -> Result<Duration, Complaint>,
        default: Duration,
    ) -> Duration {
        self.take(key).and_then(|item| item.duration(judge)).unwrap_or(default)
    }

    pub(super) fn mtu(&mut self) -> u16 {
        u16::try_from(self.integer("mtu", 1280..=1496, 1280)).unwrap_or(1280)
    }

    /// A path from `base`, and so is its default.
    pub(super) fn path_or(&mut self, key: &'static str, base: &Path, default: &str) -> PathBuf {
        let judge = values::path(base);
        self.parse(key, &judge).unwrap_or_else(|| values::absolute(&base.join(default)))
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let (Some(table), false) = (self.table, self.open) else { return };
        for (name, value) in table.iter() {
            let key = &**name.get_ref();
            if self.known.contains(&key) {
                continue;
            }
            if self.sink.is_full() {
                self.sink.leave_out(Severity::Error);
                continue;
            }
            let what = if value.get_ref().is_table() { "unknown section" } else { "unknown key" };
            let mut complaint = Complaint::new(what);
            if let Some(meant) = did_you_mean(key, &self.known) {
                complaint = complaint.help(&meant);
            } else if !self.known.is_empty() && self.known.len() <= 6 {
                complaint = complaint.help(&format!("known here: {}", self.known.join(", ")));
            }
            let (path, span) = (join(&self.path, key), name.span());
            if SECRETS.iter().any(|word| key.to_lowercase().contains(word)) {
                self.sink.push_hidden(path, span, complaint);
            } else {
                self.sink.push(Severity::Error, path, span, complaint);
            }
        }
    }
}

/// What stands behind keys with these words in their names, which are files wherever we know them, may be no file.
const SECRETS: [&str; 4] = ["token", "password", "secret", "passphrase"];

/// One value of the file.
#[derive(Clone)]
pub(super) struct Item<'a> {
    sink: &'a Sink<'a>,
    path: String,
    key_span: Range<usize>,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn error(&self, complaint: Complaint) {
        self.sink.push(Severity::Error, self.path.clone(), self.span.clone(), complaint);
    }

    pub(super) fn warning(&self, complaint: Complaint) {
        self.sink.push(Severity::Warning, self.path.clone(), self.span.clone(), complaint);
    }

    /// An error that is about the name of the key and not its value.
    pub(super) fn key_error(&self, complaint: Complaint) {
        self.sink.push(Severity::Error, self.path.clone(), self.key_span.clone(), complaint);
    }

    /// Remembers that `place` stands here, for findings that compare files.
    pub(super) fn remember(&self, place: String) {
        self.sink.place(place, self.span.clone());
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    fn mismatch(&self, expected: &str, help: Option<String>) {
        let text = format!("expected {expected}, found {}", describe(self.value));
        self.error(Complaint { text, help });
    }

    pub(super) fn section(self) -> Section<'a> {
        let table = self.value.as_table();
        if table.is_none() {
            let name = self.path.rsplit('.').next().unwrap_or_default();
            self.mismatch(
                "a section",
                Some(format!("write [{}] on a line of its own, {name}'s keys below", self.path)),
            );
        }
        let mut section = Section::new(self.sink, self.path, table, self.span);
        section.faulty = table.is_none();
        section
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            let word = self.value.as_str().filter(|text| matches!(*text, "true" | "false"));
            self.mismatch("true or false", word.map(|word| format!("write {word} without quotes")));
        }
        value
    }

    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let Some(integer) = self.value.as_integer() else {
            let quoted = self.value.as_str().filter(|text| text.parse::<u32>().is_ok());
            self.mismatch("an integer", quoted.map(|number| format!("write {number} without quotes")));
            return None;
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.and_then(|value| u32::try_from(value).ok()).filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) = (range.start(), range.end());
            let written = clipped(&integer.to_string());
            self.error(Complaint::new(&format!("{written} is out of range; it must be {least} to {most}")));
        }
        value
    }

    pub(super) fn port(&self) -> Option<u16> {
        u16::try_from(self.integer(1..=65535)?).ok()
    }

    /// A number from 0 to 1, with or without a decimal point.
    pub(super) fn fraction(&self) -> Option<f64> {
        let text = match self.value {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => {
                self.mismatch("a number from 0 to 1", None);
                return None;
            }
        };
        let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
        if value.is_none() {
            self.error(Complaint::new(&format!("{} is out of range; it must be 0 to 1", clipped(text))));
        }
        value
    }

    pub(super) fn parse<T>(&self, judge: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            self.mismatch("a string", None);
            return None;
        };
        judge(text).map_err(|complaint| self.error(complaint)).ok()
    }

    /// As [`Self::parse`], for what may hold a secret: then the line is not shown when it is wrong.
    pub(super) fn parse_secret<T>(&self, judge: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        match self.value.as_str() {
            Some(text) if text.split_once("://").map_or(text, |(_, rest)| rest).contains(['@', ':']) => {
                let hidden = |complaint| self.sink.push_hidden(self.path.clone(), self.span.clone(), complaint);
                judge(text).map_err(hidden).ok()
            }
            _ => self.parse(judge),
        }
    }

    /// Remembers that this is not for everybody who may read files.
    pub(super) fn is_secret(&self) {
        self.sink.secret(self.path.clone(), self.span.clone());
    }

    /// As [`Self::parse`], for a duration: a bare number is a near miss.
    pub(super) fn duration<T>(&self, judge: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        if let Some(number) = self.value.as_integer() {
            self.mismatch(
                "a duration in quotes with its unit",
                Some(format!("write \"{}s\"", clipped(number.as_str()))),
            );
            return None;
        }
        self.parse(judge)
    }

    /// The elements of an array.
    pub(super) fn list(&self) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            let quoted = self.value.as_str().map(|text| format!("write [{}]", quoted(text)));
            self.mismatch("an array", quoted);
            return None;
        };
        let element = |value: &'a toml::Spanned<DeValue<'a>>| Item {
            sink: self.sink,
            path: self.path.clone(),
            key_span: value.span(),
            span: value.span(),
            value: value.get_ref(),
        };
        Some(array.iter().filter(|value| !value.span().is_empty()).map(element).collect())
    }

    /// The elements of an array that `judge` accepts, each once; a repetition is a warning.
    pub(super) fn distinct<T: Clone + Eq + Hash>(&self, judge: impl Fn(&str) -> Result<T, Complaint>) -> Vec<T> {
        let mut seen = HashSet::new();
        let mut values = Vec::new();
        for item in self.list().unwrap_or_default() {
            let judged = item.parse(|text| {
                item.remember(format!("{}.{text}", self.path));
                judge(text)
            });
            match judged {
                Some(value) if seen.insert(value.clone()) => values.push(value),
                Some(_) => item.warning(Complaint::new("is given twice")),
                None => {}
            }
        }
        values
    }
}

fn join(path: &str, key: &str) -> String {
    let bare =
        (1..=80).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let key = if bare { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a decimal point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// "did you mean …" when one of `known` is what `word` was likely meant to be.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> Option<String> {
    // Distances cost time by the product of both lengths.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let near = known.iter().map(|known| (strsim::damerau_levenshtein(&lower, known), *known));
    let (distance, best) = near.min()?;
    (distance <= word.chars().count().max(3) / 3).then(|| format!("did you mean `{best}`?"))
}
