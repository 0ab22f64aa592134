use super::*;
use crate::identity::{Algorithm, keypair};
use argon2::{Argon2, Params, PasswordHasher};
use std::path::Path;

const OWN: &str = "fd00:8f80:1::1";

/// A desk with the users `alice`, `bob` (who has a network of his own and two addresses at most) and `once`.
struct Room {
    dir: tempfile::TempDir,
    desk: Desk,
}

fn peer() -> SocketAddr {
    "192.0.2.7:4711".parse().unwrap()
}

/// A hash that costs nothing.
fn cheap(password: &str) -> String {
    static SALT: AtomicU64 = AtomicU64::new(0);
    let salt = format!("saltsalt{}", SALT.fetch_add(1, Relaxed));
    let argon2 = Argon2::from(Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password_with_salt(password.as_bytes(), salt.as_bytes()).unwrap().to_string()
}

fn key() -> PublicKey {
    PublicKey::of(&keypair(Algorithm::P256).unwrap()).unwrap()
}

fn open(dir: &Path) -> Desk {
    let text = format!(
        "endpoints_dir = \"endpoints\"\ntun.addresses = [\"{OWN}/64\"]\n\
         enrol = {{ listen = \"[::1]:8443\", network = \"fd00:8f80:1::/64\" }}\n"
    );
    let (config, findings) = config::parse_router(&dir.join("router.toml"), &text);
    assert_eq!(findings, []);
    let config = config.unwrap();
    Desk::open(&config, config.enrol.as_ref().unwrap()).unwrap()
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let room = Self { desk: open(dir.path()), dir };
        room.write(&format!(
            "alice:{}\nbob:{}:network=fd00:8f80:2::/64,max=2\nonce:{}:once\n",
            cheap("a"),
            cheap("b"),
            cheap("c")
        ));
        room
    }

    fn write(&self, users: &str) {
        crate::files::replace(&self.dir.path().join("users"), users.as_bytes(), 0o600).unwrap();
    }

    fn users(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("users")).unwrap()
    }

    fn log_in(&self, user: &str, password: &str) -> Result<LoginAnswer, Refusal> {
        let request = LoginRequest { username: user.into(), token: Secret::new(password.into()) };
        self.desk.log_in(&request, peer(), Instant::now())
    }

    fn grant(&self, user: &str, password: &str) -> Grant {
        let answer = self.log_in(user, password).unwrap();
        let token = answer.data[0].token.clone().unwrap();
        self.desk.holder(token.expose(), Instant::now()).unwrap()
    }

    fn ask(&self, grant: &Grant, wanted: &str, key: &PublicKey) -> Result<Enrolled, Refusal> {
        let address_request = match wanted.parse() {
            Ok(network) => AddressRequest::Network(network),
            Err(_) => AddressRequest::Address(wanted.parse().unwrap()),
        };
        let request = EndpointRequest { ecdsa_credential: Credential::of(key), address_request };
        self.desk.enrol(grant, &request, peer(), &|address| address.to_string() == "fd00:8f80:1::ca")
    }

    fn endpoint(&self, address: &str) -> Endpoint {
        self.desk.registry.find(address.parse().unwrap()).unwrap().unwrap()
    }
}

fn address(enrolled: &Enrolled) -> String {
    let (Enrolled::New(answer) | Enrolled::Renewed(answer) | Enrolled::Repeated(answer)) = enrolled;
    answer.address.clone().unwrap()
}

const ANY: &str = "fd00:8f80:1::/64";

#[test]
fn a_login_gives_a_token_and_the_network_and_nothing_tells_users_and_strangers_apart() {
    let room = Room::new();
    let answer = room.log_in("bob", "b").unwrap();
    assert_eq!(answer.data[0].domain_network, "fd00:8f80:2::/64".parse().ok());
    assert_eq!(answer.page, Page { curr: 0, next: -1, prev: -1 });
    for (user, password) in [("alice", "b"), ("alice", ""), ("", ""), ("eve", "a"), ("alice ", "a"), ("Alice", "a")] {
        assert_eq!(room.log_in(user, password), Err(Refusal::Login), "{user}");
    }
    assert_eq!(room.desk.holder("", Instant::now()), None);
}

