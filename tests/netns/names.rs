//! A router given by name: its look-up gets out where nothing else does, honours the host's files, and says what went wrong.
//! Name servers and routers are real sockets behind a LAN; the host's files are the test's own, in its own mount namespace.

use crate::common::certs::{Ca, Identity, Leaf};
use crate::common::client::Tunnel;
use crate::common::fake_router::{FakeRouter, Manners, server};
use crate::common::name_server::{NameServer, Question, Reply};
use crate::common::netns::{Netns, in_netns_with_tun, sh, veth};
use crate::common::wait_for;
use enftun::config::Host;
use enftun::error::Class;
use enftun::state::Reason;
use enftun::transport::dial::{self, Options};
use enftun::transport::resolve::{ResolveError, resolve};
use nix::sched::{CloneFlags, unshare};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::time::Duration;

pub(super) const NAME: &str = "router.example.net";
const MARK: u32 = 363;
/// The router in IPv4, after a move, and in IPv6; a name server, and another.
pub(super) const ROUTER: &str = "192.0.2.2";
pub(super) const NEW_ROUTER: &str = "192.0.2.3";
pub(super) const ROUTER6: &str = "2001:db8::2";
pub(super) const DNS: &str = "192.0.2.53";
const OTHER_DNS: &str = "192.0.2.54";
const EVERYTHING: &str = "prefixes = [\"default\"]\nlockdown = \"session\"\n";

fn knows_the_router(question: &Question) -> Reply {
    if question.name == NAME { Reply::Addresses(&[ROUTER]) } else { Reply::Code(3) }
}

/// What a name server does may change in a story: a response code, or one of these.
const KNOWS: u8 = 254;
const SILENT: u8 = 255;

fn as_told(manner: &Arc<AtomicU8>) -> impl Fn(&Question) -> Reply + Send + Sync + 'static {
    let manner = manner.clone();
    move |question| match manner.load(SeqCst) {
        KNOWS => knows_the_router(question),
        SILENT => Reply::Silent,
        code => Reply::Code(code),
    }
}

/// The host is the test's own namespace; routers and name servers are at the other end of its LAN.
pub(super) struct World {
    pub far: Netns,
    pub ca: Ca,
    router: Identity,
    pub client: Identity,
    files: tempfile::TempDir,
}

pub(super) fn story(test: &str, tell: impl FnOnce(&World) + Send) {
    in_netns_with_tun(test, || {
        let (here, far) = (Netns::here(), Netns::new());
        veth(&here, "lan0", &far, "far0");
        sh("ip addr add 192.0.2.1/24 dev lan0; ip addr add 2001:db8::1/64 dev lan0; ip addr add fe80::1/64 dev lan0");
        for address in
            ["192.0.2.2/24", "192.0.2.3/24", "192.0.2.53/24", "192.0.2.54/24", "2001:db8::2/64", "fe80::53/64"]
        {
            far.exec(&format!("ip addr add {address} dev far0"));
        }
        // An IPv6 address can be used a moment after it is added.
        wait_for("all addresses", || [&here, &far].iter().all(|end| end.exec("ip -6 addr show tentative").is_empty()));
        let ca = Ca::v3("Test Root");
        let router = ca.sign_v3(Leaf::new(NAME).dns(NAME));
        let client = ca.sign_v3(Leaf::new("fd00:8f80:1::1234").ip("fd00:8f80:1::1234"));
        // Programs and threads that this thread starts see the files that it puts in place.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let files = tempfile::tempdir().unwrap();
        sh("mount --make-rprivate /");
        let world = World { far, ca, router, client, files };
        world.host_file("/etc/hosts", "127.0.0.1 localhost\n");
        world.host_file("/etc/resolv.conf", &format!("nameserver {DNS}\n"));
        tell(&world);
    });
}

impl World {
    /// Puts a file of the host in place.
    pub fn host_file(&self, path: &str, text: &str) {
        let own = self.files.path().join(Path::new(path).file_name().unwrap());
        let mounted = own.exists();
        std::fs::write(&own, text).unwrap();
        if !mounted {
            sh(&format!("mount --bind {} {path}", own.display()));
        }
    }

