//! What text for people looks like: colour where a terminal shows it, and tables that fit. Whoever reads through a pipe gets
//! every column and no escape sequence.

pub mod password;

use std::fmt;
use std::io::IsTerminal;

/// When there is colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a word means to whoever looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// As it shall be.
    Good,
    /// On its way, or worth a look.
    Notice,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
    /// Not what matters.
    Faint,
}

impl Tone {
    /// Of a tunnel's state, or the daemon's.
    pub fn of_state(state: &str) -> Self {
        match state {
            "connected" => Self::Good,
            "connecting" | "reconnecting" | "disconnecting" | "degraded" => Self::Notice,
            "error" => Self::Bad,
            _ => Self::Plain,
        }
    }

    /// Of a finding or a warning.
    pub fn of_severity(severity: &str) -> Self {
        match severity {
            "error" => Self::Bad,
            "warning" => Self::Notice,
            _ => Self::Plain,
        }
    }

    /// SGR parameters, of the 16 colours that every terminal has and lets its user choose.
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Notice => Some("33"),
            Self::Bad => Some("31"),
            Self::Strong => Some("1"),
            Self::Faint => Some("2"),
        }
    }
}

/// Some text in one tone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The tone.
    pub tone: Tone,
    /// The text.
    pub text: String,
}

impl Span {
    /// Text in a tone.
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }

    /// The word for a state in its tone.
    pub fn state(state: &str) -> Self {
        Self::new(Tone::of_state(state), state)
    }
}

impl<T: Into<String>> From<T> for Span {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// What stdout can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Escape sequences are understood.
    pub colour: bool,
    /// Characters a line; none where lines may be as long as they like.
    pub width: Option<usize>,
}

impl Terminal {
    /// That of this process.
    pub fn of_stdout(colour: Colour) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
        let colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb"),
        };
        let size = is_terminal.then(|| terminal_size::terminal_size_of(stdout)).flatten();
        Self { colour, width: size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0) }
    }

    /// One span after the other. Control characters are replaced: some texts come from the far end, and must not steer the
    /// terminal.
    pub fn show(&self, spans: &[Span]) -> String {
        spans.iter().map(|span| self.paint(span.tone, &clean(&span.text))).collect()
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        match tone.sgr().filter(|_| self.colour && !text.is_empty()) {
            Some(sgr) => format!("\u{1b}[{sgr}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }

    /// A table without borders, for people and for `awk`, a string a line. Columns that do not fit on the terminal are left
    /// out from the right, so what matters most comes first; the first column stays in any case.
    pub fn table<const N: usize>(&self, header: [&str; N], rows: Vec<[Span; N]>) -> Vec<String> {
        let header = header.map(|text| Span::new(Tone::Strong, text));
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        let length = |span: &Span| span.text.chars().count();
        let mut widths = [0; N];
        for row in &rows {
            widths.iter_mut().zip(row).for_each(|(width, span)| *width = length(span).max(*width));
        }
        let mut columns = N;
        while columns > 1 && self.width.is_some_and(|width| total(widths.iter().take(columns)) > width) {
            columns -= 1;
        }
        let line = |row: [Span; N]| {
            let mut text = String::new();
            for (at, (span, width)) in row.into_iter().zip(widths).take(columns).enumerate() {
                let gap = if at + 1 < columns { width + GAP - length(&span) } else { 0 };
                text += &self.show(&[span, " ".repeat(gap).into()]);
            }
            text.trim_end().to_owned()
        };
        rows.into_iter().map(line).collect()
    }
}

/// Between two columns.
const GAP: usize = 2;

fn total<'a>(widths: impl ExactSizeIterator<Item = &'a usize>) -> usize {
    let gaps = GAP * widths.len().saturating_sub(1);
    widths.sum::<usize>() + gaps
}

/// Without control characters.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<[Span; 3]> {
        vec![
            ["enf0".into(), Span::state("connected"), "fd00::1/128".into()],
            ["a-long-name".into(), Span::state("error"), "".into()],
        ]
    }

    #[test]
    fn a_far_end_cannot_steer_the_terminal() {
        let terminal = Terminal { colour: true, width: None };
        assert_eq!(terminal.show(&["CN=\u{1b}[2Jrouter\r\n".into()]), "CN=\u{fffd}[2Jrouter\u{fffd}\u{fffd}");
        assert_eq!(terminal.show(&[Span::new(Tone::Bad, "\u{9b}2J")]), "\u{1b}[31m\u{fffd}2J\u{1b}[0m");
        assert_eq!(clean("grün"), "grün");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let plain = Terminal::default().table(["NAME", "STATE", "ADDRESS"], rows());
        assert_eq!(
            plain,
            ["NAME         STATE      ADDRESS", "enf0         connected  fd00::1/128", "a-long-name  error"]
        );
        let painted = Terminal { colour: true, width: None }.table(["NAME", "STATE", "ADDRESS"], rows());
        assert!(painted.iter().all(|line| line.contains('\u{1b}')), "{painted:?}");
        let codes = ["32", "31", "1", "0"].map(|sgr| format!("\u{1b}[{sgr}m"));
        let stripped = painted.iter().map(|line| codes.iter().fold(line.clone(), |line, code| line.replace(code, "")));
        assert_eq!(stripped.collect::<Vec<_>>(), plain);
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_right() {
        let of_width = |width| {
            let lines = Terminal { colour: false, width: Some(width) }.table(["NAME", "STATE", "ADDRESS"], rows());
            lines.first().cloned().unwrap_or_default()
        };
        assert_eq!(of_width(35), "NAME         STATE      ADDRESS");
        assert_eq!(of_width(34), "NAME         STATE");
        assert_eq!(of_width(22), "NAME         STATE");
        assert_eq!(of_width(21), "NAME");
        assert_eq!(of_width(1), "NAME");
    }
}
