//! How many packets a second pass without loss: a sender and a receiver of our own, so that they cost little beside the tunnel.

use crate::bed::{Bed, INNER_FAR, Outcome};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn6, recvmmsg, sendmmsg, setsockopt, sockopt};
use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// One attempt at one rate.
const TRIAL: Duration = Duration::from_millis(300);
/// The sender wakes so often, and sends what is due.
const TICK: Duration = Duration::from_micros(500);
/// A sender that slept too long makes good for so much and no more: else it would send bursts that nobody asked for.
const BURST: Duration = Duration::from_millis(2);
/// What may still be under way when the sender has finished. More is a queue that grows, at a rate that does not last.
const BACKLOG: Duration = Duration::from_millis(20);
/// So much of what is sent may be lost.
const LOSS: f64 = 0.001;
/// The search ends when the rates that pass and do not are so near to each other, or after so long.
const NEAR_ENOUGH: f64 = 1.05;
const SEARCH: Duration = Duration::from_secs(6);
/// In one system call.
const BATCH: usize = 64;
const PORT: u16 = 9;

/// What arrived of one trial: how many, and when the last did.
type Arrived = Mutex<(u32, usize, Instant)>;

/// The highest rate, in packets a second, at which at most a thousandth is lost and no queue grows. `near` is where to begin.
pub fn highest_rate(bed: &Bed, payload: usize, near: f64) -> Outcome<f64> {
    let said = |error: std::io::Error| error.to_string();
    let receiver = bed.far.run(|| UdpSocket::bind(("::", PORT))).map_err(said)?;
    let sender = bed
        .near
        .run(|| {
            let socket = UdpSocket::bind("[::]:0")?;
            socket.connect((INNER_FAR, PORT))?;
            Ok(socket)
        })
        .map_err(said)?;
    // More than the limit of this host, where we may.
    if setsockopt(&receiver, sockopt::RcvBufForce, &(8 << 20)).is_err() {
        setsockopt(&receiver, sockopt::RcvBuf, &(8 << 20)).map_err(|error| error.to_string())?;
    }
    receiver.set_read_timeout(Some(Duration::from_millis(50))).map_err(said)?;
    let (over, arrived) = (AtomicBool::new(false), Mutex::new((0, 0, Instant::now())));
    std::thread::scope(|scope| {
        scope.spawn(|| receive(&receiver, payload, &over, &arrived));
        let outcome = search(near, |number, rate| trial(&sender, payload, &arrived, number, rate));
        over.store(true, SeqCst);
        outcome
    })
}

/// Doubles or halves until there is a rate that passes and one that does not, and halves what is between.
fn search(near: f64, mut trial: impl FnMut(u32, f64) -> Outcome<Option<f64>>) -> Outcome<f64> {
    let (begun, mut number) = (Instant::now(), 0);
    let (mut passes, mut fails, mut best) = (0.0, f64::INFINITY, 0.0_f64);
    let mut rate = near;
    while begun.elapsed() < SEARCH && fails / passes > NEAR_ENOUGH && rate > 50.0 {
        // A hiccup of this host is no loss of the tunnel's: what failed once is tried once more.
        let mut passed = None;
        for _ in 0..2 {
            number += 1;
            passed = trial(number, rate)?;
            if passed.is_some() {
                break;
            }
        }
        match passed {
            Some(achieved) => {
                best = best.max(achieved);
                passes = rate;
                if achieved < 0.8 * rate {
                    // The sender cannot do more.
                    break;
                }
            }
            None => fails = rate,
        }
        rate = match (passes > 0.0, fails.is_finite()) {
            (true, true) => (passes * fails).sqrt(),
            (true, false) => passes * 1.6,
            (false, _) => fails / 1.6,
        };
    }
    if best > 0.0 { Ok(best) } else { Err("no rate was without loss".to_owned()) }
}

/// Sends at a rate for a while. What arrived a second, where that was without loss.
fn trial(sender: &UdpSocket, payload: usize, arrived: &Arrived, number: u32, rate: f64) -> Outcome<Option<f64>> {
    let mut bytes = vec![0; payload];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let slices: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&bytes)]).collect();
    let nowhere = vec![None::<SockaddrIn6>; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(BATCH, None);
    let begun = Instant::now();
    *arrived.lock().unwrap() = (number, 0, begun);
    let (mut sent, mut forgiven, limit) = (0, 0.0, rate * BURST.as_secs_f64() + 1.0);
    while begun.elapsed() < TRIAL {
        let mut due = rate * begun.elapsed().as_secs_f64() - forgiven - sent as f64;
        if due > limit {
            forgiven += due - limit;
            due = limit;
        }
        let mut due = due as usize;
        while due > 0 {
            let now = due.min(BATCH);
            let results = sendmmsg(sender.as_raw_fd(), &mut headers, &slices[..now], &nowhere, [], MsgFlags::empty());
            let done = results.map_err(|error| format!("sendmmsg: {error}"))?.count().max(1);
            due = due.saturating_sub(done);
            sent += done;
        }
        std::thread::sleep(TICK);
    }
    let finished = Instant::now();
    // Until all of it is there, or nothing comes any more.
    let (mut count, mut last, mut asked) = (0, finished, Instant::now());
    while count < sent && asked.elapsed() < Duration::from_millis(60) && finished.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(2));
        let (_, now, when) = *arrived.lock().unwrap();
        if now != count {
            (count, last, asked) = (now, when, Instant::now());
        }
    }
    let lost = sent.saturating_sub(count) as f64 / sent.max(1) as f64;
    let time = last.max(finished) - begun;
    Ok((lost <= LOSS && last <= finished + BACKLOG).then(|| count as f64 / time.as_secs_f64()))
}

fn receive(receiver: &UdpSocket, payload: usize, over: &AtomicBool, arrived: &Arrived) {
    let mut buffers = vec![vec![0; payload + 1]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(BATCH, None);
    while !over.load(SeqCst) {
        let got = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            // As soon as there is one, with whatever else is there.
            let flags = MsgFlags::MSG_WAITFORONE;
            match recvmmsg(receiver.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
                Ok(results) => results.count(),
                Err(_) => continue,
            }
        };
        let now = Instant::now();
        let mut arrived = arrived.lock().unwrap();
        let of_this = |buffer: &&Vec<u8>| buffer[..4] == arrived.0.to_be_bytes();
        let count = buffers[..got].iter().filter(of_this).count();
        if count > 0 {
            *arrived = (arrived.0, arrived.1 + count, now);
        }
    }
}
