//! `nftables/` holds the firewall of the example configurations, in each state, for people to read: kept equal to what the
//! program makes. `ENFTUN_BLESS=1 cargo test --test unit nftables` writes it anew.

use enftun::config;
use enftun::plan::{self, Facts, Host, Openings, Plan};
use enftun::state::Wanted;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::Path;

/// Stands for user enftun.
const UID: u32 = 990;

/// The plan of an example while it is in a state: `dialled` is where its own packets may go then.
fn example(name: &str, state: &str) -> Plan {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples");
    let (tunnel, findings) = config::load_tunnel(&root.join(format!("{name}.toml")), &root);
    let tunnel = tunnel.unwrap_or_else(|| panic!("{findings:?}"));
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    let own = match name {
        "server" => nets(&["fd00:8f80::7/128", "10.64.0.7/32"]),
        _ => nets(&["fd00:8f80::5/128"]),
    };
    let remotes = vec!["[2001:db8::1]:443".parse().unwrap()];
    let (wanted, kept, openings) = match state {
        "blocked" => (Wanted::Blocked, vec![], Openings::default()),
        "asking" => {
            let resolvers = vec!["192.0.2.53:53".parse().unwrap()];
            (Wanted::Connecting, vec![], Openings { resolvers, ..Openings::default() })
        }
        "connecting" => (Wanted::Connecting, vec![], Openings { remotes, ..Openings::default() }),
        "reconnecting" => (Wanted::Connecting, own, Openings::default()),
        "connected" => (Wanted::Connected(own.clone()), own, Openings { remotes, ..Openings::default() }),
        other => panic!("no state {other}"),
    };
    plan::build(&tunnel, &BTreeMap::new(), Facts { wanted: &wanted, kept: &kept, openings: &openings })
}

#[test]
fn the_rulesets_in_nftables_are_those_of_the_examples() {
    let mut rulesets = BTreeMap::new();
    for name in ["device", "server"] {
        for state in ["blocked", "asking", "connecting", "reconnecting", "connected"] {
            rulesets.insert(format!("{name}.{state}"), vec![example(name, state)]);
        }
    }
    let both = vec![example("device", "connected"), example("server", "connected")];
    rulesets.insert("device-and-server.connected".to_owned(), both);
    let text = |table: Option<plan::nft::Table>| table.expect("it blocks").to_string();
    let guards = ["device.connected", "server.connected"]
        .map(|name| (format!("{name}.guard"), text(Host::of(&rulesets[name], UID).guard)));
    let mut rulesets: BTreeMap<String, String> =
        rulesets.into_iter().map(|(name, plans)| (name, text(Host::of(&plans, UID).firewall))).collect();
    rulesets.extend(guards);
    rulesets.insert("emergency".to_owned(), plan::emergency().to_string());

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("nftables");
    for (name, text) in &rulesets {
        let file = directory.join(format!("{name}.nft"));
        if std::env::var_os("ENFTUN_BLESS").is_some() {
            std::fs::write(&file, format!("{text}\n")).unwrap();
        }
        assert_eq!(format!("{text}\n"), std::fs::read_to_string(&file).unwrap(), "{}", file.display());
    }
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "nft")).count();
    assert_eq!(files, rulesets.len(), "no file is left from an older layout");
}
