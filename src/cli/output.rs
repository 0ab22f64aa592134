//! Everything that goes to stdout: lines for people, and JSON with its version. `docs/json.md` describes the latter.

use super::CliError;
use crate::terminal::{Colour, Span, Terminal};
use serde::Serialize;
use std::io::Write;
use std::sync::OnceLock;

pub use crate::terminal::clean;

/// The version of every JSON document. It changes when a reader of the old one would be misled; additions leave it.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

static COLOUR: OnceLock<Colour> = OnceLock::new();

/// Says once, before anything is printed, whether there shall be colour.
pub fn set_colour(colour: Colour) {
    let _ = COLOUR.set(colour);
}

fn terminal() -> Terminal {
    Terminal::of_stdout(COLOUR.get().copied().unwrap_or_default())
}

/// Prints one line, at once: whoever follows the output must not wait for a buffer.
pub fn line(text: &str) -> Result<(), CliError> {
    print(&clean(text))
}

/// Prints one line of several tones.
pub fn spans(spans: &[Span]) -> Result<(), CliError> {
    print(&terminal().show(spans))
}

fn print(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Prints a JSON document over several lines.
pub fn json(body: &impl Serialize) -> Result<(), CliError> {
    document(&Document { version: JSON_VERSION, body })
}

/// The same for a document that has its version already.
pub fn document(document: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(document).map_err(|error| CliError::Output(error.into()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(CliError::Output)
}

/// Prints a JSON document on a line of its own.
pub fn json_line(body: &impl Serialize) -> Result<(), CliError> {
    let document = Document { version: JSON_VERSION, body };
    line(&serde_json::to_string(&document).map_err(|error| CliError::Output(error.into()))?)
}

/// Prints what is a text of its own, such as a file, as it is.
pub fn text(text: &str) -> Result<(), CliError> {
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::Output)
}

/// Prints a table, a line at a time.
pub fn table<const N: usize, T: Into<Span>>(header: [&str; N], rows: Vec<[T; N]>) -> Result<(), CliError> {
    let rows = rows.into_iter().map(|row| row.map(Into::into)).collect();
    terminal().table(header, rows).iter().try_for_each(|row| print(row))
}
