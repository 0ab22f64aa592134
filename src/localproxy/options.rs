//! The options: which there are, by what names, and who says what. One table makes the command line, the keys of the
//! configuration file and the variables of the environment; what the values mean, [`super::request`] knows.

use super::UsageError;
use clap::{Arg, ArgAction, Command};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// One option.
pub struct Opt {
    /// On the command line after two dashes, and in the configuration file.
    pub long: &'static str,
    /// On the command line after one dash.
    pub short: Option<char>,
    /// What stands for its value in the help; none: it is a switch.
    pub value: Option<&'static str>,
    /// The variable of the environment that says the same.
    pub variable: Option<&'static str>,
    /// It may stand in the configuration file.
    pub in_file: bool,
    help: &'static str,
}

const fn option(
    long: &'static str,
    short: Option<char>,
    value: Option<&'static str>,
    variable: Option<&'static str>,
    help: &'static str,
) -> Opt {
    Opt { long, short, value, variable, in_file: true, help }
}

const fn only_typed(long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { in_file: false, ..option(long, None, Some(value), None, help) }
}

/// Every option but `--help` and `--version`.
pub const OPTIONS: [Opt; 16] = [
    option(
        "access-token",
        Some('t'),
        Some("TOKEN"),
        Some("AWSIOT_TUNNEL_ACCESS_TOKEN"),
        "Client access token; others can read a command line, so let the variable AWSIOT_TUNNEL_ACCESS_TOKEN or --config \
         say it",
    ),
    option(
        "client-token",
        Some('i'),
        Some("TOKEN"),
        Some("AWSIOT_TUNNEL_CLIENT_TOKEN"),
        "Optional client token, with which the same access token may connect again; 32 to 128 letters, digits and -; or \
         AWSIOT_TUNNEL_CLIENT_TOKEN",
    ),
    option(
        "proxy-endpoint",
        Some('e'),
        Some("HOST[:PORT]"),
        Some("AWSIOT_TUNNEL_ENDPOINT"),
        "Endpoint of the service, port 443 unless it is said, instead of a region; or AWSIOT_TUNNEL_ENDPOINT",
    ),
    option(
        "region",
        Some('r'),
        Some("REGION"),
        Some("AWSIOT_TUNNEL_REGION"),
        "Region of the service, instead of an endpoint; or AWSIOT_TUNNEL_REGION",
    ),
    option(
        "source-listen-port",
        Some('s'),
        Some("PORTS"),
        None,
        "Source mode: the port to listen on, or SERVICE=PORT,… for each service; a path with a / in it is a Unix socket",
    ),
    option(
        "destination-app",
        Some('d'),
        Some("TARGETS"),
        None,
        "Destination mode: the application to connect to, as PORT, HOST:PORT or a path with a / in it, or SERVICE=TARGET,… \
         for each service",
    ),
    option(
        "local-bind-address",
        Some('b'),
        Some("ADDRESS"),
        None,
        "Source: the address to listen on. Destination: the address to connect from, and the host of targets that are only \
         a port",
    ),
    option(
        "capath",
        Some('c'),
        Some("DIR"),
        None,
        "Directory of further CA certificates (PEM), which are trusted beside the system's",
    ),
    option(
        "no-ssl-host-verify",
        Some('k'),
        None,
        None,
        "Turns off all checks of certificates: whoever is on the way can read and change everything",
    ),
    only_typed("export-default-settings", "FILE", "Writes the default settings to a file as JSON, and ends"),
    option(
        "settings-json",
        None,
        Some("FILE"),
        None,
        "Reads the settings of this file; --export-default-settings makes one",
    ),
    only_typed("config", "FILE", "Reads options from this file: one `long-name = value` a line"),
    option(
        "verbose",
        Some('v'),
        Some("LEVEL"),
        None,
        "How much is logged: 0 off, 1 fatal, 2 error, 3 warning, 4 info, 5 debug, 6 and more trace; 4 unless it is said",
    ),
    option(
        "mode",
        Some('m'),
        Some("MODE"),
        None,
        "src, source, dst or destination; -s and -d say it too. Without them, ports and targets come from the files of \
         --config-dir",
    ),
    option(
        "destination-client-type",
        Some('y'),
        Some("VERSION"),
        None,
        "Source: the version of the protocol that the destination speaks, V1 or V2; V3 unless it is said",
    ),
    option(
        "config-dir",
        None,
        Some("DIR"),
        None,
        "Directory of port mapping files, SERVICE=PORT or SERVICE=TARGET a line; ./config if it is there, unless it is said",
    ),
];

