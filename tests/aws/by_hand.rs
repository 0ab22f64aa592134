//! `cargo run --example aws-service`: the service of the tests by itself, to be used by hand with `enftun-localproxy`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common"]
mod common {
    #![allow(dead_code, unused_imports)]

    pub mod aws_service;
    pub mod certs;
    pub mod seeded;
}

use clap::Parser;
use common::aws_service::{Mode, Service, Tunnel};
use std::io::{BufRead, Write};
use std::net::SocketAddr;

/// A service of AWS IoT Secure Tunneling on this machine, with one tunnel, to try `enftun-localproxy` with. It is the one of
/// the tests: strict, and no substitute for AWS.
///
/// It prints where it is, whom to trust and the tokens, and then obeys lines on its standard input until that ends:
///
///   cut source|destination      breaks the connection of that end
///   stop source|destination     reads nothing more from it
///   resume source|destination   reads again
///   rotate                      makes new tokens, and prints them
///   close                       closes the tunnel; both ends are told
///   story                       prints what was said so far, and bytes of data
///   quit
#[derive(Parser)]
#[command(name = "aws-service", verbatim_doc_comment)]
struct Options {
    /// Where to listen; port 0: a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The services of the tunnel, up to three; an empty word: none.
    #[arg(long, value_name = "NAME,…", default_value = "SSH", value_delimiter = ',')]
    services: Vec<String>,
}

fn main() {
    let options = Options::parse();
    let service = Service::at(options.listen);
    let names: Vec<&str> = options.services.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let tunnel = service.tunnel(&names);
    println!("endpoint {}", service.endpoint());
    println!("ca-file {}", service.ca_file().display());
    tokens(&tunnel);
    let name = names.first().map_or(String::new(), |name| format!("{name}="));
    eprintln!("\nIn other terminals, with the tokens above:");
    for (option, mode) in [("-s", Mode::Source), ("-d", Mode::Destination)] {
        let port = if mode == Mode::Source { 2222 } else { 22 };
        eprintln!(
            "  AWSIOT_TUNNEL_ACCESS_TOKEN=… enftun-localproxy -e {} -c {} {option} {name}{port}",
            service.endpoint(),
            service.ca_directory().display()
        );
    }
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        obey(&service, &tunnel, line.trim());
        if line.trim() == "quit" {
            break;
        }
    }
    // What was broken is told; it is no failure of this program.
    for violation in tunnel.violations() {
        eprintln!("a rule of the protocol was broken: {violation}");
    }
}

fn tokens(tunnel: &Tunnel) {
    for mode in Mode::BOTH {
        println!("{}-token {}", mode.as_str(), tunnel.token(mode));
    }
    let _ = std::io::stdout().flush();
}

fn obey(service: &Service, tunnel: &Tunnel, line: &str) {
    let (word, which) = line.split_once(' ').unwrap_or((line, ""));
    let end = Mode::BOTH.into_iter().find(|mode| mode.as_str() == which).map(|mode| tunnel.end(mode));
    match (word, end) {
        ("cut", Some(end)) => end.abort(),
        ("stop", Some(end)) => end.stop_reading(),
        ("resume", Some(end)) => end.resume(),
        ("rotate", None) => {
            tunnel.rotate(&Mode::BOTH);
            tokens(tunnel);
        }
        ("close", None) => tunnel.close(),
        ("story", None) => {
            println!("{}", service.story());
            for mode in Mode::BOTH {
                println!("{} bytes of data from the {}", tunnel.end(mode).bytes(), mode.as_str());
            }
        }
        ("" | "quit", None) => {}
        _ => eprintln!("there is no \"{line}\"; aws-service --help tells what there is"),
    }
    let _ = std::io::stdout().flush();
}
