//! The configuration reader: what it says about broken files (golden texts beside the files), what it makes of sound ones,
//! and that no input at all makes it panic or point outside the file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enftun::config::{
    self, Application, Enf, Finding, Host, Limits, Lockdown, Place, Services, Severity, Source, Tpm, Tunnel,
};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples")
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::one_line).collect()
}

fn enf(tunnel: &Tunnel) -> &Enf {
    tunnel.kind.enf().unwrap()
}

#[test]
fn a_tunnel_of_the_second_kind_has_the_service_for_its_only_remote() {
    let text = "kind = \"aws-iot\"\naws.mode = \"destination\"\naws.region = \"cn-north-1\"\n[aws.services]\nSSH = 22\n\
                web = \"[::1]:80\"\napp = \"/run/app\"\n";
    let (tunnel, findings) = parse(text);
    assert_eq!(texts(&findings), Vec::<String>::new());
    let tunnel = tunnel.unwrap();
    assert_eq!(tunnel.remote.hosts, [Host::direct("data.tunneling.iot.cn-north-1.amazonaws.com.cn", 443)]);
    assert_eq!((tunnel.route.prefixes.len(), tunnel.route.lockdown), (0, Lockdown::Off));
    let aws = tunnel.kind.aws().unwrap();
    let tcp = |host: Option<&str>, port| Application::Tcp { host: host.map(str::to_owned), port };
    let services =
        [("SSH", tcp(None, 22)), ("web", tcp(Some("::1"), 80)), ("app", Application::Unix("/run/app".into()))];
    let services = services.map(|(name, application)| (name.to_owned(), application)).into();
    assert_eq!(aws.services, Services::Named(services));
    assert_eq!(aws.token_file.as_deref(), Some(Path::new("/etc/enftun/enf0/enf0.token")));
    assert_eq!((aws.limits, aws.verify), (Limits::default(), true));

    let (tunnel, _) = parse(
        "kind = \"aws-iot\"\naws.mode = \"source\"\naws.endpoint = \"[::1]:8443\"\nroute.prefixes = [\"default\"]\n",
    );
    let tunnel = tunnel.unwrap();
    assert_eq!(tunnel.remote.hosts, [Host::direct("::1", 8443)]);
    assert_eq!(tunnel.kind.aws().unwrap().services, Services::Among(std::collections::BTreeMap::new()));
    assert_eq!((tunnel.route.prefixes.len(), tunnel.route.lockdown), (2, Lockdown::Boot));
}

