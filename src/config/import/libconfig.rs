//! The language of the C client's file, libconfig 1.5 and later: text in, a tree with the place of everything out. It knows
//! no key. What libconfig refuses is refused here, with one exception: a word without quotes where a value belongs is taken
//! as text and told, because the C client's own example has one in a comment. A comma behind the last element is taken, as
//! its later versions do.
//!
//! ```text
//! setting := NAME ("=" | ":") value [";" | ","]
//! value   := BOOL | INTEGER | FLOAT | STRING... | "{" setting... "}" | "[" scalar, ... "]" | "(" value, ... ")"
//! ```

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::super::findings::{Finding, Source};
use super::super::values::{clipped, quoted};

/// As in libconfig.
const DEEPEST_INCLUDE: usize = 10;
/// Groups and lists in each other; libconfig has no limit, and no configuration needs more.
const DEEPEST: usize = 32;
/// Includes multiply.
const MOST_FILES: usize = 64;
const MOST_TOKENS: usize = 1 << 16;

/// Where something stands: which of the files, and the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Boolean(bool),
    /// As the C client sees it, in 32 bits.
    Integer(i32),
    Float,
    Text(String),
    Array(Vec<(Value, Place)>),
    List(Vec<(Value, Place)>),
    Group(Vec<Setting>),
}

impl Value {
    /// What it is called.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Float => "a number with a decimal point",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::List(_) => "a list in round brackets",
            Self::Group(_) => "a group",
        }
    }
}

/// One setting of a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) value: Value,
    pub(super) value_place: Place,
}

/// Something to say about a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) place: Place,
    pub(super) text: String,
    pub(super) help: Option<String>,
}

impl Notice {
    pub(super) fn new(place: &Place, text: impl Into<String>) -> Self {
        Self { place: place.clone(), text: text.into(), help: None }
    }
}

/// Why there is no tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// The language; libconfig refuses the file.
    Syntax(Notice),
    /// A file that is included cannot be read.
    Include(Notice),
}

/// The files that were read, the first of them the one that was asked for, and what is in them.
pub(super) struct Parsed {
    pub(super) sources: Vec<Source>,
    pub(super) notices: Vec<Notice>,
    pub(super) settings: Result<Vec<Setting>, Fault>,
}

/// Reads a file that `include` reads the includes for.
pub(super) fn parse(file: &Path, text: &str, include: &dyn Fn(&Path) -> Result<String, Finding>) -> Parsed {
    let mut lexer = Lexer { sources: vec![Source::new(file, text)], tokens: Vec::new(), notices: Vec::new(), include };
    let read = lexer.file(0, 0);
    let Lexer { sources, tokens, mut notices, .. } = lexer;
    let settings = read.and_then(|()| {
        let end = sources.first().map_or(0, |source| source.text().len());
        let mut parser = Parser { tokens: tokens.into_iter().peekable(), notices: Vec::new(), end };
        let settings = parser.settings(None, 0);
        notices.append(&mut parser.notices);
        settings
    });
    Parsed { sources, notices, settings }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Boolean(bool),
    Integer(i32),
    Float,
    Text(String),
    /// Looks like a word or number, and is neither.
    Bare(String),
    Mark(char),
}

struct Lexer<'a> {
    sources: Vec<Source>,
    tokens: Vec<(Token, Place)>,
    notices: Vec<Notice>,
    include: &'a dyn Fn(&Path) -> Result<String, Finding>,
}