    pub fn router_at(&self, address: &str) -> FakeRouter {
        self.far_end(&SocketAddr::new(address.parse().unwrap(), 443).to_string(), self.good())
    }

    pub fn far_end(&self, address: &str, manners: Manners) -> FakeRouter {
        self.far.run(|| FakeRouter::at(address, manners))
    }

    /// A router that shakes hands, and never sends a frame.
    pub fn mute(&self) -> Manners {
        Manners::Babbles(server(&self.router, &self.router, rustls::ALL_VERSIONS), Vec::new())
    }

    /// A router as it should be.
    pub fn good(&self) -> Manners {
        Manners::Good(server(&self.router, &self.router, rustls::ALL_VERSIONS))
    }

    pub fn name_server(&self, knows: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> NameServer {
        NameServer::start(&self.far, DNS, knows)
    }

    /// A tunnel for everything to the router's name.
    pub fn tunnel(&self) -> Tunnel {
        self.tunnel_to(NAME)
    }

    pub fn tunnel_to(&self, name: &str) -> Tunnel {
        Tunnel { route: EVERYTHING.to_owned(), ..Tunnel::new(name, &self.ca, &self.client) }
    }

    /// The first attempt fails in the look-up, and says so.
    #[track_caller]
    fn fails(&self, texts: &[&str]) {
        let change = self.tunnel().run().until("reconnecting");
        assert_eq!(change.reason, "dns-failed", "{change:#?}");
        for text in [&[NAME], texts].concat() {
            assert!(change.error.contains(text), "{:?} does not contain {text:?}", change.error);
        }
    }
}

/// Counts questions that leave the host, marked and not.
fn count_questions() {
    sh("nft -f - <<'END'
        table inet watch {
            counter marked_udp { }
            counter marked_tcp { }
            counter unmarked { }
            chain out {
                type filter hook postrouting priority 0;
                udp dport 53 meta mark 363 counter name marked_udp
                tcp dport 53 meta mark 363 counter name marked_tcp
                meta l4proto { tcp, udp } th dport 53 meta mark != 363 counter name unmarked
            }
        }\nEND");
}

fn counted(counter: &str) -> u64 {
    let text = sh(&format!("nft list counter inet watch {counter}"));
    text.split_once("packets ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
}

/// Another program's question: what the name server answers, or why it does not get there.
fn another_program_asks(mark: u32) -> std::io::Result<usize> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::Mark, &mark)?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(b"\x05other\x07example\x00\x00\x01\x00\x01");
    socket.send_to(&question, (DNS.parse::<Ipv4Addr>().unwrap(), 53))?;
    socket.recv(&mut [0; 512])
}

fn host() -> Host {
    Host::direct(NAME, 443)
}

fn marked() -> Options {
    Options { mark: MARK, ..Options::default() }
}

#[test]
fn with_everything_in_the_tunnel_the_routers_name_is_looked_up_by_marked_questions_every_time() {
    story("with_everything_in_the_tunnel_the_routers_name_is_looked_up_by_marked_questions_every_time", |world| {
        let moved = Arc::new(AtomicBool::new(false));
        let has_moved = moved.clone();
        let dns = world
            .name_server(move |_| Reply::Addresses(if has_moved.load(SeqCst) { &[NEW_ROUTER] } else { &[ROUTER] }));
        count_questions();
        another_program_asks(0).unwrap();
        assert_eq!((counted("unmarked"), counted("marked_udp")), (1, 0), "the counters count");

        let router = world.router_at(ROUTER);
        let mut run = world.tunnel().run();
        assert_eq!(run.until("connected").line["active_remote"], format!("{NAME}:443"));
        assert!(another_program_asks(0).is_err(), "unmarked questions are blocked");
        assert!(another_program_asks(MARK).is_err(), "and marked ones, once nobody of ours asks any more");
        let (questions, sent) = (dns.questions().len(), counted("marked_udp"));

        // The rules have been in force for a while when the tunnel comes again, to where the router is now.
        let new_router = world.router_at(NEW_ROUTER);
        moved.store(true, SeqCst);
        drop(router);
        run.until("reconnecting");
        assert!(another_program_asks(0).is_err());
        run.until("connected");
        assert_eq!(new_router.connections(), 1);
        assert!(dns.questions().len() > questions && counted("marked_udp") > sent);
        assert_eq!(counted("unmarked"), 1, "no unmarked question left the host");
    });
}

#[test]
fn while_nobody_answers_for_the_name_the_router_is_tried_where_it_was() {
    story("while_nobody_answers_for_the_name_the_router_is_tried_where_it_was", |world| {
        let dns = world.name_server(|_| Reply::Addresses(&[ROUTER]));
        let router = world.router_at(ROUTER);
        let mut run = world.tunnel().run();
        run.until("connected");
        drop((dns, router));
        run.until("reconnecting");
        let router = world.router_at(ROUTER);
        run.until("connected");
        assert_eq!(router.connections(), 1);
    });
}

#[test]
fn a_name_with_only_an_ipv6_address_connects() {
    story("a_name_with_only_an_ipv6_address_connects", |world| {
        let _dns = world.name_server(|_| Reply::Addresses(&[ROUTER6]));
        let _router = world.router_at(ROUTER6);
        world.tunnel().run().until("connected");
    });
}

#[test]
fn a_name_server_that_ignores_questions_for_ipv6_does_not_hide_the_ipv4_address() {
    story("a_name_server_that_ignores_questions_for_ipv6_does_not_hide_the_ipv4_address", |world| {
        let _dns = world.name_server(|question| if question.ipv6 { Reply::Silent } else { knows_the_router(question) });
        let _router = world.router_at(ROUTER);
        let started = std::time::Instant::now();
        world.tunnel().run().until("connected");
        println!("FIGURE connected though nobody answers for IPv6: {} ms", started.elapsed().as_millis());
    });
}

#[test]
fn ipv6_addresses_come_first_and_the_order_is_kept() {
    story("ipv6_addresses_come_first_and_the_order_is_kept", |world| {
        let _dns = world.name_server(|_| Reply::Addresses(&["192.0.2.9", "192.0.2.2", "2001:db8::9", "2001:db8::2"]));
        let found = block_on(resolve(&host(), &marked(), Duration::from_secs(10), async |_| {})).unwrap();
        let expected = ["[2001:db8::9]:443", "[2001:db8::2]:443", "192.0.2.9:443", "192.0.2.2:443"];
        assert_eq!(found, expected.map(|address| address.parse().unwrap()));
    });
}

#[test]
fn the_hosts_file_wins_and_nobody_is_asked() {
    story("the_hosts_file_wins_and_nobody_is_asked", |world| {
        let dns = world.name_server(|_| Reply::Addresses(&["192.0.2.99"]));
        let _router = world.router_at(ROUTER);
        world.host_file("/etc/hosts", &format!("{ROUTER} {NAME}\n"));
        world.tunnel().run().until("connected");
        assert_eq!(dns.questions(), []);
    });
}

#[test]
fn the_files_are_read_again_for_every_attempt() {
    story("the_files_are_read_again_for_every_attempt", |world| {
        let _router = world.router_at(ROUTER);
        let _dns = world.name_server(knows_the_router);
        world.host_file("/etc/resolv.conf", "");
        let mut run = world.tunnel().run();
        assert!(run.until("reconnecting").error.contains("no name server is configured"));
        world.host_file("/etc/resolv.conf", &format!("nameserver {DNS}\n"));
        run.until("connected");
    });
}

#[test]
fn the_stub_of_systemd_resolved_is_passed_by() {
    story("the_stub_of_systemd_resolved_is_passed_by", |world| {
        let _router = world.router_at(ROUTER);
        let stub = NameServer::start(&Netns::here(), "127.0.0.53", knows_the_router);
        let dns = world.name_server(knows_the_router);
        world.host_file("/etc/resolv.conf", "nameserver 127.0.0.53\n");
        // Without a list of the real servers it is asked after all: without "default" it may well know.
        world.tunnel().run().until("connected");
        assert!(!stub.questions().is_empty() && dns.questions().is_empty());

        sh(&format!(
            "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/resolve
             echo 'nameserver {DNS}' > /run/systemd/resolve/resolv.conf"
        ));
        let before = stub.questions().len();
        world.tunnel().run().until("connected");
        assert_eq!(stub.questions().len(), before);
        assert!(!dns.questions().is_empty());
    });
}

#[test]
fn a_short_name_is_looked_up_in_the_search_list() {
    story("a_short_name_is_looked_up_in_the_search_list", |world| {
        let dns = world.name_server(knows_the_router);
        let _router = world.router_at(ROUTER);
        world.host_file("/etc/resolv.conf", &format!("search example.org example.net\nnameserver {DNS}\n"));
        world.tunnel_to("router").run().until("connected");
        let asked: Vec<_> = dns.questions().into_iter().filter(|question| !question.ipv6).map(|q| q.name).collect();
        assert_eq!(asked, ["router.example.org", NAME]);
    });
}

#[test]
fn a_link_local_name_server_is_asked_on_its_interface() {
    story("a_link_local_name_server_is_asked_on_its_interface", |world| {
        let dns = NameServer::start(&world.far, "::", knows_the_router);
        let _router = world.router_at(ROUTER);
        world.host_file("/etc/resolv.conf", "nameserver fe80::53%lan0\n");
        world.tunnel().run().until("connected");
        assert!(!dns.questions().is_empty());
    });
}

#[test]
fn a_truncated_answer_is_asked_for_again_by_marked_tcp() {
    story("a_truncated_answer_is_asked_for_again_by_marked_tcp", |world| {
        let dns =
            world.name_server(|question| if question.tcp { knows_the_router(question) } else { Reply::Truncated });
        let _router = world.router_at(ROUTER);
        count_questions();
        world.tunnel().run().until("connected");
        assert!(dns.questions().iter().any(|question| question.tcp));
        assert!(counted("marked_tcp") > 0);
        assert_eq!(counted("unmarked"), 0);
    });
}

#[test]
fn each_failure_of_a_look_up_is_said_with_name_and_server() {
    story("each_failure_of_a_look_up_is_said_with_name_and_server", |world| {
        let manner = Arc::new(AtomicU8::new(KNOWS));
        let _dns = world.name_server(as_told(&manner));
        for (code, text) in [
            (3, "no such name (NXDOMAIN)"),
            (0, "no address"),
            (5, "refuses to answer us (REFUSED)"),
            (2, "SERVFAIL"),
            (4, "Not Implemented"),
            (SILENT, "does not answer"),
        ] {
            manner.store(code, SeqCst);
            world.fails(&[DNS, text]);
        }
        world.host_file("/etc/resolv.conf", &format!("nameserver {OTHER_DNS}\n"));
        world.fails(&[OTHER_DNS, "does not answer"]);
        sh(&format!("ip route add default via {ROUTER}; ip route add unreachable 198.51.100.1"));
        world.host_file("/etc/resolv.conf", "nameserver 198.51.100.1\n");
        world.fails(&["198.51.100.1", "cannot be asked", "No route to host"]);
        world.host_file("/etc/resolv.conf", "search example.net\n");
        world.fails(&["no name server is configured", "/etc/resolv.conf"]);
    });
}

#[test]
fn the_next_server_is_asked_unless_the_first_knows_that_there_is_nothing() {
    story("the_next_server_is_asked_unless_the_first_knows_that_there_is_nothing", |world| {
        world.host_file("/etc/resolv.conf", &format!("nameserver {OTHER_DNS}\nnameserver {DNS}\n"));
        let (first, second) = (Arc::new(AtomicU8::new(KNOWS)), Arc::new(AtomicU8::new(KNOWS)));
        let dns = world.name_server(as_told(&second));
        let found = || block_on(resolve(&host(), &marked(), Duration::from_secs(4), async |_| {}));
        assert!(found().is_ok(), "the first is not there");
        let _other = NameServer::start(&world.far, OTHER_DNS, as_told(&first));
        for code in [5, 2, SILENT] {
            first.store(code, SeqCst);
            assert_eq!(found().unwrap(), [SocketAddr::new(ROUTER.parse().unwrap(), 443)]);
        }
        let before = dns.questions().len();
        first.store(3, SeqCst);
        let text = found().unwrap_err().to_string();
        assert!(text.contains(OTHER_DNS) && text.contains("NXDOMAIN"), "{text}");
        assert_eq!(dns.questions().len(), before);
        first.store(5, SeqCst);
        second.store(2, SeqCst);
        let text = found().unwrap_err().to_string();
        for part in [OTHER_DNS, "REFUSED", DNS, "SERVFAIL"] {
            assert!(text.contains(part), "{text:?} does not contain {part:?}");
        }
    });
}

#[test]
fn a_look_up_that_is_given_up_leaves_neither_task_nor_socket_behind() {
    story("a_look_up_that_is_given_up_leaves_neither_task_nor_socket_behind", |world| {
        // One server never answers; the other wants to be asked by TCP, and never answers that.
        let silent = |_: &Question| Reply::Silent;
        let silent_by_tcp = |question: &Question| if question.tcp { Reply::Silent } else { Reply::Truncated };
        for (address, dns) in [
            (DNS, NameServer::start(&world.far, DNS, silent)),
            (OTHER_DNS, NameServer::start(&world.far, OTHER_DNS, silent_by_tcp)),
        ] {
            world.host_file("/etc/resolv.conf", &format!("nameserver {address}\n"));
            let sockets = || sh(&format!("ss -Htuan state established dst {address} dport = 53")).lines().count();
            block_on(async {
                let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
                let before = tasks();
                let (name, options) = (host(), marked());
                let mut most = 0;
                for _ in 0..50 {
                    let asked = dns.questions().len();
                    // Given up from outside, as by a disconnect, once the last question that it can ask is on its way.
                    tokio::select! {
                        found = resolve(&name, &options, Duration::from_secs(60), async |_| {}) => panic!("{found:?}"),
                        () = async {
                            let last = |question: &Question| address == DNS || question.tcp;
                            while !dns.questions()[asked..].iter().any(last) || sockets() == 0 {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            most = most.max(sockets());
                        } => {}
                    }
                }
                assert!(most > 0, "sockets are seen while they are there");
                // And given up by its own deadline.
                let error = resolve(&name, &options, Duration::from_millis(300), async |_| {}).await.unwrap_err();
                assert!(matches!(error, ResolveError::NoAddress { .. }), "{error}");
                let all_gone = async {
                    while sockets() > 0 || tasks() > before {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                let ended = tokio::time::timeout(Duration::from_secs(30), all_gone).await;
                ended.unwrap_or_else(|_| panic!("{} sockets and {} tasks are left", sockets(), tasks() - before));
            });
        }
    });
}

#[test]
fn without_the_capability_the_refused_mark_is_said_and_without_a_mark_none_is_needed() {
    story("without_the_capability_the_refused_mark_is_said_and_without_a_mark_none_is_needed", |world| {
        let _dns = world.name_server(knows_the_router);
        let _router = world.router_at(ROUTER);
        // Capabilities are each thread's own.
        for capability in [caps::Capability::CAP_NET_ADMIN, caps::Capability::CAP_NET_RAW] {
            caps::drop(None, caps::CapSet::Effective, capability).unwrap();
        }
        let error = block_on(resolve(&host(), &marked(), Duration::from_secs(10), async |_| {})).unwrap_err();
        assert_eq!((error.reason(), error.class()), (Reason::Config, Class::Environment));
        assert!(error.to_string().contains("CAP_NET_ADMIN") && error.to_string().contains(DNS), "{error}");
        let router = SocketAddr::new(ROUTER.parse().unwrap(), 443);
        let error = block_on(dial::connect(router, &marked(), Duration::from_secs(10))).unwrap_err();
        assert_eq!((error.reason(), error.class()), (Reason::Config, Class::Environment));
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        let unmarked = block_on(resolve(&host(), &Options::default(), Duration::from_secs(10), async |_| {}));
        assert_eq!(unmarked.unwrap(), [SocketAddr::new(ROUTER.parse().unwrap(), 443)]);
    });
}

/// A runtime on this very thread, with its namespaces and capabilities.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