/// Each directory is a configuration directory, with a `router.toml` perhaps; `expected.txt` holds what is said about it.
/// `ENFTUN_BLESS=1` writes those files anew, to be read before they are committed.
#[test]
// Some of them ask for what only a whole build has.
#[cfg(all(feature = "enrol", feature = "tpm"))]
fn broken_files_get_the_findings_that_stand_beside_them() {
    let mut different = Vec::new();
    for case in fs::read_dir(fixtures()).unwrap() {
        let dir = case.unwrap().path();
        // Without the feature, what is said first is that it is missing.
        if dir.ends_with("tpm") && !cfg!(feature = "tpm") {
            continue;
        }
        let mut findings = config::load(&dir).findings;
        let router = dir.join("router.toml");
        if router.exists() {
            findings.extend(config::load_router(&router).1);
        }
        assert!(findings.iter().any(|finding| finding.severity == Severity::Error), "{}", dir.display());
        let rendered: String = findings.iter().map(|finding| format!("{finding}\n\n")).collect();
        let rendered = rendered.replace(&format!("{}/", dir.display()), "");
        let golden = dir.join("expected.txt");
        if std::env::var_os("ENFTUN_BLESS").is_some() {
            fs::write(&golden, &rendered).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            different.push(format!("{}:\n{rendered}", golden.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// A configuration directory of its own for one test.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn file(path: &str) -> Place {
    PathBuf::from(path).into()
}

const LEAST: &str = "kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\nremote.name = \"router.example.net\"\n";

fn parse(text: &str) -> (Option<Tunnel>, Vec<Finding>) {
    config::parse_tunnel("enf0", Path::new("tunnels/enf0.toml"), Path::new("/etc/enftun"), text)
}

/// Parses what must have no findings at all.
fn sound(text: &str) -> Tunnel {
    let (tunnel, findings) = parse(text);
    assert_eq!(texts(&findings), Vec::<String>::new());
    tunnel.unwrap()
}

#[test]
fn a_tunnel_of_three_lines_gets_the_documented_defaults() {
    let tunnel = sound(LEAST);
    assert_eq!(tunnel.name, "enf0");
    assert!(!tunnel.autoconnect);
    assert_eq!(tunnel.remote.hosts, [Host::direct("router.example.net", 443)]);
    assert_eq!(tunnel.remote.ca_cert_file, Some(file("/etc/enftun/enf.cacert.pem")));
    assert_eq!(tunnel.remote.heartbeat_period, Duration::from_secs(300));
    assert_eq!(tunnel.remote.heartbeat_timeout, Duration::from_secs(10));
    assert_eq!(tunnel.remote.connect_timeout, Duration::from_secs(15));
    assert_eq!(tunnel.remote.congestion_control, None);
    assert_eq!(tunnel.remote.wire, config::Wire::Auto);
    assert_eq!(tunnel.retry, config::Retry::default());
    let route = &tunnel.route;
    let Enf { tun, dns, identity, enrol, advertise } = enf(&tunnel);
    assert_eq!((tun.dev.as_str(), tun.mtu, tun.set_address, tun.ipv4_address), ("enf0", 1280, true, None));
    assert_eq!(route.prefixes, ["::/0".parse().unwrap()]);
    assert!(route.is_default());
    assert_eq!((route.fwmark, route.fwmark_mask, route.table), (363, 0xffff_ffff, 2097));
    assert_eq!((route.allow_ipv4, route.lockdown), (false, Lockdown::Boot));
    assert!(route.trusted_interfaces.is_empty() && route.trusted_groups.is_empty());
    assert_eq!(identity.cert_file, Path::new("/etc/enftun/enf0/enf0.crt.pem"));
    assert_eq!(identity.source, [Source::Credentials, Source::Files]);
    assert_eq!(identity.key_file, file("/etc/enftun/enf0/enf0.key.pem"));
    assert_eq!(identity.ip_file, None);
    assert_eq!((dns, enrol, advertise), (&None, &None, &None));
    let tcti = "device:/dev/tpmrm0".to_owned();
    assert_eq!(tunnel.tpm, Tpm { tcti, password_file: None, parent: None });
}

#[test]
fn name_servers_get_all_names_unless_domains_are_given() {
    let all = sound(&format!("{LEAST}[dns]\nservers = [\"2001:DB8::53\"]\n"));
    let dns = enf(&all).dns.clone().unwrap();
    assert!(dns.is_default());
    assert_eq!(
        dns.resolvectl("enf0"),
        ["resolvectl domain enf0 '~.'", "resolvectl default-route enf0 true", "resolvectl dns enf0 2001:db8::53"]
    );
    let some = sound(&format!(
        "{LEAST}route.allow_ipv4 = true\n[dns]\nservers = [\"fd00::53\", \"10.0.0.53\"]\ndomains = [\"~Example.NET.\", \"corp\"]\n"
    ));
    let dns = enf(&some).dns.clone().unwrap();
    assert!(!dns.is_default());
    assert_eq!(
        dns.resolvectl("enf0"),
        [
            "resolvectl domain enf0 '~example.net' 'corp'",
            "resolvectl default-route enf0 false",
            "resolvectl dns enf0 fd00::53 10.0.0.53"
        ]
    );
}

#[test]
fn every_key_that_is_written_arrives() {
    let tunnel = sound(
        r#"
        kind = "enf"
        autoconnect = true
        [tun]
        dev = "overlay0"
        mtu = 1496
        set_address = false
        ipv4_address = "10.64.0.7/24"
        [remote]
        hosts = ["a.example", "2001:DB8::1", "198.51.100.7:444", "[2001:db8::2]:8443", "[2001:db8::3]", { host = "b.example:1" },
            { host = "c.example", port = 5, proxy = "socks5://me:s3cret@proxy.example:1080" }, "vsock:2:443",
            { host = "a.example", proxy = "http://[2001:db8::5]:3128" }]
        port = 4430
        ca_cert_file = "ca.pem"
        name = "2001:db8:0::1"
        heartbeat_period = "0s"
        heartbeat_timeout = "250ms"
        connect_timeout = "1h30m"
        congestion_control = "bbr"
        wire = "v1"
        [route]
        prefixes = ["default", "fd00::/8", "10.0.0.0/8"]
        allow_ipv4 = true
        fwmark = 0x10
        fwmark_mask = 0xf0
        table = 4294967295
        lockdown = "session"
        trusted_groups = ["lan", "dmz"]
        trusted_interfaces = ["eth1", "eth0.5"]
        [dns]
        servers = ["fd00::53", "10.0.0.53"]
        domains = ["~.", "example.net"]
        [identity]
        cert_file = "/elsewhere/crt.der"
        key_file = "../key.der"
        ip_file = "ip"
        source = ["files"]
        [retry]
        first = "500ms"
        max = "500ms"
        jitter = 0
        stable_after = "0s"
        "#,
    );
    assert!(tunnel.autoconnect);
    let hosts: Vec<String> = tunnel.remote.hosts.iter().map(ToString::to_string).collect();
    let expected = [
        "a.example:4430",
        "[2001:db8::1]:4430",
        "198.51.100.7:444",
        "[2001:db8::2]:8443",
        "[2001:db8::3]:4430",
        "b.example:1",
        "c.example:5 via socks5://proxy.example:1080",
        "vsock:2:443",
        "a.example:4430 via http://[2001:db8::5]:3128",
    ];
    assert_eq!(hosts, expected);
    assert_eq!(tunnel.remote.ca_cert_file, Some(file("/etc/enftun/ca.pem")));
    assert_eq!(tunnel.remote.name.as_deref(), Some("2001:db8::1"));
    assert_eq!(tunnel.remote.heartbeat_period, Duration::ZERO);
    assert_eq!(tunnel.remote.heartbeat_timeout, Duration::from_millis(250));
    assert_eq!(tunnel.remote.connect_timeout, Duration::from_secs(5400));
    assert_eq!(tunnel.remote.congestion_control.as_deref(), Some("bbr"));
    assert_eq!(tunnel.remote.wire, config::Wire::V1);
    let route = &tunnel.route;
    let Enf { tun, dns, identity, enrol, advertise } = enf(&tunnel);
    assert_eq!((tun.dev.as_str(), tun.mtu, tun.set_address), ("overlay0", 1496, false));
    assert_eq!(tun.ipv4_address, Some("10.64.0.7/24".parse().unwrap()));
    let prefixes: Vec<String> = route.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["::/0", "0.0.0.0/0", "fd00::/8", "10.0.0.0/8"]);
    assert_eq!((route.fwmark, route.fwmark_mask, route.table), (0x10, 0xf0, u32::MAX));
    assert_eq!((route.allow_ipv4, route.lockdown), (true, Lockdown::Session));
    assert_eq!(
        (route.trusted_groups.join(" "), route.trusted_interfaces.join(" ")),
        ("lan dmz".into(), "eth1 eth0.5".into())
    );
    assert_eq!((enrol, advertise), (&None, &None));
    let dns = dns.as_ref().unwrap();
    assert_eq!(dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["fd00::53", "10.0.0.53"]);
    assert_eq!(dns.domains.iter().map(ToString::to_string).collect::<Vec<_>>(), ["~.", "example.net"]);
    assert_eq!(identity.cert_file, Path::new("/elsewhere/crt.der"));
    assert_eq!(identity.key_file, file("/etc/enftun/../key.der"));
    assert_eq!(identity.ip_file.as_deref(), Some(Path::new("/etc/enftun/ip")));
    assert_eq!(identity.source, [Source::Files]);
    let retry = tunnel.retry;
    assert_eq!((retry.first, retry.max), (Duration::from_millis(500), Duration::from_millis(500)));
    assert_eq!((retry.jitter, retry.stable_after), (0.0, Duration::ZERO));
}

#[cfg(all(feature = "enrol", feature = "tpm"))]
#[test]
fn keys_and_anchors_in_a_tpm_are_named_by_their_handles() {
    let tunnel = sound(&format!(
        "{LEAST}remote.ca_cert_file = \"tpm-nv:0x1410005\"\n[enrol]\nurl = \"https://r.example:1\"\n\
         ca_cert_file = \"tpm-nv:0x01C00002\"\n[identity]\nkey_file = \"tpm:0x81010001\"\nsource = [\"tpm\"]\n[tpm]\n\
         tcti = \"swtpm:host=localhost,port=2321\"\npassword_file = \"owner\"\nparent = \"0x81000001\"\n"
    ));
    let enf = enf(&tunnel);
    assert_eq!(tunnel.remote.ca_cert_file, Some(Place::Tpm(0x141_0005)));
    assert_eq!(enf.enrol.as_ref().unwrap().ca_cert_file, Place::Tpm(0x1c0_0002));
    assert_eq!(enf.identity.key_file, Place::Tpm(0x8101_0001));
    assert_eq!(enf.identity.source, [Source::Tpm]);
    let (tcti, password_file) = ("swtpm:host=localhost,port=2321".to_owned(), PathBuf::from("/etc/enftun/owner"));
    assert_eq!(tunnel.tpm, Tpm { tcti, password_file: Some(password_file), parent: Some(0x8100_0001) });
    assert_eq!(sound(&format!("{LEAST}tpm.parent = \"owner\"\n")).tpm, Tpm::default());
}

#[cfg(not(feature = "tpm"))]
#[test]
fn a_build_without_tpms_refuses_whatever_asks_for_one() {
    for line in [
        "remote.ca_cert_file = \"tpm-nv:0x1410005\"",
        "identity.key_file = \"tpm:0x81010001\"",
        "identity.source = [\"tpm\"]",
        "tpm.tcti = \"device:/dev/tpmrm0\"",
    ] {
        let found = texts(&parse(&format!("{LEAST}{line}\n")).1);
        assert!(found.len() == 1 && found[0].contains("not available in this build"), "{line}: {found:?}");
    }
}

#[test]
fn the_proxy_of_the_tunnel_is_the_way_to_every_router_that_names_none_of_its_own() {
    let tunnel = sound(&LEAST.replace(
        "[\"router.example.net\"]",
        r#"["a.example", { host = "a.example", proxy = "direct" }, { host = "a.example", proxy = "http://q:2" }, "vsock:1:7"]
        remote.proxy = "socks5://p:1""#,
    ));
    let hosts: Vec<String> = tunnel.remote.hosts.iter().map(ToString::to_string).collect();
    let expected = ["a.example:443 via socks5://p:1", "a.example:443", "a.example:443 via http://q:2", "vsock:1:7"];
    assert_eq!(hosts, expected);
}

#[test]
fn a_password_in_a_file_that_everybody_may_read_is_warned_about_where_it_stands_and_not_shown() {
    let text = format!("{LEAST}[remote]\nproxy = \"http://me:s3cret@proxy.example:3128\"\n")
        .replace("remote.hosts", "[remote]\nhosts");
    let text = text.replace("remote.name", "name").replacen("[remote]\nproxy", "proxy", 1);
    let dir = directory(&[("tunnels/enf0.toml", text.as_bytes())]);
    let file = dir.path().join("tunnels/enf0.toml");
    for (mode, warned) in [(0o644, true), (0o640, false), (0o604, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for findings in
            [config::load(dir.path()).findings, config::check_files(std::slice::from_ref(&file), dir.path())]
        {
            let found = findings.iter().map(ToString::to_string).collect::<String>();
            assert_eq!(findings.len(), usize::from(warned), "{mode:o}: {found}");
            assert!(!found.contains("s3cret"));
            if let Some(finding) = findings.first() {
                assert_eq!((finding.severity, finding.key.as_str()), (Severity::Warning, "remote.proxy"));
                assert_eq!((finding.line, finding.column), (5, 9));
                assert!(
                    found.contains("http://*********@proxy.example:3128") && found.contains("chmod 640"),
                    "{found}"
                );
            }
        }
    }
}

#[test]
fn a_tunnel_without_the_routers_name_is_used_and_warned_about() {
    let (tunnel, findings) = parse("kind = \"enf\"\nremote.hosts = [\"router.example.net\"]\n");
    assert_eq!(tunnel.unwrap().remote.name, None);
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].severity, findings[0].key.as_str()), (Severity::Warning, "remote.name"));
}

#[test]
fn host_bits_in_a_prefix_are_masked_and_repetitions_dropped_with_a_warning() {
    let (tunnel, findings) = parse(&format!("{LEAST}route.prefixes = [\"fd00::1/8\", \"fd00::/8\"]"));
    assert_eq!(tunnel.unwrap().route.prefixes, ["fd00::/8".parse().unwrap()]);
    assert!(findings.len() == 2 && findings.iter().all(|finding| finding.severity == Severity::Warning));
}

#[test]
#[cfg(feature = "enrol")]
fn the_shipped_examples_load_without_a_finding_and_can_stand_side_by_side() {
    let files: Vec<PathBuf> =
        ["device.toml", "server.toml", "enftun.toml", "router.toml"].map(|name| examples().join(name)).into();
    assert_eq!(texts(&config::check_files(&files, &examples())), Vec::<String>::new());
    // A card has everything in its tunnel, as the device has.
    assert_eq!(texts(&config::check_files(&[examples().join("card.toml")], &examples())), Vec::<String>::new());
    let (device, _) = config::load_tunnel(&files[0], Path::new("/etc/enftun"));
    assert_eq!(device.unwrap().name, "device");
    let (server, _) = config::load_tunnel(&files[1], Path::new("/etc/enftun"));
    assert_eq!(server.unwrap().remote.hosts[0].port, 8443);
}

/// What has no value that could be written down.
#[cfg(feature = "enrol")]
const NO_DEFAULT: [&str; 5] = ["#congestion_control", "#ip_file", "#user", "#password_file", "#provisioner"];

#[test]
#[cfg(not(feature = "enrol"))]
fn a_build_without_enrolment_refuses_its_sections() {
    let (_, findings) = parse(&format!("{LEAST}[enrol]\nurl = \"https://router.example.net\"\n"));
    assert_eq!(findings.len(), 1);
    assert!(findings[0].severity == Severity::Error && findings[0].key == "enrol", "{findings:?}");
    assert!(findings[0].text.contains("not available in this build"), "{findings:?}");
    let (_, findings) = config::parse_router(
        Path::new("router.toml"),
        "[enrol]\nlisten = \"[::1]:8443\"\nnetwork = \"fd00:8f80:1::/64\"\n",
    );
    assert!(findings.len() == 1 && findings[0].key == "enrol", "{findings:?}");
}

#[test]
#[cfg(feature = "enrol")]
fn what_the_device_example_leaves_out_as_a_comment_is_the_default() {
    let text = fs::read_to_string(examples().join("device.toml")).unwrap();
    // A commented key has no space after its sign; the system's own congestion control cannot be written down.
    let uncommented: String = text
        .lines()
        .filter(|line| !NO_DEFAULT.iter().any(|key| line.starts_with(key)))
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
        .collect();
    assert_ne!(text, uncommented);
    let mut full = sound(&uncommented);
    let config::Kind::Enf(enf) = &mut full.kind else { unreachable!() };
    assert!(enf.dns.take().unwrap().is_default(), "name servers have no default, their domains do");
    assert_eq!(full, sound(&text));
}

#[test]
fn the_router_gets_its_defaults_and_paths_from_its_own_directory() {
    let dir = directory(&[("router.toml", b""), ("full.toml", &fs::read(examples().join("router.toml")).unwrap())]);
    let (router, findings) = config::load_router(&dir.path().join("router.toml"));
    assert_eq!(texts(&findings), Vec::<String>::new());
    let router = router.unwrap();
    assert_eq!(router.listen, ["[::]:443".parse().unwrap()]);
    assert_eq!(router.cert_file, dir.path().join("router.crt.pem"));
    assert_eq!(router.key_file, dir.path().join("router.key.pem"));
    assert_eq!(router.client_ca_file, None);
    assert_eq!(router.endpoints_dir, Path::new("/var/lib/enftun-router/endpoints"));
    assert_eq!(router.control_socket, Path::new("/run/enftun-router/control.sock"));
    assert_eq!((router.max_sessions, router.allow_ipv4, router.tun.is_none()), (65536, false, true));
    assert_eq!((router.between_clients, router.multicast), (true, false));

    let full = config::load_router(&dir.path().join("full.toml")).0.unwrap();
    assert_eq!(full.client_ca_file, Some(dir.path().join("clients.ca.pem")));
    let tun = full.tun.unwrap();
    assert_eq!((tun.dev.as_str(), tun.mtu), ("enfr0", 1280));
    assert_eq!(tun.addresses, ["fd00:8f80::1/64".parse().unwrap()]);
}

#[test]
fn a_directory_loads_what_is_sound_and_names_what_is_broken() {
    let second = LEAST.to_owned() + "route = { prefixes = [\"fd00::/8\"], fwmark = 364, table = 2098 }\n";
    let clash = LEAST.to_owned() + "route = { prefixes = [\"fd01::/16\"], fwmark = 365, table = 2098 }\n";
    let dir = directory(&[
        ("enftun.toml", b"[daemon]\nlog_level = \"debug\"\n[groups.lan]\nnumber = 364\ninterfaces = [\"eth1\"]\n"),
        ("tunnels/a.toml", LEAST.as_bytes()),
        ("tunnels/b.toml", second.as_bytes()),
        ("tunnels/c.toml", clash.as_bytes()),
        ("tunnels/d.toml", b"kind = \n"),
        ("tunnels/.#a.toml", b"an editor's leftover"),
        ("tunnels/a.toml~", b"another"),
    ]);
    let loaded = config::load(dir.path());
    assert_eq!(loaded.config.daemon.log_level, log::LevelFilter::Debug);
    assert_eq!(loaded.config.groups["lan"].interfaces, ["eth1"]);
    assert_eq!(loaded.config.tunnels.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(loaded.broken, BTreeSet::from(["c".to_owned(), "d".to_owned()]));
    assert!(loaded.has_errors());
    let places: Vec<_> =
        loaded.findings.iter().map(|f| (f.file.file_name().unwrap(), f.key.as_str(), f.line)).collect();
    assert_eq!(places, [("c.toml".as_ref(), "route.table", 4), ("d.toml".as_ref(), "", 1)]);
    let tunnel = &loaded.config.tunnels["a"];
    assert_eq!(enf(tunnel).identity.cert_file, dir.path().join("a/a.crt.pem"));
}

#[test]
fn a_directory_that_is_not_there_is_an_empty_configuration() {
    let loaded = config::load(Path::new("/nonexistent/enftun"));
    assert_eq!(texts(&loaded.findings), Vec::<String>::new());
    assert_eq!(loaded.config, config::Config::default());
}

#[test]
fn a_broken_daemon_file_gives_no_group_to_trust() {
    let dir = directory(&[("enftun.toml", b"[groups.lan]\nnumber = 364\n[groups.all]\nnumber = 0\n")]);
    let loaded = config::load(dir.path());
    assert!(loaded.has_errors() && loaded.config.groups.is_empty());
}

#[test]
fn files_that_are_no_text_are_findings_and_break_only_their_own_tunnel() {
    let large = vec![b'#'; (1 << 20) + 1];
    let dir = directory(&[
        ("tunnels/sound.toml", LEAST.as_bytes()),
        ("tunnels/bytes.toml", b"kind = \"enf\"\n# caf\xc3\xa9 \xe9\n"),
        ("tunnels/large.toml", &large),
        ("tunnels/folder.toml/file", b""),
    ]);
    std::os::unix::fs::symlink("nowhere", dir.path().join("tunnels/dangling.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("tunnels/device.toml")).unwrap();
    let loaded = config::load(dir.path());
    assert_eq!(loaded.config.tunnels.keys().collect::<Vec<_>>(), ["sound"]);
    let expected = ["bytes", "dangling", "device", "folder", "large"].map(str::to_owned);
    assert_eq!(loaded.broken, BTreeSet::from(expected));
    let dir = format!("{}/tunnels/", dir.path().display());
    let said: Vec<String> = texts(&loaded.findings).iter().map(|text| text.replace(&dir, "")).collect();
    assert_eq!(
        said,
        [
            "bytes.toml:2:8: error: is not UTF-8 text: byte 0xe9",
            "dangling.toml:1:1: error: cannot be read: No such file or directory (os error 2)",
            "device.toml:1:1: error: is not a regular file",
            "folder.toml:1:1: error: is a directory, and a file belongs here",
            "large.toml:1:1: error: is larger than 1 MiB; no configuration is",
        ]
    );
}

#[test]
fn files_given_to_check_are_told_apart_by_name_and_content() {
    let dir = directory(&[
        ("enftun.toml", b"[groups.lan]\nnumber = \"1\"\n"),
        ("router.toml", b"max_sessions = 0\n"),
        ("my-router.toml", b"listen = []\nmtu = 1\n"),
        ("enf0.toml", b"kind = \"enf\"\nlistn = []\n"),
    ]);
    let files =
        ["enf0.toml", "my-router.toml", "enftun.toml", "router.toml", "absent.toml"].map(|name| dir.path().join(name));
    let findings = config::check_files(&files, dir.path());
    let keys: Vec<_> =
        findings.iter().map(|f| (f.file.file_name().unwrap().to_str().unwrap(), f.key.as_str())).collect();
    assert_eq!(
        keys,
        [
            ("enf0.toml", "remote.hosts"),
            ("enf0.toml", "remote.name"),
            ("enf0.toml", "listn"),
            ("my-router.toml", "mtu"),
            ("enftun.toml", "groups.lan.number"),
            ("router.toml", "max_sessions"),
            ("absent.toml", ""),
        ]
    );
}

#[test]
fn a_group_that_nobody_defined_is_an_error_with_a_suggestion() {
    let tunnel = LEAST.to_owned() + "route.trusted_groups = [\"lab\"]\n";
    let dir = directory(&[("enftun.toml", b"[groups.lan]\nnumber = 364\n"), ("tunnels/enf0.toml", tunnel.as_bytes())]);
    let loaded = config::load(dir.path());
    let finding = loaded.findings.iter().find(|finding| finding.text.contains("no group")).unwrap();
    assert_eq!((finding.key.as_str(), finding.line, finding.column), ("route.trusted_groups", 4, 25));
    assert_eq!(finding.help.as_deref(), Some("did you mean `lan`?"));
}

#[test]
fn the_json_form_is_the_documented_one() {
    let (_, findings) = parse(&format!("{LEAST}tun.mtuu = 1280\n"));
    let expected = serde_json::json!({ "version": 1, "findings": [{
        "severity": "error", "file": "tunnels/enf0.toml", "key": "tun.mtuu", "line": 4, "column": 5,
        "text": "unknown key", "help": "did you mean `mtu`?",
    }]});
    assert_eq!(config::findings_json(&findings), expected);
    assert_eq!(findings[0].one_line(), "tunnels/enf0.toml:4:5: error: tun.mtuu: unknown key (did you mean `mtu`?)");
}

#[test]
fn a_file_of_nothing_but_mistakes_is_answered_briefly() {
    let text: String = (0..60_000).map(|number| format!("k{number} = 1\n")).collect();
    let (tunnel, findings) = parse(&text);
    assert!(tunnel.is_none());
    assert_eq!(findings.len(), 201);
    // 60,000 keys, and the kind, hosts and name that are missing, less the 200 that are told.
    assert_eq!(findings[200].text, "and 59803 more findings, which are not shown");
}

#[test]
fn one_byte_order_mark_is_no_finding_and_a_second_one_is() {
    let daemon = |text: &str| config::parse_daemon(Path::new("/etc/enftun/enftun.toml"), text);
    for text in ["", "[daemon]\nlog_level = \"info\"\n"] {
        assert_eq!(daemon(&format!("\u{feff}{text}")).1, []);
        let (value, findings) = daemon(&format!("\u{feff}\u{feff}{text}"));
        assert!(value.is_none());
        assert_eq!(findings[0].one_line(), "/etc/enftun/enftun.toml:1:1: error: a second byte order mark");
    }
}

/// Every file there is to break, sound or not.
fn seeds() -> Vec<String> {
    let mut seeds = Vec::new();
    let mut dirs = vec![examples(), fixtures()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => dirs.push(path),
                Some(extension) if extension == "toml" => seeds.push(fs::read_to_string(path).unwrap()),
                _ => {}
            }
        }
    }
    seeds.sort();
    seeds
}

/// What people and editors put where it does not belong.
const SHARDS: [&str; 32] = [
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\0",
    "\u{7f}",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "#",
    "日",
    "🦀",
    "\u{feff}",
    "\u{301}",
    "-1",
    "0x",
    "1e999",
    "nan",
    "true",
    "\\",
    "[tun]\n",
    "[remote]\n",
    "route.table = 2097\n",
];

#[derive(Clone, Debug)]
enum Edit {
    Insert(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index, usize),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(at, what)| Edit::Insert(at, what)),
        (any::<prop::sample::Index>(), 1..30_usize).prop_map(|(at, count)| Edit::Cut(at, count)),
        any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(one, other)| Edit::Swap(one, other)),
    ]
}