impl Lexer<'_> {
    fn file(&mut self, file: usize, depth: usize) -> Result<(), Fault> {
        let text = self.sources.get(file).map(|source| source.text().to_owned()).unwrap_or_default();
        let place = |from: usize, to: usize| Place { file, span: from..to };
        let mut at = 0;
        let mut first_in_line = true;
        while let Some(rest) = text.get(at..)
            && let Some(character) = rest.chars().next()
        {
            if self.tokens.len() >= MOST_TOKENS {
                return Err(syntax(&place(at, at), "the file, with what it includes, is too large"));
            }
            let begins_line = std::mem::take(&mut first_in_line);
            let length = match character {
                '\n' | ' ' | '\t' | '\r' | '\x0b' | '\x0c' => {
                    first_in_line = begins_line || character == '\n';
                    1
                }
                '#' => to_line_end(rest),
                '/' if rest.starts_with("//") => to_line_end(rest),
                '/' if rest.starts_with("/*") => match rest.get(2..).and_then(|inner| inner.find("*/")) {
                    Some(length) => length + 4,
                    None => {
                        let text = "a comment begins here and does not end: the C client ignored all that follows";
                        self.notices.push(Notice::new(&place(at, at + 2), text));
                        rest.len()
                    }
                },
                '@' if begins_line && rest.starts_with("@include") => {
                    let line = rest.get(..to_line_end(rest)).unwrap_or_default();
                    let mut quotes = line.match_indices('"').map(|(at, _)| at);
                    let (Some(open), Some(close)) = (quotes.next(), quotes.next()) else {
                        return Err(syntax(&place(at, at + line.len()), "@include needs the name of a file in quotes"));
                    };
                    let name = line.get(open + 1..close).unwrap_or_default();
                    self.include(name, &place(at, at + close + 1), depth)?;
                    close + 1
                }
                '"' => {
                    let Some((value, length)) = string(rest) else {
                        return Err(syntax(&place(at, at + 1), "a string begins here and is not closed"));
                    };
                    self.tokens.push((Token::Text(value), place(at, at + length)));
                    length
                }
                '=' | ':' | ';' | ',' | '{' | '}' | '[' | ']' | '(' | ')' => {
                    self.tokens.push((Token::Mark(character), place(at, at + 1)));
                    1
                }
                _ if in_word(character) => {
                    let length = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
                    let word = rest.get(..length).unwrap_or_default();
                    self.tokens.push((classify(word), place(at, at + length)));
                    length
                }
                _ => {
                    let text = format!("{} cannot stand here", quoted(&character.to_string()));
                    return Err(syntax(&place(at, at + character.len_utf8()), &text));
                }
            };
            at += length;
        }
        Ok(())
    }

    fn include(&mut self, name: &str, place: &Place, depth: usize) -> Result<(), Fault> {
        // Findings show it, and it would speak to the terminal.
        if name.contains(char::is_control) {
            let text = "the name of a file with control characters in it, which is not read";
            return Err(Fault::Include(Notice::new(place, text)));
        }
        if depth >= DEEPEST_INCLUDE {
            return Err(syntax(place, &format!("files include each other more than {DEEPEST_INCLUDE} deep")));
        }
        if self.sources.len() >= MOST_FILES {
            return Err(syntax(place, &format!("more than {MOST_FILES} files are included")));
        }
        let base = self.sources.first().and_then(|source| source.file().parent()).unwrap_or(Path::new(""));
        let path = base.join(name);
        let text = (self.include)(&path).map_err(|finding| {
            let text = format!("{} {}", quoted(name), finding.text);
            Fault::Include(Notice::new(place, text))
        })?;
        self.sources.push(Source::new(&path, &text));
        self.file(self.sources.len() - 1, depth + 1)
    }
}

fn syntax(place: &Place, text: &str) -> Fault {
    Fault::Syntax(Notice::new(place, text))
}

fn to_line_end(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

fn in_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '*' | '-' | '+' | '.')
}

fn classify(word: &str) -> Token {
    let name = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*') && !word.contains(['+', '.']);
    if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
        Token::Boolean(word.eq_ignore_ascii_case("true"))
    } else if name {
        Token::Name(word.to_owned())
    } else if let Some(number) = integer(word) {
        Token::Integer(number)
    } else if word.contains(['.', 'e', 'E']) && word.parse::<f64>().is_ok() {
        Token::Float
    } else {
        Token::Bare(word.to_owned())
    }
}

/// As `config_lookup_int` gives it: a hexadecimal number is 32 bits read with a sign, and what needs more than 32 is 0.
fn integer(word: &str) -> Option<i32> {
    let long = word.ends_with('L');
    let digits = word.strip_suffix("LL").or_else(|| word.strip_suffix('L')).unwrap_or(word);
    if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let bits = u64::from_str_radix(digits, 16).unwrap_or(u64::MAX);
        // Cut off is what C does there.
        return Some(if long { i32::try_from(bits.cast_signed()).unwrap_or(0) } else { (bits as u32).cast_signed() });
    }
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(0))
}

/// The string at the beginning of `text`, and how many bytes it takes there.
fn string(text: &str) -> Option<(String, usize)> {
    let mut value = Vec::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((String::from_utf8_lossy(&value).into_owned(), at + 1)),
            '\\' => {
                let (at, escaped) = characters.next()?;
                let byte = text.get(at + 1..at + 3).filter(|_| escaped == 'x');
                match (escaped, byte.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
                    (_, Some(byte)) => {
                        value.push(byte);
                        characters.nth(1);
                    }
                    ('n', _) => value.push(b'\n'),
                    ('t', _) => value.push(b'\t'),
                    ('r', _) => value.push(b'\r'),
                    ('f', _) => value.push(b'\x0c'),
                    (other, _) => value.extend(other.to_string().bytes()),
                }
            }
            other => value.extend(other.to_string().bytes()),
        }
    }
    None
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<(Token, Place)>>,
    notices: Vec<Notice>,
    /// Where the first file ends.
    end: usize,
}

