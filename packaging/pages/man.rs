//! The manual pages. Each is a text of man(7) macros beside this file, in which lines of the form `@WORD@` stand for what the
//! program knows itself: its version, its options and its verbs, from the definitions that read the command line.

use clap::{Arg, Command};
use enftun::identity::{BUILD_EPOCH, day};
use roff::{Inline, Roff, bold, italic, roman};
use std::iter;

/// Name, section and text.
const PAGES: [(&str, &str, &str); 8] = [
    ("enftun-applet", "1", include_str!("enftun-applet.1")),
    ("enftun-localproxy", "1", include_str!("enftun-localproxy.1")),
    ("enftunctl", "1", include_str!("enftunctl.1")),
    ("enftun.toml", "5", include_str!("enftun.toml.5")),
    ("enftun-router.toml", "5", include_str!("enftun-router.toml.5")),
    ("enftun", "7", include_str!("enftun.7")),
    ("enftund", "8", include_str!("enftund.8")),
    ("enftun-router", "8", include_str!("enftun-router.8")),
];

/// The programs that have a command line, by name.
pub fn programs() -> [(&'static str, Command); 4] {
    [
        ("enftunctl", enftun::cli::command()),
        ("enftund", enftun::daemon::arguments::command()),
        ("enftun-router", enftun::router::cli::command()),
        ("enftun-localproxy", enftun::localproxy::command()),
    ]
}

/// File names and their content.
pub fn pages() -> Vec<(String, String)> {
    let programs = programs();
    let page = |(name, section, text): &(&str, &str, &str)| {
        let program = programs.iter().find(|(program, _)| program == name).map(|(_, command)| command);
        (format!("{name}.{section}"), fill(name, section, text, program))
    };
    PAGES.iter().map(page).collect()
}

fn fill(name: &str, section: &str, text: &str, program: Option<&Command>) -> String {
    let mut page = String::new();
    for line in text.lines() {
        match (line, program) {
            ("@TITLE@", _) => page.push_str(&title(name, section)),
            ("@OPTIONS@", Some(program)) => page.push_str(&rendered(|roff| arguments_of(program, roff))),
            ("@VERBS@", Some(program)) => page.push_str(&rendered(|roff| verbs(program, "", roff))),
            _ => {
                page.push_str(line);
                page.push('\n');
            }
        }
    }
    page
}

fn rendered(write: impl FnOnce(&mut Roff)) -> String {
    let mut roff = Roff::new();
    write(&mut roff);
    roff.to_roff()
}

fn title(name: &str, section: &str) -> String {
    let version = format!("enftun {}", env!("CARGO_PKG_VERSION"));
    Roff::new().control("TH", [&name.to_uppercase(), section, &day(BUILD_EPOCH), &version, "enftun"]).to_roff()
}

/// Each verb with its arguments under a heading of its own; `before` is the verb that these belong to.
fn verbs(command: &Command, before: &str, roff: &mut Roff) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{before}{}", verb.get_name());
        if verb.has_subcommands() {
            verbs(verb, &format!("{name} "), roff);
            continue;
        }
        // What holds for every verb stands under OPTIONS.
        let verb = verb.clone().disable_help_flag(true);
        let usage = verb.clone().render_usage().to_string();
        let arguments = usage.trim_start_matches("Usage: ").trim_start_matches(verb.get_name()).replace(['<', '>'], "");
        roff.control("SS", [format!("{name}{arguments}").as_str()]);
        let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
        let also = verb.get_visible_aliases().flat_map(|alias| [roman(" Also called "), bold(alias), roman(".")]);
        roff.text(iter::once(roman(sentence(&about))).chain(also).collect::<Vec<_>>());
        arguments_of(&verb, roff);
    }
}

/// The positional arguments in their order, and then the options.
fn arguments_of(command: &Command, roff: &mut Roff) {
    let mut command = command.clone();
    command.build();
    let (positional, options): (Vec<_>, Vec<_>) = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .partition(|argument| argument.is_positional());
    for argument in positional.into_iter().chain(options) {
        roff.control("TP", []);
        roff.text(tag(argument));
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let mut text = vec![roman(sentence(&help))];
        let words = argument.get_possible_values();
        if argument.get_action().takes_values() && !words.is_empty() {
            let words: Vec<&str> = words.iter().map(|word| word.get_name()).collect();
            text.push(roman(format!(" One of: {}.", words.join(", "))));
        }
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if argument.get_action().takes_values() && !defaults.is_empty() {
            text.extend([roman(" Default: "), bold(defaults.join(", ")), roman(".")]);
        }
        roff.text(text);
    }
}

/// How an argument is written: `-h, --help`, `--wait[=TIMEOUT]`, `NAME`.
fn tag(argument: &Arg) -> Vec<Inline> {
    let values = argument.get_value_names().unwrap_or_default().join(" ");
    if argument.is_positional() {
        return vec![italic(values)];
    }
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut tag = vec![bold(short.into_iter().chain(long).collect::<Vec<_>>().join(", "))];
    if argument.get_action().takes_values() {
        let optional = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
        let (before, after) = match (optional, argument.is_require_equals_set()) {
            (true, _) => ("[=", "]"),
            (false, true) => ("=", ""),
            (false, false) => (" ", ""),
        };
        tag.extend([roman(before), italic(values), roman(after)]);
    }
    tag
}

/// clap takes the full stop off the end of a one-line help.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}
