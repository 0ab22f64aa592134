//! OpenSSL at the other end, with the certificates of the C client's kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use enftun::transport::tls::{client_config, server_config, server_name};
use enftun::transport::trust::client_identity;
use rustls::{ClientConnection, ServerConnection, Stream};

use super::{HEX_ADDRESS, Scene};
use crate::common::certs::{Alg, Ca, Identity, Leaf};
use crate::common::skip;

/// Ends with the test, whatever happens.
struct Openssl(Child);

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(arguments: &[&str]) -> Openssl {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Openssl(command.spawn().unwrap())
}

fn missing(test: &str) -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        skip(test, "no openssl");
    }
    missing
}

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

#[test]
fn openssl_reads_what_the_makers_write() {
    if missing("openssl_reads_what_the_makers_write") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for alg in [Alg::P256, Alg::P384, Alg::Rsa2048, Alg::Ed25519] {
        let ca = Ca { identity: Identity::self_signed_v1(Leaf::new("Fleet").alg(alg)) };
        let ca_file = ca.write(dir.path(), "ca");
        for identity in
            [ca.sign_v1(Leaf::new("v1").alg(alg)), ca.sign_v2("v2"), ca.sign_v3(Leaf::new("v3").dns("a.example"))]
        {
            let (cert_file, _) = identity.write(dir.path(), "leaf");
            let output =
                Command::new("openssl").args(["verify", "-CAfile"]).args([&ca_file, &cert_file]).output().unwrap();
            assert!(output.status.success(), "{alg:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn our_router_serves_an_openssl_client_with_a_v1_certificate() {
    if missing("our_router_serves_an_openssl_client_with_a_v1_certificate") {
        return;
    }
    let ca = Ca::v1("Fleet");
    let (router, client) = (ca.sign_v1("router.enftun.example"), ca.sign_v1(HEX_ADDRESS));
    let scene = Scene::new(&ca, &router, &client);
    let ca_file = ca.write(scene.dir.path(), "ca");
    let (cert, key) = client.write(scene.dir.path(), "client");
    for version in VERSIONS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = openssl(&[
            "s_client",
            "-connect",
            &address,
            version,
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            ca_file.to_str().unwrap(),
            "-cert",
            cert.to_str().unwrap(),
            "-key",
            key.to_str().unwrap(),
        ]);
        writeln!(client.0.stdin.as_mut().unwrap(), "hello").unwrap();

        let (mut tcp, _) = listener.accept().unwrap();
        let config = server_config(&scene.router, scene.client_trust.clone(), &scene.versions).unwrap();
        let mut connection = ServerConnection::new(config).unwrap();
        let mut hello = [0; 6];
        Stream::new(&mut connection, &mut tcp).read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello\n", "{version}");
        let identity = client_identity(connection.peer_certificates().unwrap(), &scene.client_trust).unwrap();
        assert_eq!(identity.address.to_string(), "fd00:8f80:1::1234");

        Stream::new(&mut connection, &mut tcp).write_all(b"welcome\n").unwrap();
        let mut line = String::new();
        BufReader::new(client.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "welcome\n", "{version}");
    }
}

#[test]
fn our_client_talks_to_an_openssl_router_with_a_v1_certificate_that_is_the_ca_file() {
    if missing("our_client_talks_to_an_openssl_router_with_a_v1_certificate_that_is_the_ca_file") {
        return;
    }
    let router = Identity::self_signed_v1("router.enftun.example");
    let client = Identity::self_signed_v1(HEX_ADDRESS);
    let scene = Scene::new(&router.as_issuer(), &router, &client);
    let (cert, key) = router.write(scene.dir.path(), "router");
    let (client_ca, _) = client.write(scene.dir.path(), "client");
    // The issuers that OpenSSL asks for are not ours: the client must answer all the same.
    let other_ca = Ca::v1("Stranger").write(scene.dir.path(), "stranger");
    for version in VERSIONS {
        // Reverses each line; a client without a valid certificate is turned away.
        let mut server = openssl(&[
            "s_server",
            "-accept",
            "127.0.0.1:0",
            version,
            "-rev",
            "-Verify",
            "1",
            "-verify_return_error",
            "-verifyCAfile",
            client_ca.to_str().unwrap(),
            "-CAfile",
            other_ca.to_str().unwrap(),
            "-cert",
            cert.to_str().unwrap(),
            "-key",
            key.to_str().unwrap(),
        ]);
        let mut output = BufReader::new(server.0.stdout.take().unwrap());
        let address: SocketAddr = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "openssl ended before it listened");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim().parse().unwrap();
            }
        };
        let mut tcp = TcpStream::connect(address).unwrap();
        let credentials = scene.client.as_ref().unwrap();
        let config = client_config(credentials, scene.router_trust.clone(), &scene.versions).unwrap();
        let mut connection = ClientConnection::new(config, server_name(None, address.ip())).unwrap();
        Stream::new(&mut connection, &mut tcp).write_all(b"drawer\n").unwrap();
        let mut answer = [0; 7];
        Stream::new(&mut connection, &mut tcp).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"reward\n", "{version}");
    }
}
