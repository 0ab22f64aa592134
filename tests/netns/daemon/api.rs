//! What the bus offers beside tunnels, by the real daemon on a real kernel: trusted groups, what a reload takes over, warnings.

use super::*;
use crate::common::bus::stderr;

const GROUP: [&str; 3] = ["org.enftun.Enftun1", "/org/enftun/Enftun1/group/lan", "org.enftun.Enftun1.TrustedGroup"];
const EVERYTHING: &str = "prefixes = [\"default\"]\ntrusted_groups = [\"lan\"]";

/// The kernel's group of a link.
fn group(link: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(&ip(&format!("-j -d link show dev {link}"))).unwrap();
    json[0]["group"].as_str().unwrap().to_owned()
}

impl World {
    fn groups(&self, text: &str) {
        write(&self.path().join("etc/enftun.toml"), text.as_bytes(), 0o644);
    }

    fn call(&self, on: [&str; 3], method: &str, arguments: &[&str]) -> Output {
        self.bus.busctl(&[&["call"], &on[..], &[method], arguments].concat())
    }
}

#[test]
fn members_of_a_trusted_group_come_and_go_over_the_bus_and_the_kernel_follows() {
    story("members_of_a_trusted_group_come_and_go_over_the_bus_and_the_kernel_follows", |world| {
        let elsewhere = Netns::new();
        veth(&Netns::here(), "usb0", &elsewhere, "peer0");
        ip("link set usb0 up");
        world.groups(
            "[groups.lan]\nnumber = 400\ninterfaces = [\"eth7\"]\n[groups.other]\nnumber = 401\ninterfaces = [\"eth8\"]\n",
        );
        world.write_tunnel("enf0", "", EVERYTHING);
        stdout(world.ctl(&["reload"]));
        world.connect();
        assert_eq!([world.get(GROUP, "Members"), world.get(GROUP, "Present")], ["as 1 \"eth7\"", "as 0"]);

        // When the call returns, the kernel has it: the routing and the firewall.
        stdout(world.call(GROUP, "AddInterface", &["s", "usb0"]));
        assert_eq!(group("usb0"), "400");
        assert!(sh("nft list table inet enftun").contains("usb0"));
        assert_eq!(world.get(GROUP, "Members"), "as 2 \"eth7\" \"usb0\"");
        assert_eq!(world.get(GROUP, "Configured"), "as 1 \"eth7\"");
        wait_for("the interface to be shown as present", || world.get(GROUP, "Present") == "as 1 \"usb0\"");
        stdout(world.call(GROUP, "AddInterface", &["s", "usb0"]));

        for (interface, why) in [
            ("eth8", "eth8 is already in group other"),
            ("enf0", "enf0 is the device of tunnel enf0"),
            ("lo", "\"lo\" is this host itself"),
            ("an interface", "interface"),
        ] {
            let refused = stderr(world.call(GROUP, "AddInterface", &["s", interface]));
            assert!(refused.contains(why), "{refused}");
        }
        assert_eq!(world.get(GROUP, "Members"), "as 2 \"eth7\" \"usb0\"", "what is refused changes nothing");

        stdout(world.call(GROUP, "RemoveInterface", &["s", "usb0"]));
        assert_eq!(group("usb0"), "default");
        assert!(!sh("nft list table inet enftun").contains("usb0"));

        // What was said holds until the configuration is read again.
        stdout(world.call(GROUP, "AddInterface", &["s", "usb0"]));
        stdout(world.call(MANAGER, "Reload", &["u", "6"]));
        assert_eq!(group("usb0"), "400", "the configuration was not read");
        stdout(world.call(MANAGER, "Reload", &["u", "1"]));
        assert_eq!(group("usb0"), "default");
        assert_eq!(world.get(GROUP, "Members"), "as 1 \"eth7\"");
        assert!(ping(ROUTER), "the session lives on");
        assert!(world.log().contains("group lan trusts usb0 from now on, asked by :1."), "{}", world.log());
    });
}

#[test]
fn the_bus_tells_which_configuration_is_in_force_and_what_to_look_at() {
    story("the_bus_tells_which_configuration_is_in_force_and_what_to_look_at", |world| {
        assert_eq!(world.get(MANAGER, "Startup"), "b false");
        assert_eq!(world.get(MANAGER, "Warnings"), "aa{sv} 0");
        let first = world.get(MANAGER, "ConfigHash");
        assert_eq!(first.len(), "s \"\"".len() + 64, "{first}");
        // A file that was not read is not in force.
        let file = world.tunnel_file("enf0");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("name = \"router.example.net\"\n", "")).unwrap();
        assert_eq!(world.get(MANAGER, "ConfigHash"), first);
        stdout(world.ctl(&["reload"]));
        assert_ne!(world.get(MANAGER, "ConfigHash"), first);
        let warnings = world.get(MANAGER, "Warnings");
        assert!(warnings.contains("\"code\" s \"configuration\" \"severity\" s \"warning\""), "{warnings}");
        std::fs::write(&file, &text).unwrap();
        stdout(world.ctl(&["reload"]));
        assert_eq!((world.get(MANAGER, "ConfigHash"), world.get(MANAGER, "Warnings")), (first, "aa{sv} 0".to_owned()));

        // A file that is gone while its tunnel blocks: reload forgets it; a daemon that starts keeps it blocked, and says so.
        world.connect();
        world.daemon = None;
        std::fs::remove_file(&file).unwrap();
        world.start_daemon();
        let warnings = world.get(MANAGER, "Warnings");
        let expected = "\"code\" s \"kept-blocked\" \"severity\" s \"error\"";
        assert!(warnings.contains(expected) && warnings.contains("\"tunnel\" s \"enf0\""), "{warnings}");
        assert!(stdout(world.ctl(&["status"])).contains("enftunctl clear enf0"), "people are told, too");
    });
}
