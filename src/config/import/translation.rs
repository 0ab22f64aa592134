//! What both sides of an import stand on: the groups of the old file, read as the C client reads them, and the findings and
//! lines that come of it. What the keys mean, it does not know.

use std::collections::HashSet;
use std::hash::Hash;
use std::path::Path;

use super::super::findings::{Finding, Severity, Source};
use super::super::reader::did_you_mean;
use super::super::values::{Complaint, quoted};
use super::Imported;
use super::libconfig::{Place, Setting, Value};

/// More warnings than this are counted and not kept: a file may come from anybody.
const MOST_FINDINGS: usize = 200;

/// What has been said and written so far.
pub(super) struct Translation {
    sources: Vec<Source>,
    findings: Vec<(Place, Finding)>,
    left_out: usize,
    /// What is written, by section.
    sections: Vec<(&'static str, String)>,
}

/// A group of the old file.
pub(super) struct Old<'a> {
    /// What stands before its settings' names.
    pub(super) path: &'static str,
    pub(super) settings: &'a [Setting],
    pub(super) known: Vec<&'static str>,
}

impl<'a> Old<'a> {
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Setting> {
        self.known.push(key);
        self.settings.iter().find(|setting| setting.name == key)
    }
}

/// The start of the first file: what is about no place in it.
pub(super) const NOWHERE: Place = Place { file: 0, span: 0..0 };

impl Translation {
    pub(super) fn new(sources: Vec<Source>) -> Self {
        Self { sources, findings: Vec::new(), left_out: 0, sections: Vec::new() }
    }

    pub(super) fn say(&mut self, severity: Severity, key: &str, place: &Place, complaint: Complaint) {
        let Some(source) = self.sources.get(place.file) else { return };
        if severity == Severity::Warning && self.findings.len() >= MOST_FINDINGS {
            self.left_out += 1;
            return;
        }
        let mut finding = source.finding(severity, key.to_owned(), place.span.clone(), complaint.text);
        finding.help = complaint.help;
        let line = source.text().lines().nth(finding.line as usize - 1).unwrap_or_default();
        if line.contains("passw") {
            finding = finding.without_excerpt();
        }
        self.findings.push((place.clone(), finding));
    }

    pub(super) fn warn(&mut self, key: &str, place: &Place, text: String) {
        self.say(Severity::Warning, key, place, Complaint { text, help: None });
    }

