//! From what is asked for to the tunnel that the sessions take: the same value that the daemon makes of a tunnel file.

use super::LocalproxyError;
use super::request::{self, Given, Request};
use super::settings::Settings;
use crate::config::mappings;
use crate::config::{Aws, Host, Kind, Lockdown, Mode, Place, Remote, Route, Services, Tpm, Tunnel, Wire};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What the log calls it.
const NAME: &str = "localproxy";
/// Where port mapping files are looked for unless it is said.
const MAPPINGS: &str = "config";
/// How long an answer to a ping may take.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP, TLS and WebSocket handshake, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a session runs by.
pub fn tunnel(request: &Request, settings: &Settings, host: Host, services: Services) -> (Tunnel, Aws) {
    let usual = (request.mode == Mode::Source).then(|| settings.bind.clone());
    let aws = Aws {
        mode: request.mode,
        services,
        bind: request.bind.clone().or(usual),
        compat: request.compat,
        subprotocol: settings.subprotocol,
        token_file: None,
        client_token_file: None,
        verify: request.verify,
        limits: settings.limits,
    };
    let remote = Remote {
        name: Some(host.host.clone()),
        hosts: vec![host],
        ca_cert_file: request.capath.clone().map(Place::File),
        heartbeat_period: settings.ping_period,
        heartbeat_timeout: PONG_TIMEOUT,
        connect_timeout: CONNECT_TIMEOUT,
        congestion_control: None,
        wire: Wire::default(),
    };
    // No mark: it takes a capability, and there is no lockdown that it would have to pass.
    let route = Route {
        prefixes: Vec::new(),
        fwmark: 0,
        fwmark_mask: u32::MAX,
        table: 0,
        trusted_interfaces: Vec::new(),
        trusted_groups: Vec::new(),
        allow_ipv4: true,
        lockdown: Lockdown::Off,
    };
    let tunnel = Tunnel {
        name: NAME.to_owned(),
        autoconnect: true,
        kind: Kind::Aws(Box::new(aws.clone())),
        remote,
        route,
        retry: settings.retry(),
        tpm: Tpm::default(),
    };
    (tunnel, aws)
}

/// What is at this end of each service, from the command line or from the port mapping files below `here`; and what there is
/// to warn of.
pub fn services(request: &Request, here: &Path) -> Result<(Services, Vec<String>), LocalproxyError> {
    match &request.services {
        Given::Only(application) => return Ok((Services::Only(application.clone()), Vec::new())),
        Given::Named(services) => return Ok((Services::Named(services.clone()), Vec::new())),
        Given::Nothing => {}
    }
    let usual = here.join(MAPPINGS);
    let directory = request.config_dir.clone().or_else(|| mappings::is_filled(&usual).then_some(usual));
    let read = match &directory {
        Some(directory) => mappings::read(directory)?,
        None => mappings::Mappings::default(),
    };
    let mut warnings = read.warnings;
    let mut services = BTreeMap::new();
    for (service, mapping) in read.services {
        let judged = request::service(&service).and_then(|()| request::application(&mapping.target, request.mode));
        match judged {
            Ok(application) => {
                services.insert(service, application);
            }
            Err(why) => warnings.push(format!("{}:{}: left out: {why}", mapping.file.display(), mapping.line)),
        }
    }
    if services.is_empty() && request.mode == Mode::Destination {
        return Err(LocalproxyError::NoTargets { directory });
    }
    Ok((Services::Among(services), warnings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Application;
    use crate::localproxy::options::{Layer, Layers, command, named};

    fn request(words: &str) -> Request {
        let words = std::iter::once("enftun-localproxy").chain(words.split_whitespace());
        let mut environment = Layer::default();
        environment.say(named("access-token").unwrap(), "access");
        environment.say(named("region").unwrap(), "eu-west-1");
        let command_line = Layer::of_command_line(&command().try_get_matches_from(words).unwrap());
        Request::new(&Layers { command_line, environment, ..Layers::default() }).unwrap()
    }

    fn tcp(host: Option<&str>, port: u16) -> Application {
        Application::Tcp { host: host.map(str::to_owned), port }
    }

    #[test]
    fn files_are_asked_only_where_the_command_line_says_no_port_or_target() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir(here.path().join("config")).unwrap();
        let of = |words: &str| services(&request(words), here.path());
        // An empty directory is as none.
        assert_eq!(of("-m src").unwrap(), (Services::Among(BTreeMap::new()), Vec::new()));
        let error = of("-m dst").unwrap_err().to_string();
        assert!(error.contains("--destination-app"), "{error}");
        std::fs::write(here.path().join("config/one"), "SSH=22\nvnc=nonsense\n").unwrap();
        std::fs::write(here.path().join("config/two"), "web=80\n").unwrap();
        let both = BTreeMap::from([("SSH".to_owned(), tcp(None, 22)), ("web".to_owned(), tcp(None, 80))]);
        let (services, warnings) = of("-m dst").unwrap();
        assert_eq!(services, Services::Among(both));
        assert!(warnings.len() == 1 && warnings[0].contains("config/one:2: left out"), "{warnings:?}");
        assert_eq!(of("-d 1").unwrap().0, Services::Only(tcp(None, 1)));
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("x"), "SSH=localhost:2222\n").unwrap();
        let named = of(&format!("-m dst --config-dir {}", elsewhere.path().display())).unwrap().0;
        assert_eq!(named, Services::Among([("SSH".to_owned(), tcp(Some("localhost"), 2222))].into()));
        assert!(of("-m src --config-dir /nonexistent").unwrap_err().to_string().contains("/nonexistent"));
    }

    #[test]
    fn a_source_listens_on_localhost_and_a_destination_dials_from_anywhere_unless_it_is_said() {
        let of = |words: &str, settings: &Settings| {
            let host = Host::direct("example.net", 443);
            tunnel(&request(words), settings, host, Services::Among(BTreeMap::new())).1.bind
        };
        let usual = Settings::default();
        assert_eq!(of("-s 1", &usual).as_deref(), Some("localhost"));
        assert_eq!(of("-d 1", &usual), None);
        assert_eq!(of("-s 1 -b ::", &usual).as_deref(), Some("::"));
        assert_eq!(of("-d 1 -b 127.0.0.2", &usual).as_deref(), Some("127.0.0.2"));
        let other = Settings { bind: "127.0.0.3".to_owned(), ..usual };
        assert_eq!(of("-s 1", &other).as_deref(), Some("127.0.0.3"));
    }

    #[test]
    fn options_and_settings_reach_the_tunnel() {
        let settings = Settings { ping_period: Duration::from_secs(5), ..Settings::default() };
        let host = Host::direct("::1", 8443);
        let (tunnel, aws) = tunnel(&request("-s 1 -k -y V1 -c /certs"), &settings, host, Services::Only(tcp(None, 1)));
        assert!(!aws.verify && aws.compat == crate::config::Compat::V1 && aws.limits == settings.limits);
        assert_eq!(tunnel.remote.ca_cert_file, Some(Place::File("/certs".into())));
        assert_eq!((tunnel.remote.name.as_deref(), tunnel.remote.hosts[0].port), (Some("::1"), 8443));
        assert_eq!((tunnel.remote.heartbeat_period, tunnel.route.fwmark), (Duration::from_secs(5), 0));
    }
}
