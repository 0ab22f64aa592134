//! From the port mapping files of AWS's local proxy to a tunnel file of kind `aws-iot`. They say what is at this end of each
//! service, and no more: what is missing is asked for in the file, and told.

use std::fmt::Write;
use std::path::Path;

use super::super::findings::{Finding, Severity};
use super::super::mappings;
use super::super::{Application, aws, parse_application};
use super::{Imported, quoted};
use crate::error::chain;

/// Reads one file, or every file in a directory.
pub(super) fn import(path: &Path) -> Imported {
    let read = match mappings::read(path) {
        Ok(read) => read,
        Err(error) => {
            return Imported { toml: None, findings: vec![Finding::of_file(path, chain(&error))] };
        }
    };
    let mut findings: Vec<Finding> = read.warnings.into_iter().map(|text| warning(path, "", text)).collect();
    let mut services = Vec::new();
    for (service, mapping) in read.services {
        let judged = aws::service_name(&service)
            .map_err(|complaint| complaint.text)
            .and_then(|()| parse_application(&mapping.target));
        match judged {
            Ok(application) => services.push((service, application)),
            Err(why) => {
                let mut finding =
                    warning(&mapping.file, &format!("aws.services.{service}"), format!("{why}; it is left out"));
                finding.line = u32::try_from(mapping.line).unwrap_or(u32::MAX);
                findings.push(finding);
            }
        }
    }
    if services.is_empty() {
        findings.push(Finding::of_file(path, "has no service in it: SERVICE = TARGET, one a line".to_owned()));
        return Imported { toml: None, findings };
    }
    // AWS's local proxy knows hosts and sockets only where it dials.
    let dials = services.iter().any(|(_, application)| !matches!(application, Application::Tcp { host: None, .. }));
    if !dials {
        let help =
            "write mode = \"source\" if it listens on these ports, and mode = \"destination\" if it connects to them";
        findings.push(asked(path, "aws.mode", "is not in port mapping files: which end is this?", help));
    }
    let help = "write region = \"…\", or endpoint = \"HOST:PORT\"";
    findings.push(asked(path, "aws.region", "is not in port mapping files: where is the service?", help));
    let help = "write it into NAME/NAME.token, NAME being the tunnel's, or name another file as token_file";
    findings.push(asked(path, "aws.token_file", "is not in port mapping files: where is the access token?", help));
    Imported { toml: Some(toml(path, dials, &services)), findings }
}

fn toml(path: &Path, dials: bool, services: &[(String, Application)]) -> String {
    let mut text =
        format!("# From {}, by enftunctl import.\n\nkind = \"aws-iot\"\n\n[aws]\n", quoted(&path.to_string_lossy()));
    text += match dials {
        true => "mode = \"destination\"\n",
        false => {
            "# Which end is this? \"source\" listens on the ports below, \"destination\" connects to them.\n\
             # mode = \"destination\"\n"
        }
    };
    text += "# Where is the service? The region of the tunnel, or endpoint = \"HOST:PORT\".\n# region = \"eu-central-1\"\n\
             # Where is the access token? NAME/NAME.token unless it is said, NAME being this tunnel's.\n\
             # token_file = \"/etc/enftun/NAME/NAME.token\"\n\
             \n# The tunnel must have exactly these services.\n[aws.services]\n";
    for (service, application) in services {
        let bare = service.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key = if bare { service.clone() } else { format!("{service:?}") };
        let value = match application {
            Application::Tcp { host: None, port: 1.. } => application.to_string(),
            Application::Tcp { host: None, port: 0 } => "\"random\"".to_owned(),
            other => toml::Value::from(other.to_string()).to_string(),
        };
        // Writing into a string does not fail.
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

fn warning(path: &Path, key: &str, text: String) -> Finding {
    let mut finding = Finding::of_file(path, text);
    (finding.severity, finding.key) = (Severity::Warning, key.to_owned());
    finding
}

/// A question that the new file needs an answer to.
fn asked(path: &Path, key: &str, text: &str, help: &str) -> Finding {
    let mut finding = warning(path, key, text.to_owned());
    finding.help = Some(help.to_owned());
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Mode, Services};
    use std::fs;

    /// What `import` makes of these files, with the questions answered.
    fn imported(files: &[(&str, &str)]) -> (config::Aws, Vec<String>, String) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let Imported { toml, findings } = config::import(directory.path());
        let toml = toml.unwrap();
        let answered = toml.replace("# mode =", "mode =").replace("# region =", "region =");
        let (tunnel, wrong) =
            config::parse_tunnel("lab", Path::new("tunnels/lab.toml"), Path::new("/etc/enftun"), &answered);
        let wrong: Vec<String> = wrong.iter().map(Finding::one_line).collect();
        assert!(wrong.is_empty(), "{wrong:?} about\n{answered}");
        let said = findings.iter().map(Finding::one_line).collect();
        (tunnel.unwrap().kind.aws().unwrap().clone(), said, toml)
    }

    #[test]
    fn a_directory_becomes_the_services_of_a_tunnel_file_that_asks_for_the_rest() {
        let (aws, said, toml) = imported(&[("a", "SSH=22\n"), ("b", "# web\nweb.v1 = 10.0.0.1:80\nx=/run/x.sock\n")]);
        assert_eq!(aws.mode, Mode::Destination);
        let Services::Named(services) = aws.services else { panic!("{:?}", aws.services) };
        let shown: Vec<String> =
            services.iter().map(|(service, application)| format!("{service}={application}")).collect();
        assert_eq!(shown, ["SSH=22", "web.v1=10.0.0.1:80", "x=/run/x.sock"]);
        assert!(toml.contains("\nmode = \"destination\"\n") && toml.contains("\n# region ="), "{toml}");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("aws.region") && said[1].contains("aws.token_file"), "{said:?}");
    }

    #[test]
    fn ports_alone_do_not_say_which_end_it_is() {
        let (aws, said, toml) = imported(&[("a", "SSH=2222\nweb=nonsense\n")]);
        assert_eq!(aws.services, Services::Named([("SSH".to_owned(), parse_application("2222").unwrap())].into()));
        assert!(toml.contains("\n# mode ="), "{toml}");
        assert!(said.iter().any(|line| line.contains("a:2:1: warning: aws.services.web")), "{said:?}");
        assert!(said.iter().any(|line| line.contains("aws.mode: is not in port mapping files")), "{said:?}");
    }

    #[test]
    fn one_file_is_known_by_what_is_in_it_and_nothing_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("one");
        fs::write(&file, "SSH=localhost:22\n").unwrap();
        assert!(config::import(&file).toml.unwrap().contains("SSH = \"localhost:22\""));
        for text in ["tun = { dev = \"enf0\"; };\n", "remote.port = \"443\";\n", ""] {
            assert!(!mappings::is_mappings(text), "{text}");
        }
        fs::write(&file, "# nothing\n").unwrap();
        let imported = config::import(directory.path());
        assert!(imported.toml.is_none() && imported.findings[0].severity == Severity::Error, "{imported:?}");
    }
}
