//! A device is reached through AWS IoT Secure Tunneling: by the manual, on a booted machine, with the service on the LAN.

use crate::bed::{ROUTER, story};
use crate::common::aws_service::{Mode, Service};
use crate::common::netns::Running;
use crate::common::wait_for;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

/// What is sent to the source's port comes back from the device.
fn echoes() -> bool {
    let talk = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect("127.0.0.1:2222")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"through the tunnel")?;
        let mut back = [0; 18];
        stream.read_exact(&mut back)?;
        Ok(&back == b"through the tunnel")
    };
    talk().unwrap_or(false)
}

#[test]
fn a_device_is_reached_with_a_token_from_a_credential_and_again_after_a_restart() {
    let test = "a_device_is_reached_with_a_token_from_a_credential_and_again_after_a_restart";
    story(test, |bed| {
        let address = format!("{ROUTER}:8443");
        let service = bed.far.run(|| Service::at(address.parse().unwrap()));
        let tunnel = service.tunnel(&["SSH"]);
        bed.machine.install(None, &["enftun"]);
        let machine = &bed.machine;
        machine.write("/etc/enftun/service.ca.pem", &std::fs::read_to_string(service.ca_file()).unwrap());
        machine.write("/root/token", &format!("{}\n", tunnel.token(Mode::Destination)));
        machine.write("/etc/systemd/system/echo.socket", "[Socket]\nListenStream=127.0.0.1:22\nAccept=yes\n");
        machine.write("/etc/systemd/system/echo@.service", "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n");
        machine.must(&format!(
            "cp /usr/share/doc/enftun/examples/aws-destination.toml /etc/enftun/tunnels/reach.toml
             sed -i 's/^region = .*/endpoint = \"{address}\"/; s/^#ca_cert_file/ca_cert_file/' /etc/enftun/tunnels/reach.toml
             mkdir -p /etc/systemd/system/enftund.service.d
             printf '[Service]\\nLoadCredential=reach.token:/root/token\\n' >/etc/systemd/system/enftund.service.d/token.conf
             chmod 600 /root/token; systemctl daemon-reload; systemctl start echo.socket; enftunctl check
             systemctl start enftun@reach || (journalctl -b --no-pager -u enftund | tail -n 30 >&2; false); enftunctl wait reach connected --timeout=60s"
        ));
        let mut command = bed.far.command(env!("CARGO_BIN_EXE_enftun-localproxy"));
        command.args(["-e", &address, "-b", "127.0.0.1", "-s", "SSH=2222", "-c"]).arg(service.ca_directory());
        command.env("AWSIOT_TUNNEL_ACCESS_TOKEN", tunnel.token(Mode::Source));
        let _source =
            Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("an echo from the device", || bed.far.run(echoes));

        machine.must("systemctl restart enftund; enftunctl wait reach connected --timeout=60s");
        wait_for("an echo from the device", || bed.far.run(echoes));
        let status = machine.must("enftunctl status reach");
        assert!(status.contains("destination") && status.contains("SSH"), "{status}");
        let modes = machine.must("stat -c '%a %U' /var/lib/enftun/tokens/reach.json");
        assert_eq!(modes, "600 enftun\n");
        let journal = machine.must("journalctl -b --no-pager");
        assert!(!journal.contains(&tunnel.token(Mode::Destination)), "no token is in the journal");
    });
}
