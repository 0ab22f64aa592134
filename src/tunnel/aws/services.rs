//! What this end serves, once the tunnel has said which services it has. The tunnel is right; a mapping that does not fit it is an
//! error that says how it does not.

use crate::config::{Application, Aws, Compat, Mode, Services, Subprotocol};
use crate::error::Class;
use crate::state::{Failure, Reason};
use std::collections::{BTreeMap, BTreeSet};

/// Where each service of the tunnel is at this end, by its name on the wire. A tunnel without names has one service, whose
/// name is empty.
pub fn judge(aws: &Aws, tunnel: &[String]) -> Result<BTreeMap<String, Application>, Failure> {
    let names: BTreeSet<&str> = tunnel.iter().map(String::as_str).collect();
    if aws.compat == Compat::V1 && aws.mode == Mode::Source && names.len() > 1 {
        return Err(wrong(format!(
            "the tunnel has the services {}, and a destination of version 1 (compat) knows one without a name",
            list(&names)
        )));
    }
    if names.is_empty() {
        return only(aws).map(|application| [(String::new(), application)].into());
    }
    match &aws.services {
        Services::Only(application) => match names.len() {
            1 => Ok(names.iter().map(|name| ((*name).to_owned(), application.clone())).collect()),
            _ => Err(wrong(format!(
                "the tunnel has the services {}, and {application} is given for one: say which is where, as in {}",
                list(&names),
                example(aws.mode, &names)
            ))),
        },
        Services::Named(ours) => {
            let own: BTreeSet<&str> = ours.keys().map(String::as_str).collect();
            if own == names {
                return Ok(ours.clone());
            }
            Err(wrong(format!("the tunnel has {}, and this end is set up for {}", services(&names), services(&own))))
        }
        Services::Among(ours) => names.iter().map(|name| among(aws, ours, name)).collect(),
    }
}

/// One of the tunnel's services among what is known here.
fn among(aws: &Aws, ours: &BTreeMap<String, Application>, name: &str) -> Result<(String, Application), Failure> {
    match (ours.get(name), aws.mode) {
        (Some(application), _) => Ok((name.to_owned(), application.clone())),
        (None, Mode::Source) => Ok((name.to_owned(), ANY_PORT)),
        (None, Mode::Destination) => {
            let own = ours.keys().map(String::as_str).collect();
            Err(wrong(format!(
                "the tunnel has the service {name:?}, and nothing says where it is: this end knows {}",
                services(&own)
            )))
        }
    }
}

/// The one service of a tunnel that names none.
fn only(aws: &Aws) -> Result<Application, Failure> {
    let (Services::Named(ours) | Services::Among(ours)) = &aws.services else {
        let Services::Only(application) = &aws.services else { return Ok(ANY_PORT) };
        return Ok(application.clone());
    };
    let unnamed = aws.subprotocol == Subprotocol::V1;
    match (ours.values().next(), ours.len(), &aws.services) {
        // Where no names are ever said, one is as good as none.
        (Some(application), 1, _) if unnamed || ours.contains_key("") => Ok(application.clone()),
        (_, _, Services::Among(_)) if aws.mode == Mode::Source => Ok(ANY_PORT),
        _ => {
            let own = ours.keys().map(String::as_str).collect();
            Err(wrong(format!(
                "the tunnel has no services with names, and this end is set up for {}: give one port or target without a name",
                services(&own)
            )))
        }
    }
}

const ANY_PORT: Application = Application::Tcp { host: None, port: 0 };

fn services(names: &BTreeSet<&str>) -> String {
    match names.len() {
        0 => "no services".to_owned(),
        1 => format!("the service {}", list(names)),
        _ => format!("the services {}", list(names)),
    }
}

/// Names come from the other side of the service: none is more than a word in a line.
fn list(names: &BTreeSet<&str>) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn example(mode: Mode, names: &BTreeSet<&str>) -> String {
    let place = match mode {
        Mode::Source => "PORT",
        Mode::Destination => "HOST:PORT",
    };
    names.iter().map(|name| format!("{name:?} = {place}")).collect::<Vec<_>>().join(" and ")
}

