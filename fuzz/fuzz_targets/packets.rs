//! Whatever the bytes are: only packets of the own address enter the tunnel, and out of it comes nothing that claims to be
//! this host or its link, or is meant for another.
#![no_main]

use enftun::tunnel::enf::filter::{Filter, Ingress};
use enftun::tunnel::enf::{heartbeat, packet};
use libfuzzer_sys::fuzz_target;
use std::net::{Ipv4Addr, Ipv6Addr};

const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x8f80, 0, 0, 0, 0, 0, 0x1234);
const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 7);

fuzz_target!(|data: &[u8]| {
    let everything = ["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()];
    let filter = Filter::new(OWN, Some(OWN_V4), &everything);
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&data[at..at + 16]).unwrap());
    let v4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&data[at..at + 4]).unwrap());
    let is_v4 = data.first().is_some_and(|first| first >> 4 == 4);
    if filter.egress(data).is_ok() {
        if is_v4 { assert_eq!(v4(12), OWN_V4) } else { assert_eq!(v6(8), OWN) }
    }
    if filter.ingress(data, true) == Ingress::Deliver {
        if is_v4 {
            assert!(v4(12) != OWN_V4 && (v4(16) == OWN_V4 || v4(16).is_multicast()));
        } else {
            let source = v6(8);
            assert!(source != OWN && !source.is_loopback() && !source.is_multicast());
            assert!(!source.is_unicast_link_local() || source == packet::ROUTER);
            assert!(v6(24) == OWN || v6(24).is_multicast());
        }
    }
    let without_v4 = Filter::new(OWN, None, &everything);
    assert!(!is_v4 || (without_v4.egress(data).is_err() && without_v4.ingress(data, true) != Ingress::Deliver));
    let _ = heartbeat::answer(data, OWN);
    if let Some(reply) = packet::echo_reply(data, OWN) {
        assert_eq!(reply.len(), data.len());
    }
});
