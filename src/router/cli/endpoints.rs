//! `enftun-router endpoints`: who is enrolled. It works on the files; a router that runs sees them by itself.

use super::print;
use crate::config;
use crate::identity::{moment, unusable};
use crate::router::RouterError;
use crate::router::registry::{Endpoint, Registry, pem_for};
use crate::router::status::seconds;
use crate::terminal::{Colour, Span, Terminal, Tone};
use clap::Subcommand;
use serde_json::{Value, json};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show every address that is enrolled or revoked
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Let the holder of a key in with this address; it replaces the key that was there, and lifts a revocation
    Add {
        /// The client's address
        address: Ipv6Addr,
        /// Its certificate or public key, PEM or DER
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// End the client's session, and let nobody in with this address from now on, whoever signed the certificate
    Revoke {
        /// The client's address
        address: Ipv6Addr,
    },
}

pub fn run(config: &config::Router, verb: Verb) -> Result<(), RouterError> {
    let registry = Registry::new(&config.endpoints_dir);
    match verb {
        Verb::List { json } => list(&registry, json),
        Verb::Add { address, file } => add(&registry, address, &file),
        Verb::Revoke { address } => revoke(&registry, address),
    }
}

fn list(registry: &Registry, as_json: bool) -> Result<(), RouterError> {
    let endpoints = registry.list()?;
    if as_json {
        let endpoints: Vec<_> = endpoints.iter().map(|endpoint| document(endpoint)).collect();
        print(&format!("{:#}\n", json!({ "schema": 1, "endpoints": endpoints })));
    } else if !endpoints.is_empty() {
        let rows = endpoints.iter().map(|endpoint| row(endpoint)).collect();
        let lines =
            Terminal::of_stdout(Colour::Auto).table(["ADDRESS", "STATE", "USER", "SINCE", "KEY", "SHA-256"], rows);
        lines.iter().for_each(|line| print(&format!("{line}\n")));
    }
    Ok(())
}

fn document(endpoint: &Endpoint) -> Value {
    let keys: Vec<_> =
        endpoint.keys().into_iter().map(|key| json!({ "type": key.kind, "fingerprint": key.fingerprint })).collect();
    json!({
        "address": endpoint.address,
        "user": endpoint.user,
        "keys": keys,
        "created": endpoint.created,
        "modified": endpoint.modified,
        "revoked": endpoint.revoked,
    })
}

fn row(endpoint: &Endpoint) -> [Span; 6] {
    let keys = endpoint.keys();
    let (tone, state) = match (endpoint.revoked, &keys[..]) {
        (Some(_), _) => (Tone::Notice, "revoked"),
        (None, []) => (Tone::Bad, "damaged"),
        (None, _) => (Tone::Good, "enrolled"),
    };
    let since = endpoint.revoked.or(endpoint.modified).or(endpoint.created);
    let since = since.map(|since| moment(i64::try_from(since).unwrap_or(i64::MAX)));
    let all = |what: fn(&crate::router::registry::Key) -> &str| keys.iter().map(what).collect::<Vec<_>>().join(" ");
    [
        endpoint.address.to_string().into(),
        Span::new(tone, state),
        endpoint.user.clone().unwrap_or_else(|| "-".to_owned()).into(),
        since.unwrap_or_else(|| "-".to_owned()).into(),
        all(|key| &key.kind).into(),
        all(|key| &key.fingerprint).into(),
    ]
}

fn add(registry: &Registry, address: Ipv6Addr, file: &Path) -> Result<(), RouterError> {
    if let Some(why) = unusable(address) {
        return Err(RouterError::Unusable { address, why });
    }
    let bytes = std::fs::read(file).map_err(|source| RouterError::Read { file: file.to_owned(), source })?;
    let pem = pem_for(address, &bytes).map_err(|source| RouterError::Key { address, file: file.to_owned(), source })?;
    let writer = registry.write()?;
    let before = registry.find(address)?;
    let lifted = before.as_ref().is_some_and(|before| before.revoked.is_some());
    let now = Some(seconds(SystemTime::now()));
    // Whose it is, and which passwords were used up for it, stays.
    let endpoint = match before {
        Some(before) => Endpoint { pem, modified: now, ..before },
        None => Endpoint { pem, created: now, ..Endpoint::unknown(address) },
    };
    writer.replace(&endpoint)?;
    for key in endpoint.keys() {
        print(&format!("{address} is enrolled with the {} key SHA-256 {}\n", key.kind, key.fingerprint));
    }
    if lifted {
        print("It was revoked, and is no more.\n");
    }
    Ok(())
}

fn revoke(registry: &Registry, address: Ipv6Addr) -> Result<(), RouterError> {
    if let Some(why) = unusable(address) {
        return Err(RouterError::Unusable { address, why });
    }
    let writer = registry.write()?;
    let before = registry.find(address)?;
    writer.revoke(address, seconds(SystemTime::now()))?;
    print(&match before {
        None => {
            format!("{address} was not enrolled; whatever certificate says so, nobody is let in with it from now on\n")
        }
        Some(before) if before.revoked.is_some() => format!("{address} is revoked already\n"),
        Some(_) => format!("{address} is revoked, and given to nobody else\n"),
    });
    Ok(())
}