fn broken(seed: &str, edits: &[Edit]) -> String {
    let mut text: Vec<char> = seed.chars().collect();
    for edit in edits {
        match edit {
            Edit::Insert(at, what) => {
                let at = at.index(text.len() + 1);
                text.splice(at..at, what.get(&SHARDS).chars());
            }
            Edit::Cut(at, count) if !text.is_empty() => {
                let at = at.index(text.len());
                text.drain(at..text.len().min(at + count));
            }
            Edit::Swap(one, other) if !text.is_empty() => {
                let length = text.len();
                text.swap(one.index(length), other.index(length));
            }
            Edit::Cut(..) | Edit::Swap(..) => {}
        }
    }
    text.into_iter().collect()
}

/// `usable` and the findings agree, and each finding points into `text` and can be shown.
fn judged(text: &str, usable: bool, findings: &[Finding]) -> Result<(), TestCaseError> {
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    prop_assert_eq!(usable, !errors, "a file is usable exactly when it has no error");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    for finding in findings {
        let line = lines.get(usize::try_from(finding.line).unwrap().wrapping_sub(1));
        prop_assert!(line.is_some(), "{}", finding.one_line());
        let columns = line.unwrap().chars().count() + 1;
        prop_assert!((1..=columns).contains(&(finding.column as usize)), "{}", finding.one_line());
        let shown = finding.to_string();
        prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        prop_assert!(!finding.one_line().contains('\n'));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_text_makes_a_reader_panic_or_point_outside_it(
        seed in prop::sample::select(seeds()),
        edits in prop::collection::vec(edit(), 0..6),
    ) {
        let text = broken(&seed, &edits);
        let (tunnel, findings) = parse(&text);
        judged(&text, tunnel.is_some(), &findings)?;
        let (router, findings) = config::parse_router(Path::new("/etc/enftun/router.toml"), &text);
        judged(&text, router.is_some(), &findings)?;
        let (daemon, findings) = config::parse_daemon(Path::new("/etc/enftun/enftun.toml"), &text);
        judged(&text, daemon.is_some(), &findings)?;
        // The strictest reader of TOML is the judge of whether it is TOML at all.
        if toml::from_str::<toml::Table>(&text).is_err() {
            prop_assert!(tunnel.is_none() && router.is_none() && daemon.is_none());
        }
    }
}