/// The option of this long name.
pub fn named(long: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.long == long)
}

/// The command line as a value: what the manual page and the completions are made of.
pub fn command() -> Command {
    let options = OPTIONS.iter().map(|option| {
        let argument = Arg::new(option.long).long(option.long).help(option.help);
        let argument = match option.short {
            Some(short) => argument.short(short),
            None => argument,
        };
        match option.value {
            Some(name) => argument.value_name(name).action(ArgAction::Set),
            None => argument.action(ArgAction::SetTrue),
        }
    });
    Command::new("enftun-localproxy")
        .version(env!("CARGO_PKG_VERSION"))
        .about("AWS IoT Secure Tunneling local proxy: one end of a tunnel, as source or as destination, without a daemon")
        .args(options)
        .mut_arg("export-default-settings", |argument| argument.visible_alias("export-settings-json"))
        .infer_long_args(true)
        .after_help(
            "One of -r and -e is needed, and one of -s, -d and -m. What the command line says holds before --config, and that \
             before the environment.\n\nExit codes: 0 the tunnel was closed, or a signal ended it; 1 failed; 2 wrong usage; 4 \
             the access token was rejected; 7 cannot listen; 78 configuration errors.",
        )
}

/// Where something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    CommandLine,
    /// The file of `--config`.
    File,
    /// The environment.
    Environment,
}

/// What one place says, by long name. It is never shown: there are tokens in it.
#[derive(Clone, Default)]
pub struct Layer(BTreeMap<&'static str, Zeroizing<String>>);

impl Layer {
    /// Adds what is said; false: that was said already.
    pub fn say(&mut self, option: &'static Opt, value: impl Into<String>) -> bool {
        self.0.insert(option.long, Zeroizing::new(value.into())).is_none()
    }

    /// What is said of an option.
    pub fn get(&self, long: &str) -> Option<&str> {
        self.0.get(long).map(|value| value.as_str())
    }

    /// What a command line says.
    pub fn of_command_line(matches: &clap::ArgMatches) -> Self {
        let mut layer = Self::default();
        for option in &OPTIONS {
            match option.value {
                Some(_) => {
                    if let Some(value) = matches.get_one::<String>(option.long) {
                        layer.say(option, value);
                    }
                }
                None if matches.get_flag(option.long) => {
                    layer.say(option, "true");
                }
                None => {}
            }
        }
        layer
    }

    /// What the environment says. A variable without a value says nothing.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut layer = Self::default();
        for option in &OPTIONS {
            let said = option.variable.and_then(variable).filter(|value| !value.is_empty());
            if let Some(value) = said {
                layer.say(option, value);
            }
        }
        layer
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Everything that is said, and who comes first.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The command line.
    pub command_line: Layer,
    /// The file of `--config`.
    pub file: Layer,
    /// Its path.
    pub file_path: Option<PathBuf>,
    /// The environment.
    pub environment: Layer,
}

/// What holds of an option, and where it was said.
#[derive(Clone, Copy)]
pub struct Said<'a> {
    /// The value.
    pub value: &'a str,
    /// Where.
    pub origin: Origin,
    long: &'static str,
    file: Option<&'a Path>,
}

