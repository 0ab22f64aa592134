//! The file of `--config`: `long-name = value`, one a line, and `#` begins a comment. It says what the command line could say.

use super::UsageError;
use super::options::{Layer, OPTIONS, Opt};
use std::fs;
use std::path::Path;

/// Reads the file. What it must not say, and how it must not be written, is wrong usage.
pub fn read(path: &Path) -> Result<Layer, UsageError> {
    let text = fs::read_to_string(path).map_err(|source| UsageError::Unreadable {
        what: "--config",
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Layer, UsageError> {
    let mut layer = Layer::default();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        // Nothing of a line is repeated: it may be a token.
        let wrong = |why: String| UsageError::ConfigFile { path: path.to_owned(), line: number, why };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(wrong("is not `long-name = value`".to_owned()));
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(option) = OPTIONS.iter().find(|option| option.long == key) else {
            return Err(wrong(unknown(key)));
        };
        if !option.in_file {
            return Err(wrong(format!("says {key}, and only the command line can")));
        }
        let value = if option.value.is_none() {
            let Some(on) = switch(value) else { return Err(wrong(format!("says {key}, which is true or false"))) };
            if !on {
                continue;
            }
            "true"
        } else {
            value
        };
        if !layer.say(option, value) {
            return Err(wrong(format!("says {key} a second time")));
        }
    }
    Ok(layer)
}

/// The key may be half a token, so it is repeated only where it looks like the name of an option.
fn unknown(key: &str) -> String {
    let near = |option: &&Opt| strsim::damerau_levenshtein(option.long, key) <= 3;
    match OPTIONS.iter().filter(|option| option.in_file).find(near) {
        Some(option) => format!("has a key that is no option; did you mean {}?", option.long),
        None => "has a key that is no option; the keys are the long names of --help".to_owned(),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        parse(Path::new("x.conf"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_says_what_the_command_line_could_say() {
        let text = "# a comment\n\nregion = eu-west-1   # here\naccess-token=a=b\n  verbose = 6\nno-ssl-host-verify = true\n\
                    destination-app = SSH=22,web=[::1]:80\n";
        let layer = parse(Path::new("x.conf"), text).unwrap();
        for (key, value) in [
            ("region", "eu-west-1"),
            ("access-token", "a=b"),
            ("verbose", "6"),
            ("no-ssl-host-verify", "true"),
            ("destination-app", "SSH=22,web=[::1]:80"),
        ] {
            assert_eq!(layer.get(key), Some(value));
        }
        let off = parse(Path::new("x.conf"), "no-ssl-host-verify = false\n").unwrap();
        assert_eq!(off.get("no-ssl-host-verify"), None);
    }

    #[test]
    fn what_it_must_not_say_is_told_with_its_line_and_without_its_value() {
        for (text, why) in [
            ("\nregoin = s3cret", "x.conf:2: has a key that is no option; did you mean region?"),
            ("s3cret = 1", "no option; the keys are"),
            ("[section]", "is not `long-name = value`"),
            ("access-token s3cret", "is not `long-name = value`"),
            ("config = s3cret", "only the command line can"),
            ("no-ssl-host-verify = s3cret", "true or false"),
            ("region = a\nregion = s3cret", "x.conf:2: says region a second time"),
        ] {
            let said = told(text);
            assert!(said.contains(why) && !said.contains("s3cret"), "{text}: {said}");
        }
        let missing = read(Path::new("/nonexistent/x.conf")).unwrap_err().to_string();
        assert!(missing.contains("--config") && missing.contains("/nonexistent/x.conf"), "{missing}");
    }
}
