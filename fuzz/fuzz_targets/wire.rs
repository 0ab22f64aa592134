//! What a far end may write: frames are taken in order, each as long as it says, and what was put is taken again.
#![no_main]

use enftun::tunnel::enf::frame::{self, HEADER, MAX_PACKET};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut wire = Vec::new();
    let mut taken = 0;
    while let Ok(Some((packet, behind))) = frame::take(rest) {
        assert_eq!(rest.len(), HEADER + packet.len() + behind.len());
        assert!(packet.len() <= MAX_PACKET);
        assert!(frame::put(packet, &mut wire));
        taken += HEADER + packet.len();
        rest = behind;
    }
    assert_eq!(wire, data[..taken]);
});