impl Said<'_> {
    /// The option as it was written there: `--region`, `region in FILE`, `AWSIOT_TUNNEL_REGION`.
    pub fn name(&self) -> String {
        match self.origin {
            Origin::CommandLine => format!("--{}", self.long),
            Origin::File => {
                format!("{} in {}", self.long, self.file.map(|path| path.display().to_string()).unwrap_or_default())
            }
            Origin::Environment => named(self.long).and_then(|option| option.variable).unwrap_or_default().to_owned(),
        }
    }

    /// It is wrong. `why` must not repeat a token.
    pub fn wrong(&self, why: impl Into<String>) -> UsageError {
        UsageError::Wrong { option: self.name(), why: why.into() }
    }
}

impl Layers {
    /// What holds of an option.
    pub fn get(&self, long: &'static str) -> Option<Said<'_>> {
        let file = self.file_path.as_deref();
        let layers = [
            (&self.command_line, Origin::CommandLine),
            (&self.file, Origin::File),
            (&self.environment, Origin::Environment),
        ];
        layers.into_iter().find_map(|(layer, origin)| Some(Said { value: layer.get(long)?, origin, long, file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Layer {
        let words = std::iter::once("enftun-localproxy").chain(words.iter().copied());
        Layer::of_command_line(&command().try_get_matches_from(words).unwrap())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_is_taken_by_its_long_and_its_short_name() {
        for option in &OPTIONS {
            let mut ways = vec![vec![format!("--{}", option.long)]];
            ways.extend(option.short.map(|short| vec![format!("-{short}")]));
            for mut way in ways {
                way.extend(option.value.map(|_| "value".to_owned()));
                let words: Vec<&str> = way.iter().map(String::as_str).collect();
                let expected = if option.value.is_some() { "value" } else { "true" };
                assert_eq!(typed(&words).get(option.long), Some(expected), "{words:?}");
            }
        }
        assert_eq!(typed(&["--export-settings-json", "x"]).get("export-default-settings"), Some("x"));
        assert_eq!(typed(&["-s5555", "--region=eu-west-1"]).get("source-listen-port"), Some("5555"));
        assert_eq!(typed(&["--source", "22"]).get("source-listen-port"), Some("22"), "an abbreviation");
    }

    #[test]
    fn what_is_typed_holds_before_the_file_and_that_before_the_environment() {
        let all = |long: &str| {
            let option = named(long).unwrap();
            let variable = |name: &str| option.variable.filter(|own| *own == name).map(|_| "environment".to_owned());
            let mut file = Layer::default();
            file.say(option, "file");
            let words = [format!("--{long}"), "typed".to_owned()];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Layers {
                command_line: typed(&words),
                file,
                file_path: Some("x.conf".into()),
                environment: Layer::of_environment(&variable),
            }
        };
        for option in OPTIONS.iter().filter(|option| option.variable.is_some()) {
            let mut layers = all(option.long);
            for (value, origin, name) in [
                ("typed", Origin::CommandLine, format!("--{}", option.long)),
                ("file", Origin::File, format!("{} in x.conf", option.long)),
                ("environment", Origin::Environment, option.variable.unwrap().to_owned()),
            ] {
                let said = layers.get(option.long).unwrap();
                assert_eq!((said.value, said.origin, said.name()), (value, origin, name));
                match origin {
                    Origin::CommandLine => layers.command_line = Layer::default(),
                    Origin::File => layers.file = Layer::default(),
                    Origin::Environment => layers.environment = Layer::default(),
                }
            }
            assert!(layers.get(option.long).is_none());
        }
        assert!(Layer::of_environment(&|_| Some(String::new())).0.is_empty(), "an empty variable says nothing");
    }

    #[test]
    fn no_layer_shows_a_token() {
        let layers = Layers { command_line: typed(&["-t", "s3cret", "-i", "s3cret"]), ..Layers::default() };
        let shown = format!("{layers:?}");
        assert!(shown.contains("access-token") && !shown.contains("s3cret"), "{shown}");
    }
}
