//! What a packet costs before and after encryption: framing, filter, checksum, splitting, coalescing.
//! `cargo bench --bench packets`
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use enftun::sys::tun::Offloads;
use enftun::sys::vnet::Vnet;
use enftun::tunnel::enf::filter::Filter;
use enftun::tunnel::enf::frame;
use enftun::tunnel::enf::offload::{Gro, Limits, Splitter, Unit, check, checksum};
use samples::{ACK, Flow};
use std::hint::black_box;

#[path = "../src/tunnel/enf/offload/samples.rs"]
#[allow(dead_code)]
mod samples;

/// Bytes of a packet: a small one, and a full one of the usual MTU.
const LENGTHS: [usize; 2] = [64, 1280];
const RECORD: usize = 16 * 1024;

fn packet(flow: &Flow, length: usize) -> Vec<u8> {
    flow.packet(1, 1, ACK, &samples::payload(1, length - flow.headers()))
}

/// The flow's packets of this length that make one full super-packet, and that.
fn batch(flow: &Flow, length: usize) -> (Vec<Vec<u8>>, (Vnet, Vec<u8>)) {
    let size = length - flow.headers();
    let most = (65_535 - flow.headers()) / size;
    let payload = samples::payload(1, size * if flow.tcp { most } else { most.min(64) });
    (flow.packets(1, 1, ACK, &payload, size), flow.unit(1, 1, ACK, &payload, size as u16))
}

fn total(packets: &[Vec<u8>]) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: packets.len() as u64,
        bytes: packets.iter().map(Vec::len).sum::<usize>() as u64,
    }
}

fn framing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("framing");
    for length in LENGTHS {
        let packets = vec![packet(&Flow::udp(true), length); RECORD / (length + frame::HEADER)];
        group.throughput(total(&packets));
        let mut record = Vec::with_capacity(RECORD);
        group.bench_function(BenchmarkId::new("put", length), |bencher| {
            bencher.iter(|| {
                record.clear();
                packets.iter().all(|packet| frame::put(black_box(packet), &mut record))
            });
        });
        group.bench_function(BenchmarkId::new("take", length), |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(&record[..]);
                while let Some((packet, after)) = frame::take(rest).unwrap() {
                    black_box(packet);
                    rest = after;
                }
            });
        });
    }
    group.finish();
}

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [64, 1280, 65_535] {
        let bytes = samples::payload(1, length);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| checksum::sum(black_box(&bytes)));
        });
    }
    group.finish();
}

fn filter(criterion: &mut Criterion) {
    let own = "fd00:8f80:1::1234".parse().unwrap();
    let filter = Filter::new(own, None, &["::/0".parse().unwrap()]);
    let mut group = criterion.benchmark_group("filter");
    for length in LENGTHS {
        let out = packet(&Flow::udp(true), length);
        let mut back = out.clone();
        back[8..40].rotate_left(16);
        assert!(filter.egress(&out).is_ok());
        group.bench_function(BenchmarkId::new("egress", length), |bencher| {
            bencher.iter(|| filter.egress(black_box(&out)));
        });
        group.bench_function(BenchmarkId::new("ingress", length), |bencher| {
            bencher.iter(|| filter.ingress(black_box(&back), false));
        });
    }
    group.finish();
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for (name, flow, length) in cases() {
        let (packets, (vnet, super_packet)) = batch(&flow, length);
        group.throughput(total(&packets));
        let mut record = Vec::with_capacity(RECORD);
        group.bench_function(BenchmarkId::new(name, length), |bencher| {
            bencher.iter(|| {
                let mut splitter = Splitter::new(black_box(Unit { vnet, packet: &super_packet })).unwrap();
                while let Some(length) = splitter.next_len() {
                    if record.len() + length > RECORD {
                        record.clear();
                    }
                    splitter.append(&mut record);
                }
            });
        });
    }
    group.finish();
}

fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    for (name, flow, length) in cases() {
        let (_, (vnet, super_packet)) = batch(&flow, length);
        let limits = Limits { mtu: 1280, udp: true };
        assert!(check(Unit { vnet, packet: &super_packet }, &limits).is_ok());
        group.bench_function(BenchmarkId::new(name, length), |bencher| {
            bencher.iter(|| check(black_box(Unit { vnet, packet: &super_packet }), &limits));
        });
    }
    group.finish();
}

fn gro(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gro");
    let mut gro = Gro::new();
    gro.for_sink(Offloads { tcp: true, udp: true });
    let mut run = |name: &str, length: usize, packets: &[Vec<u8>], units: usize| {
        group.throughput(total(packets));
        let mut batch = || {
            let mut made = 0;
            let mut each = |unit: Unit<'_>| {
                black_box(unit);
                made += 1;
            };
            for packet in black_box(packets) {
                gro.push(packet, &mut each);
            }
            gro.flush(&mut each);
            made
        };
        assert_eq!(batch(), units, "{name}");
        group.bench_function(BenchmarkId::new(name, length), |bencher| bencher.iter(&mut batch));
    };
    for (name, flow, length) in cases() {
        run(name, length, &batch(&flow, length).0, 1);
    }
    // What there is nothing to be gained from.
    let lone: Vec<_> = (0..64).map(|port| packet(&Flow { port, ..Flow::udp(true) }, 64)).collect();
    run("udp of 64 flows", 64, &lone, 64);
    let acknowledgements = vec![packet(&Flow::tcp(true), 72); 64];
    run("tcp acknowledgements", 72, &acknowledgements, 64);
    group.finish();
}

fn cases() -> [(&'static str, Flow, usize); 4] {
    [
        ("tcp", Flow::tcp(true), 1280),
        ("tcp over ipv4", Flow::tcp(false), 1280),
        ("udp", Flow::udp(true), 1024),
        ("udp", Flow::udp(true), 64),
    ]
}

criterion_group!(benches, framing, sums, filter, split, checks, gro);
criterion_main!(benches);
