//! Arbitrary bytes as one packet: what is read from the header agrees with the bytes.
#![no_main]

use enftun::tunnel::enf::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match Packet::parse(data) {
    Some(Packet::V4 { source, destination }) => {
        assert_eq!(data[12..16], source.octets());
        assert_eq!(data[16..20], destination.octets());
    }
    Some(Packet::V6 { source, destination, next_header, payload }) => {
        assert_eq!(data[8..24], source.octets());
        assert_eq!(data[24..40], destination.octets());
        assert_eq!((data[6], &data[40..]), (next_header, payload));
    }
    None => {}
});
