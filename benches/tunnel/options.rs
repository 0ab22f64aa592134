//! The command line.

use crate::measure::What;
use crate::peers::Kind;
use std::path::PathBuf;
use std::time::Duration;

pub struct Options {
    pub rounds: usize,
    /// Of a TCP transfer.
    pub time: Duration,
    pub only: Vec<Kind>,
    pub what: Vec<What>,
    pub json: Option<PathBuf>,
    /// Keeps the tunnels up, and runs this command.
    pub keep: Option<String>,
    /// Writes docs/performance.md and the picture.
    pub docs: bool,
}

impl Options {
    pub fn of_command_line() -> Self {
        let mut options = Self {
            rounds: 5,
            time: Duration::from_secs(3),
            only: Kind::ALL.to_vec(),
            what: What::ALL.to_vec(),
            json: None,
            keep: None,
            docs: false,
        };
        let mut docs = None;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| fail(&format!("{argument} takes a value")));
            match argument.as_str() {
                "--rounds" => options.rounds = number(&argument, &value()),
                "--seconds" => options.time = Duration::from_secs(number(&argument, &value()) as u64),
                "--json" => options.json = Some(value().into()),
                "--only" => options.only = words(&value(), &Kind::ALL, |kind| kind.key()),
                "--what" => options.what = words(&value(), &What::ALL, |what| what.key()),
                "--keep" => options.keep = Some(value()),
                "--docs" => docs = Some(true),
                "--no-docs" => docs = Some(false),
                // What cargo adds.
                "--bench" => {}
                other => fail(&format!("there is no {other}")),
            }
        }
        // A figure that is published is a median of several, of everything, and of a release build.
        let whole =
            options.rounds >= 5 && options.only.len() == Kind::ALL.len() && options.what.len() == What::ALL.len();
        options.docs = docs.unwrap_or(whole);
        options
    }
}

fn number(option: &str, text: &str) -> usize {
    match text.parse() {
        Ok(number) if number > 0 => number,
        _ => fail(&format!("{option} takes a number, not {text:?}")),
    }
}

fn words<T: Copy>(text: &str, all: &[T], key: impl Fn(T) -> &'static str) -> Vec<T> {
    let find = |word: &str| {
        let there = || all.iter().map(|one| key(*one)).collect::<Vec<_>>().join(",");
        let found = all.iter().copied().find(|one| key(*one) == word.replace('-', "_"));
        found.unwrap_or_else(|| fail(&format!("there is no {word:?}; there are {}", there())))
    };
    text.split(',').map(find).collect()
}

fn fail(message: &str) -> ! {
    eprintln!("benches/run tunnel: {message}");
    std::process::exit(2)
}