#[test]
fn an_address_is_of_the_users_network_and_on_disk_with_all_that_is_known() {
    let room = Room::new();
    let (alice, bob, key) = (room.grant("alice", "a"), room.grant("bob", "b"), key());
    let first = room.ask(&alice, ANY, &key).unwrap();
    assert!(matches!(first, Enrolled::New(_)));
    let stored = room.endpoint(&address(&first));
    assert_eq!((stored.user.as_deref(), stored.has_only(key.spki()), &stored.used[..]), (Some("alice"), true, &[][..]));
    let Enrolled::New(answer) = &first else { unreachable!() };
    assert_eq!(answer.active_credentials.body[0].public_key(), Some(key.clone()));
    assert!(answer.creation_timestamp.as_ref().unwrap().ends_with('Z'));

    assert!(matches!(room.ask(&bob, ANY, &key), Err(Refusal::OtherNetwork { .. })));
    assert!(matches!(room.ask(&bob, "fd00:8f80:1::7", &key), Err(Refusal::OtherNetwork { .. })));
    assert_eq!(address(&room.ask(&bob, "fd00:8f80:2::7", &key).unwrap()), "fd00:8f80:2::7");
}

#[test]
fn who_asks_again_for_the_same_key_gets_the_same_address() {
    let room = Room::new();
    let (alice, one, two) = (room.grant("alice", "a"), key(), key());
    let first = address(&room.ask(&alice, ANY, &one).unwrap());
    let again = room.ask(&alice, ANY, &one).unwrap();
    assert!(matches!(again, Enrolled::Repeated(_)) && address(&again) == first);
    assert!(matches!(room.ask(&alice, &first, &one), Ok(Enrolled::Repeated(_))));
    assert_ne!(address(&room.ask(&alice, ANY, &two).unwrap()), first, "another key is another endpoint");
    assert_eq!(room.desk.registry.list().unwrap().len(), 2);
}

#[test]
fn an_own_address_gets_another_key_and_anothers_does_not() {
    let room = Room::new();
    room.write(&format!("{}carl:{}\n", room.users(), cheap("c")));
    let (alice, carl, one, two) = (room.grant("alice", "a"), room.grant("carl", "c"), key(), key());
    let own = address(&room.ask(&alice, ANY, &one).unwrap());
    assert!(matches!(room.ask(&carl, &own, &two), Err(Refusal::Taken { .. })));
    assert!(room.endpoint(&own).has_only(one.spki()));
    assert!(matches!(room.ask(&alice, &own, &two), Ok(Enrolled::Renewed(_))));
    let stored = room.endpoint(&own);
    assert!(stored.has_only(two.spki()) && stored.modified.is_some());
    // What an administrator enrolled is no user's.
    let by_hand =
        Endpoint { pem: encode("PUBLIC KEY", one.spki()), ..Endpoint::unknown("fd00:8f80:1::9".parse().unwrap()) };
    room.desk.registry.write().unwrap().create(&by_hand).unwrap();
    assert!(matches!(room.ask(&alice, "fd00:8f80:1::9", &one), Err(Refusal::Taken { .. })));
}

#[test]
fn nobody_gets_what_cannot_be_a_clients_is_the_routers_or_in_use() {
    let room = Room::new();
    let (alice, key) = (room.grant("alice", "a"), key());
    for reserved in ["fd00:8f80:1::", "fd00:8f80:1:0:fdff:ffff:ffff:ffff"] {
        assert!(matches!(room.ask(&alice, reserved, &key), Err(Refusal::Address { .. })), "{reserved}");
    }
    for taken in [OWN, "fd00:8f80:1::ca"] {
        assert!(matches!(room.ask(&alice, taken, &key), Err(Refusal::Taken { .. })), "{taken}");
    }
    assert!(room.ask(&alice, "fd00:8f80:1::2", &key).is_ok());
}

#[test]
fn a_revoked_address_is_given_to_nobody_and_makes_room_for_another() {
    let room = Room::new();
    let (bob, keys) = (room.grant("bob", "b"), [key(), key(), key()]);
    let net = "fd00:8f80:2::/64";
    let first = address(&room.ask(&bob, net, &keys[0]).unwrap());
    room.ask(&bob, net, &keys[1]).unwrap();
    assert_eq!(room.ask(&bob, net, &keys[2]), Err(Refusal::TooMany { max: 2 }));
    assert_eq!(room.ask(&bob, "fd00:8f80:2::7", &keys[2]), Err(Refusal::TooMany { max: 2 }));
    room.desk.registry.write().unwrap().revoke(first.parse().unwrap(), 7).unwrap();
    assert!(matches!(room.ask(&bob, &first, &keys[0]), Err(Refusal::Revoked { .. })));
    assert_ne!(
        address(&room.ask(&bob, net, &keys[0]).unwrap()),
        first,
        "another address, for whoever has the password"
    );
}