impl Parser {
    /// The settings up to the bracket that closes `open`, or to the end.
    fn settings(&mut self, open: Option<&Place>, depth: usize) -> Result<Vec<Setting>, Fault> {
        let mut settings = Vec::new();
        let mut names = BTreeSet::new();
        loop {
            let (name, place) = match (self.tokens.next(), open) {
                (None, None) => return Ok(settings),
                (None, Some(open)) => return Err(syntax(open, "a group begins here and is not closed")),
                (Some((Token::Mark('}'), _)), Some(_)) => return Ok(settings),
                (Some((Token::Name(name), place)), _) => (name, place),
                (Some((_, place)), _) => return Err(syntax(&place, "the name of a setting is expected here")),
            };
            if !names.insert(name.clone()) {
                return Err(syntax(&place, &format!("{} is given twice", clipped(&name))));
            }
            match self.tokens.next() {
                Some((Token::Mark('=' | ':'), _)) => {}
                Some((_, at)) => return Err(syntax(&at, &format!("\"=\" is expected after {}", clipped(&name)))),
                None => return Err(syntax(&place, "has no value")),
            }
            let (value, value_place) = self.value(depth)?;
            self.tokens.next_if(|(token, _)| matches!(token, Token::Mark(';' | ',')));
            settings.push(Setting { name, place, value, value_place });
        }
    }

    fn value(&mut self, depth: usize) -> Result<(Value, Place), Fault> {
        let Some((token, place)) = self.tokens.next() else {
            return Err(syntax(&Place { file: 0, span: self.end..self.end }, "a value is expected before the end"));
        };
        if depth >= DEEPEST {
            return Err(syntax(&place, &format!("groups and lists are more than {DEEPEST} deep")));
        }
        let value = match token {
            Token::Boolean(value) => Value::Boolean(value),
            Token::Integer(value) => Value::Integer(value),
            Token::Float => Value::Float,
            Token::Text(mut text) => {
                while let Some((Token::Text(more), _)) =
                    self.tokens.next_if(|(token, _)| matches!(token, Token::Text(_)))
                {
                    text.push_str(&more);
                }
                Value::Text(text)
            }
            Token::Name(word) | Token::Bare(word) => {
                let help = Some("it is read as if it had them".to_owned());
                let text = "a word without quotes, for which the C client refuses the whole file";
                self.notices.push(Notice { help, ..Notice::new(&place, text) });
                Value::Text(word)
            }
            Token::Mark('{') => Value::Group(self.settings(Some(&place), depth + 1)?),
            Token::Mark('(') => Value::List(self.elements(&place, ')', depth)?),
            Token::Mark('[') => {
                let elements = self.elements(&place, ']', depth)?;
                let first = elements.first().map(|(value, _)| value);
                let mixed = elements.iter().any(|(value, _)| Some(value.kind()) != first.map(Value::kind));
                if mixed || matches!(first, Some(Value::Array(_) | Value::List(_) | Value::Group(_))) {
                    return Err(syntax(&place, "an array takes values of one simple type"));
                }
                Value::Array(elements)
            }
            Token::Mark(_) => return Err(syntax(&place, "a value is expected here")),
        };
        Ok((value, place))
    }

    fn elements(&mut self, open: &Place, close: char, depth: usize) -> Result<Vec<(Value, Place)>, Fault> {
        let mut elements = Vec::new();
        loop {
            if self.tokens.next_if(|(token, _)| *token == Token::Mark(close)).is_some() {
                return Ok(elements);
            }
            if self.tokens.peek().is_none() {
                return Err(syntax(open, &format!("{close:?} is missing")));
            }
            elements.push(self.value(depth + 1)?);
            match self.tokens.next() {
                Some((Token::Mark(','), _)) => {}
                Some((Token::Mark(mark), _)) if mark == close => return Ok(elements),
                Some((_, place)) => return Err(syntax(&place, &format!("\",\" or {close:?} is expected here"))),
                None => return Err(syntax(open, &format!("{close:?} is missing"))),
            }
        }
    }
}
