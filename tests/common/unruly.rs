//! A detour for packets in the middle: each is held back for a time of its own, lost, or doubled, so that they arrive in
//! another order. What netem does in a kernel that has it.

use super::netns::Netns;
use super::seeded::Seeded;
use enftun::sys::tun::Tun;
use std::sync::Arc;
use std::time::Duration;

/// How packets fare.
#[derive(Clone, Copy, Debug)]
pub struct Unruly {
    /// Each packet is held back between nothing and this.
    pub late: Duration,
    /// Of a hundred.
    pub lost: u64,
    /// Of a hundred.
    pub twice: u64,
}

/// The detour while it is there.
pub struct Detour(Option<tokio::runtime::Runtime>);

impl Unruly {
    /// Makes the TUN device `dev` there. Packets that are routed to it come back from it.
    pub fn start(self, at: &Netns, dev: &str) -> Detour {
        let runtime = at.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let tun = runtime.block_on(async { Tun::open(dev).unwrap() });
            tun.set_carrier(true).unwrap();
            runtime.spawn(self.forward(Arc::new(tun)));
            runtime
        });
        Detour(Some(runtime))
    }

    async fn forward(self, tun: Arc<Tun>) {
        let mut chance = Seeded::new(1);
        let mut packet = [0; 2048];
        loop {
            let Ok(length) = tun.try_recv(&mut packet) else {
                if tun.readable().await.is_err() {
                    return;
                }
                continue;
            };
            let copies = match chance.below(100) {
                roll if roll < self.lost => 0,
                roll if roll < self.lost + self.twice => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let late = Duration::from_micros(chance.below(self.late.as_micros() as u64 + 1));
                let (tun, packet) = (tun.clone(), packet[..length].to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    let _ = tun.try_send(&packet);
                });
            }
        }
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}
