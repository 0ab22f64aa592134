//! What a reader of configuration files has to say about them: one [`Finding`] per mistake, with its place in the file, and
//! the three forms in which people and programs read it. It judges nothing; the readers do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is not used as it stands.
    Error,
    /// The file is used; the user should know.
    Warning,
}

impl Severity {
    /// The word in every printed form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One mistake, or one thing worth a second look, in one file.
///
/// Displayed it is several lines without a line end after the last, as rustc prints its own:
///
/// ```text
/// error: route.fwmrk: unknown key
///  --> /etc/enftun/tunnels/enf0.toml:12:1
///    |
/// 12 | fwmrk = 363
///    | ^^^^^
///    = help: did you mean `fwmark`?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// The file, as it was given.
    pub file: PathBuf,
    /// The key it is about, from the top: `route.fwmark`. Empty when it is about no key: syntax, or the file as a whole.
    pub key: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1; one past the last when it is about the end of the line.
    pub column: u32,
    /// What is wrong and why, in one line.
    pub text: String,
    /// What to write instead, when there is a good guess.
    pub help: Option<String>,
    excerpt: Option<Box<Excerpt>>,
}

/// The part of a line that is shown, ready for a terminal, and where it is underlined (in terminal cells).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    indent: usize,
    width: usize,
}

impl Finding {
    /// A finding about a file that has no text to point into.
    pub(super) fn of_file(file: &Path, text: String) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            key: String::new(),
            line: 1,
            column: 1,
            text,
            help: None,
            excerpt: None,
        }
    }

    /// Without the line of the file, for there is a secret in it.
    pub(super) fn without_excerpt(self) -> Self {
        Self { excerpt: None, ..self }
    }

    /// `FILE:LINE:COLUMN: error: key: text`, and the suggestion after it in brackets: for logs and editors.
    pub fn one_line(&self) -> String {
        self.line(&format!("{}: ", self.severity))
    }

    /// The same without the severity, for where that stands elsewhere.
    pub fn place_and_text(&self) -> String {
        self.line("")
    }

    fn line(&self, severity: &str) -> String {
        let Self { line, column, .. } = self;
        let file = self.file.display();
        let help = self.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{file}:{line}:{column}: {severity}{}{help}", self.subject())
    }

    fn subject(&self) -> String {
        if self.key.is_empty() { self.text.clone() } else { format!("{}: {}", self.key, self.text) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{}: {}", self.severity, self.subject())?;
        write!(f, "{gutter}--> {}:{}:{}", self.file.display(), self.line, self.column)?;
        if let Some(Excerpt { text, indent, width }) = self.excerpt.as_deref() {
            let line = format!("{number} | {text}");
            let carets = format!("{}{}", " ".repeat(*indent), "^".repeat(*width));
            write!(f, "\n{gutter} |\n{}\n{gutter} | {carets}", line.trim_end())?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

/// The documented form of `enftunctl check --json`: `{"version": 1, "findings": [...]}`, each with `severity`, `file`, `key`,
/// `line`, `column`, `text`, and `help` where there is a suggestion.
pub fn findings_json(findings: &[Finding]) -> serde_json::Value {
    let list: Vec<serde_json::Value> = findings
        .iter()
        .map(|finding| {
            let mut value = serde_json::json!({
                "severity": finding.severity.as_str(),
                "file": finding.file.to_string_lossy(),
                "key": finding.key,
                "line": finding.line,
                "column": finding.column,
                "text": finding.text,
            });
            if let (Some(help), Some(object)) = (&finding.help, value.as_object_mut()) {
                object.insert("help".to_owned(), help.as_str().into());
            }
            value
        })
        .collect();
    serde_json::json!({ "version": 1, "findings": list })
}

/// The text of one file, and what it takes to say where in it something stands.
pub(super) struct Source {
    file: PathBuf,
    text: String,
    /// Byte offset of the first character of each line.
    lines: Vec<usize>,
}

/// What some editors put before the text.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';
/// How much of a long line is shown: this many characters before the place, and in all.
const BEFORE: usize = 60;
const SHOWN: usize = 160;
/// Cells that a tab takes in what is shown.
const TAB: &str = "    ";

impl Source {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        // An editor's byte order mark is neither text nor a column.
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.to_owned(), text: text.to_owned(), lines }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Line, from 1, in which the byte at `offset` stands.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// Whether the line looks like `[section]` or `key = value`.
    pub(super) fn begins_statement(&self, line: usize) -> bool {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let line = self.text.get(start..).unwrap_or_default().lines().next().unwrap_or_default().trim();
        let bare = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        line.split_once('=').is_some_and(|(key, _)| bare(key.trim_end()))
            || line.strip_prefix('[').and_then(|rest| rest.split_once(']')).is_some_and(|(name, _)| bare(name))
    }

    /// An empty `span` points at the place without showing it when it is the start of the file: that is the file as a whole.
    pub(super) fn finding(&self, severity: Severity, key: String, span: Range<usize>, text: String) -> Finding {
        let offset = self.text.floor_char_boundary(span.start);
        let line = self.line(offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or_default();
        let content = rest.split('\n').next().unwrap_or_default();
        let content = content.strip_suffix('\r').unwrap_or(content);
        let before = content.get(..content.floor_char_boundary(offset - start)).unwrap_or(content).chars().count();
        let end = self.text.floor_char_boundary(span.end).max(offset);
        let marked = self.text.get(offset..end).unwrap_or_default().split(['\n', '\r']).next().unwrap_or_default();
        let whole_file = span == (0..0);
        let excerpt = (!whole_file).then(|| Box::new(excerpt(content, before, marked.chars().count())));
        Finding {
            severity,
            file: self.file.clone(),
            key,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(before + 1).unwrap_or(u32::MAX),
            text,
            help: None,
            excerpt,
        }
    }
}

/// The line with a star for each character of a user's name and password in front of an `@`.
fn without_logins(line: &str) -> String {
    let word = |word: &str| {
        let Some((before, host)) = word.rsplit_once('@').filter(|(before, _)| before.contains(':')) else {
            return word.to_owned();
        };
        let quote = || before.find(['"', '\'']).map(|at| at + 1);
        let start = before.find("://").map(|at| at + 3).or_else(quote).unwrap_or(0);
        let (shown, login) = before.split_at(start);
        format!("{shown}{}@{host}", "*".repeat(login.chars().count()))
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn excerpt(line: &str, before: usize, marked: usize) -> Excerpt {
    let line = &without_logins(line);
    let long = line.chars().nth(SHOWN).is_some();
    let skipped = if long { before.saturating_sub(BEFORE) } else { 0 };
    let mut shown = String::new();
    let (mut indent, mut width) = (0, 0);
    if skipped > 0 {
        shown.push('…');
        indent = 1;
    }
    for (at, character) in line.chars().enumerate().skip(skipped) {
        if at >= skipped + SHOWN {
            shown.push('…');
            break;
        }
        let cells = if character == '\t' {
            shown.push_str(TAB);
            TAB.len()
        } else {
            // A file may come from anybody, and a control character would speak to the terminal.
            shown.push(if character.is_control() { char::REPLACEMENT_CHARACTER } else { character });
            cells(character)
        };
        if at < before {
            indent += cells;
        } else if at < before + marked {
            width += cells;
        }
    }
    Excerpt { text: shown, indent, width: width.max(1) }
}

/// Terminal cells of one character: the wide blocks of East Asian scripts and pictures take two, combining marks none.
fn cells(character: char) -> usize {
    match u32::from(character) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