fn wrong(text: String) -> Failure {
    Failure::new(Reason::Config, Class::Configuration, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn tcp(port: u16) -> Application {
        Application::Tcp { host: None, port }
    }

    fn aws(mode: Mode, services: Services) -> Aws {
        Aws {
            mode,
            services,
            bind: None,
            compat: Compat::V3,
            subprotocol: Subprotocol::V3,
            token_file: None,
            client_token_file: None,
            verify: true,
            limits: Limits::default(),
        }
    }

    fn map(of: &[(&str, u16)]) -> BTreeMap<String, Application> {
        of.iter().map(|(name, port)| ((*name).to_owned(), tcp(*port))).collect()
    }

    #[test]
    fn the_tunnel_says_which_services_there_are_and_the_mapping_must_fit() {
        use Mode::{Destination, Source};
        let only = || Services::Only(tcp(22));
        let named = |of: &[(&str, u16)]| Services::Named(map(of));
        let among = |of: &[(&str, u16)]| Services::Among(map(of));
        let both = &[("A", 1), ("B", 2)][..];
        type Row<'a> = (Mode, Services, &'a [&'a str], Result<&'a [(&'a str, u16)], &'a str>);
        let rows: Vec<Row<'_>> = vec![
            // A bare port is renamed to the only service, and stands for one without a name.
            (Source, only(), &["SSH"], Ok(&[("SSH", 22)])),
            (Destination, only(), &["SSH"], Ok(&[("SSH", 22)])),
            (Destination, only(), &["SSH", "SSH"], Ok(&[("SSH", 22)])),
            (Source, only(), &[], Ok(&[("", 22)])),
            (Source, only(), &["A", "B"], Err("the services \"A\", \"B\"")),
            (Destination, only(), &["A", "B"], Err("\"A\" = HOST:PORT and \"B\" = HOST:PORT")),
            // Names must be exactly those of the tunnel, in whatever order.
            (Source, named(both), &["B", "A"], Ok(both)),
            (Destination, named(both), &["A"], Err("the service \"A\", and this end is set up for the services")),
            (Destination, named(both), &["A", "C"], Err("\"A\", \"C\"")),
            (Destination, named(&[("A", 1)]), &["A", "B"], Err("is set up for the service \"A\"")),
            (Source, named(both), &[], Err("no services with names")),
            (Source, named(&[("A", 1)]), &[], Err("no services with names")),
            // Files may know more; what they lack gets any port on a source.
            (Destination, among(&[("A", 1), ("B", 2), ("C", 3)]), &["B", "A"], Ok(both)),
            (Source, among(&[("A", 1)]), &["A", "B"], Ok(&[("A", 1), ("B", 0)])),
            (Source, among(&[]), &["A"], Ok(&[("A", 0)])),
            (Source, among(&[]), &[], Ok(&[("", 0)])),
            (Destination, among(&[("A", 1)]), &["A", "B"], Err("the service \"B\"")),
            (Destination, among(&[]), &["A"], Err("this end knows no services")),
            (Destination, among(&[]), &[], Err("no services with names")),
        ];
        for (mode, services, tunnel, expected) in rows {
            let tunnel: Vec<String> = tunnel.iter().map(|name| (*name).to_owned()).collect();
            let shown = format!("{mode:?} {services:?} {tunnel:?}");
            match (judge(&aws(mode, services), &tunnel), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, map(expected), "{shown}"),
                (Err(failure), Err(why)) => {
                    assert_eq!((failure.reason, failure.class), (Reason::Config, Class::Configuration), "{shown}");
                    assert!(failure.text.contains(why), "{shown}: {failure}");
                }
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_first_version_of_the_protocol_has_one_service_and_no_names() {
        let two = ["A".to_owned(), "B".to_owned()];
        let source = Aws { compat: Compat::V1, ..aws(Mode::Source, Services::Named(map(&[("A", 1), ("B", 2)]))) };
        assert!(judge(&source, &two).unwrap_err().text.contains("version 1"));
        let unnamed = Aws { subprotocol: Subprotocol::V1, ..aws(Mode::Destination, Services::Named(map(&[("A", 1)]))) };
        assert_eq!(judge(&unnamed, &[]).unwrap(), map(&[("", 1)]));
        let two = Aws { services: Services::Named(map(&[("A", 1), ("B", 2)])), ..unnamed };
        assert!(judge(&two, &[]).is_err());
    }
}
