//! A flood from another core while the whole table is replaced, again and again.

use crate::bed::{Bed, Example, figure, story, times};
use crate::catalogue::flood;
use crate::probes::Probing;
use std::time::{Duration, SystemTime};

#[test]
fn not_one_packet_of_a_flood_passes_while_the_table_is_replaced() {
    story("not_one_packet_of_a_flood_passes_while_the_table_is_replaced", Example::Device, |bed| {
        let probing = Probing::start_with_pause(bed, flood(bed), Duration::ZERO);
        bed.close(&probing);
        let begun = SystemTime::now();
        let replaced = |bed: &Bed| bed.log().matches("nft: replace table inet enftun").count();
        let (before, mut seen) = (replaced(bed), 0);
        let wanted = if times(1) == 100 { 1000 } else { 40 };
        while seen < wanted {
            // Each session changes what the table lets out: dialling, connected, not any more.
            bed.must("reconnect", &["--wait=30s"]);
            bed.nothing_left(&probing, "while the table is replaced", begun);
            seen = replaced(bed) - before;
        }
        bed.tunnel_carries();
        figure(&format!("the table was replaced {seen} times under a flood"));
    });
}