#[test]
fn a_one_time_password_is_good_for_one_enrolment_and_its_repetition() {
    let room = Room::new();
    let (one, two) = (key(), key());
    // Two logins before the first enrolment make no two.
    let (once, other) = (room.grant("once", "c"), room.grant("once", "c"));
    let first = address(&room.ask(&once, ANY, &one).unwrap());
    assert_eq!(room.ask(&other, ANY, &two), Err(Refusal::UsedUp));
    assert_eq!(room.ask(&once, &first, &two), Err(Refusal::UsedUp), "nor another key for the address");
    assert_eq!(room.ask(&once, "fd00:8f80:1::7", &one), Err(Refusal::UsedUp));
    assert!(matches!(room.ask(&other, ANY, &one), Ok(Enrolled::Repeated(_))));

    // A router that starts anew knows it from the same file.
    let room = Room { desk: open(room.dir.path()), ..room };
    let again = room.grant("once", "c");
    assert_eq!(room.ask(&again, ANY, &two), Err(Refusal::UsedUp));
    assert_eq!(address(&room.ask(&again, ANY, &one).unwrap()), first);
    room.desk.registry.write().unwrap().revoke(first.parse().unwrap(), 7).unwrap();
    assert_eq!(room.ask(&again, ANY, &one), Err(Refusal::UsedUp), "nor after a revocation");

    // A new password is a new one, also if it is the same.
    let text = room.users();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("once")).collect();
    room.write(&format!("{}\nonce:{}:once\n", lines.join("\n"), cheap("c")));
    assert_eq!(room.ask(&again, ANY, &two), Err(Refusal::Token), "logins by the old one are over");
    assert!(matches!(room.ask(&room.grant("once", "c"), ANY, &two), Ok(Enrolled::New(_))));
}

#[test]
fn a_user_who_is_gone_or_has_another_password_has_to_log_in_again() {
    let room = Room::new();
    let (alice, bob, key) = (room.grant("alice", "a"), room.grant("bob", "b"), key());
    room.write(&format!("# changed\nalice:{}\n", cheap("new")));
    for grant in [&alice, &bob] {
        assert_eq!(room.ask(grant, ANY, &key), Err(Refusal::Token), "{grant:?}");
    }
    assert_eq!(room.log_in("alice", "a"), Err(Refusal::Login));
    assert!(room.ask(&room.grant("alice", "new"), ANY, &key).is_ok());
    std::fs::remove_file(room.dir.path().join("users")).unwrap();
    assert_eq!(room.log_in("alice", "new"), Err(Refusal::Login), "no file is nobody");
}

#[test]
fn logins_are_limited_by_source_and_by_user_whether_there_is_one_or_not() {
    let room = Room::new();
    let now = Instant::now();
    let from = |host: u32| SocketAddr::new(IpAddr::V4((0xc000_0200 + host).into()), 1);
    for user in ["alice", "nobody"] {
        let refused = (0..11).filter(|host| room.desk.may_try(user, from(*host), now).is_err()).count();
        assert_eq!(refused, 1, "{user}");
    }
    let names: Vec<_> = (0..21).map(|at| format!("user{at}")).collect();
    let refused = names.iter().filter(|name| room.desk.may_try(name, from(99), now).is_err()).count();
    assert_eq!(refused, 1);
    let later = now + LOGINS_OF_USER.1;
    assert_eq!(room.desk.may_try("alice", from(1), later), Ok(()));
    assert!(matches!(room.desk.may_try("alice", from(1), later), Err(Refusal::TooOften { .. })));
}

#[test]
fn two_hundred_at_once_get_as_many_addresses() {
    let room = Room::new();
    room.write(&format!("alice:{}:max=1000\n", cheap("a")));
    let grant = room.grant("alice", "a");
    let addresses: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..25).map(|_| address(&room.ask(&grant, ANY, &key()).unwrap())).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: std::collections::HashSet<_> = addresses.iter().collect();
    assert_eq!((distinct.len(), room.desk.registry.list().unwrap().len()), (200, 200));
}