    pub(super) fn write(&mut self, section: &'static str, key: &str, value: impl Into<toml::Value>) {
        let line = format!("{key} = {}\n", value.into());
        match self.sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, lines)) => lines.push_str(&line),
            None => self.sections.push((section, line)),
        }
    }

    /// What became of `file`.
    pub(super) fn finish(mut self, file: &Path) -> Imported {
        self.findings.sort_by_key(|(place, _)| (place.file, place.span.start));
        let mut findings: Vec<Finding> = self.findings.into_iter().map(|(_, finding)| finding).collect();
        if self.left_out > 0 {
            let mut rest = Finding::of_file(file, format!("and {} more findings, which are not shown", self.left_out));
            rest.severity = Severity::Warning;
            findings.push(rest);
        }
        let usable = findings.iter().all(|finding| finding.severity != Severity::Error);
        let toml = usable.then(|| {
            let old = quoted(&file.to_string_lossy());
            let sections = self.sections.iter().map(|(name, lines)| format!("\n[{name}]\n{lines}"));
            format!("# From {old}, by enftunctl import.\n\nkind = \"enf\"\n{}", sections.collect::<String>())
        });
        Imported { toml, findings }
    }

    pub(super) fn group<'a>(&mut self, root: &mut Old<'a>, name: &'static str) -> Old<'a> {
        let mut settings: &'a [Setting] = &[];
        if let Some(setting) = root.take(name) {
            match &setting.value {
                Value::Group(group) => settings = group,
                other => {
                    let text = format!("is {}, where a group belongs: the C client ignored it", other.kind());
                    self.warn(name, &setting.place, text);
                }
            }
        }
        Old { path: name, settings, known: Vec::new() }
    }

    pub(super) fn unknown(&mut self, old: &Old<'_>) {
        for setting in old.settings.iter().filter(|setting| !old.known.contains(&setting.name.as_str())) {
            let text = "the C client does not know this and ignored it; it is left out".to_owned();
            let help = did_you_mean(&setting.name, &old.known);
            self.say(Severity::Warning, &path(old, &setting.name), &setting.place, Complaint { text, help });
        }
    }

    /// A value of a type that the C client does not take there: its default holds.
    pub(super) fn ignored(
        &mut self,
        old: &Old<'_>,
        setting: &Setting,
        expected: &str,
        default: &str,
        meant: Option<String>,
    ) {
        let kind = setting.value.kind();
        let text = format!(
            "is {kind}: the C client takes {expected}, ignored this and took its default, {default}, which stays"
        );
        let help = meant.map(|meant| format!("if it was meant, write {meant} below [{}]", old.path));
        let key = path(old, &setting.name);
        self.say(Severity::Warning, &key, &setting.value_place, Complaint { text, help });
    }

    pub(super) fn text<'a>(
        &mut self,
        old: &mut Old<'a>,
        key: &'static str,
        default: &str,
    ) -> Option<(&'a str, &'a Place)> {
        let setting = old.take(key)?;
        if let Value::Text(text) = &setting.value {
            return Some((text, &setting.value_place));
        }
        let meant = match &setting.value {
            Value::Integer(number) if key == "port" => Some(format!("{key} = {number}")),
            Value::Integer(number) => Some(format!("{key} = \"{number}\"")),
            _ => None,
        };
        self.ignored(old, setting, "a string", default, meant);
        None
    }

    /// `write` says how a number is written in our file.
    pub(super) fn integer(
        &mut self,
        old: &mut Old<'_>,
        key: &'static str,
        default: &str,
        write: impl Fn(i32) -> Option<String>,
    ) -> Option<(i32, Place)> {
        let setting = old.take(key)?;
        if let Value::Integer(number) = setting.value {
            return Some((number, setting.value_place.clone()));
        }
        let meant = match &setting.value {
            Value::Text(text) => text.parse().ok().and_then(write),
            _ => None,
        };
        self.ignored(old, setting, "a number", default, meant);
        None
    }

    /// `new` is the key in our file.
    pub(super) fn boolean(
        &mut self,
        old: &mut Old<'_>,
        key: &'static str,
        new: &str,
        default: bool,
    ) -> Option<(bool, Place)> {
        let setting = old.take(key)?;
        let meant = match &setting.value {
            Value::Boolean(value) => return Some((*value, setting.value_place.clone())),
            Value::Integer(number @ 0..=1) => Some(format!("{new} = {}", *number == 1)),
            Value::Text(text) if matches!(text.as_str(), "true" | "false") => Some(format!("{new} = {text}")),
            _ => None,
        };
        self.ignored(old, setting, "true or false", &default.to_string(), meant);
        None
    }

    /// The strings of an array, each with its place; an array of anything else has none for the C client.
    pub(super) fn strings<'a>(
        &mut self,
        old: &mut Old<'a>,
        key: &'static str,
        default: &str,
    ) -> Option<(Vec<(&'a str, &'a Place)>, &'a Place)> {
        let setting = old.take(key)?;
        let strings = |elements: &'a [(Value, Place)]| -> Vec<(&'a str, &'a Place)> {
            let texts = elements.iter().filter_map(|(value, place)| match value {
                Value::Text(text) => Some((text.as_str(), place)),
                _ => None,
            });
            texts.collect()
        };
        let meant = match &setting.value {
            Value::Array(elements) => {
                let found = strings(elements);
                if found.len() < elements.len() {
                    let text = "has no strings in it: the C client took it for empty".to_owned();
                    self.warn(&path(old, key), &setting.value_place, text);
                }
                return Some((found, &setting.value_place));
            }
            Value::Text(text) => vec![text.as_str()],
            Value::List(elements) => strings(elements).into_iter().map(|(text, _)| text).collect(),
            _ => Vec::new(),
        };
        let meant = (!meant.is_empty()).then(|| format!("{key} = {}", toml::Value::from(meant)));
        self.ignored(old, setting, "an array of strings in square brackets", default, meant);
        None
    }

    /// What `judge` makes of each string, once; what it refuses is told and left out.
    pub(super) fn judged<T: Clone + Eq + Hash>(
        &mut self,
        key: &str,
        strings: &[(&str, &Place)],
        judge: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Vec<(T, Place)> {
        let mut seen = HashSet::new();
        let mut good = Vec::new();
        for (text, place) in strings {
            match judge(text) {
                Ok(value) if seen.insert(value.clone()) => good.push((value, (*place).clone())),
                Ok(_) => self.warn(key, place, "is given twice; once is enough".to_owned()),
                Err(Complaint { text, help }) => {
                    let text = format!("{text}; it is left out");
                    self.say(Severity::Warning, key, place, Complaint { text, help });
                }
            }
        }
        good
    }

    pub(super) fn no_counterpart(&mut self, old: &mut Old<'_>, key: &'static str, why: &str) {
        if let Some(setting) = old.take(key) {
            self.warn(&path(old, key), &setting.place, format!("has no counterpart: {why}"));
        }
    }
}

/// How findings call a setting.
pub(super) fn path(old: &Old<'_>, key: &str) -> String {
    if old.path.is_empty() { key.to_owned() } else { format!("{}.{key}", old.path) }
}
