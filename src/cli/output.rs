//! Everything that goes to stdout: lines for people, and JSON with its version. `docs/json.md` describes the latter.

use super::CliError;
use serde::Serialize;
use std::io::Write;

/// The version of every JSON document. It changes when a reader of the old one would be misled; additions leave it.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints one line, at once: whoever follows the output must not wait for a buffer.
pub fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", clean(text)).and_then(|()| out.flush()).map_err(CliError::Output)
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

/// Without control characters: some texts come from the far end, and must not steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Prints what is a text of its own, such as a file, as it is.
pub fn text(text: &str) -> Result<(), CliError> {
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::Output)
}

/// A table without borders and without colour, for people and for `awk`.
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Result<(), CliError> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for row in table.lines() {
        line(row.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_end_cannot_steer_the_terminal() {
        assert_eq!(clean("CN=\u{1b}[2Jrouter\r\n"), "CN=\u{fffd}[2Jrouter\u{fffd}\u{fffd}");
        assert_eq!(clean("grün"), "grün");
    }
}
