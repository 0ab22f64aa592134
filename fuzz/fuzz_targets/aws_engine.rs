//! Arbitrary bytes from the service, as they are and as messages, between arbitrary events of local connections, into the
//! engines of a source and of a destination: no panic; each connection ends once and nothing is wanted of it after that; what
//! waits for applications, and how many connections there are, stays within the limits; what is sent are whole frames that
//! hold nothing but what the protocol has.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use enftun::config::{Compat, Limits, Mode};
use enftun::state::Moment;
use enftun::tunnel::aws::engine::{Action, Conn, Engine, LocalEnd, Settings, Violation};
use enftun::tunnel::aws::frames::{Frames, encode};
use enftun::tunnel::aws::message::{Message, Type};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] = ["SSH", "", "db.example.net", "nobody"];

struct End {
    engine: Engine,
    limits: Limits,
    mode: Mode,
    now: Moment,
    services: usize,
    /// Bytes that came before it served.
    early: usize,
    /// What waits for each, and whether it is connected.
    conns: BTreeMap<Conn, (usize, bool)>,
}

impl End {
    fn new(mode: Mode, compat: Compat, limits: Limits) -> Self {
        let engine = Engine::new(Settings { mode, compat, limits });
        Self { engine, limits, mode, now: Moment::ZERO, services: 0, early: 0, conns: BTreeMap::new() }
    }

    /// Does what is wanted; `came`: so many bytes came at once.
    fn act(&mut self, came: usize) {
        while let Some(action) = self.engine.poll() {
            match action {
                Action::Send(frame) => {
                    let mut rest = &frame[..];
                    let message = Frames::default().next(&mut rest).expect("a message").expect("a whole frame");
                    assert!(rest.is_empty() && encode(&message).as_ref() == Some(&frame));
                    let kind = Type::try_from(message.r#type).expect("a type");
                    let start = matches!(kind, Type::StreamStart | Type::ConnectionStart);
                    assert!(self.mode == Mode::Source || !start);
                    assert!(!matches!(kind, Type::Unknown | Type::ServiceIds | Type::SessionReset));
                    assert!(message.stream_id > 0 && message.payload.len() <= Limits::MAX_PAYLOAD);
                }
                Action::Serve(names) => {
                    let ours: Vec<String> = if names.is_empty() { vec![String::new()] } else { names };
                    self.services = ours.len();
                    // A violation in what was kept ends the session; here it goes on, which must not matter.
                    let _ = self.engine.services(&ours, self.now);
                }
                Action::Dial { conn, .. } => {
                    assert_eq!(self.mode, Mode::Destination);
                    self.begin(conn, false);
                }
                Action::Deliver { conn, data } => {
                    let (waiting, connected) = self.conns.get_mut(&conn).expect("a connection");
                    assert!(*connected && !data.is_empty());
                    *waiting += data.len();
                    let most = self.limits.queue + self.early + came + 2 * usize::from(u16::MAX);
                    assert!(*waiting <= most, "{waiting} bytes wait");
                }
                Action::Finish { conn } => {
                    let (waiting, _) = self.conns.remove(&conn).expect("a connection");
                    assert_eq!(waiting, 0);
                }
                Action::Abort { conn, .. } => assert!(self.conns.remove(&conn).is_some()),
            }
        }
        let most = 4 * self.limits.max_connections.max(1) * self.services;
        assert!(self.conns.len() <= most, "{} connections", self.conns.len());
        // Whoever is behind, time or its application will end that; but for those that are still being dialled.
        if !self.engine.may_receive() && self.services > 0 && self.conns.values().all(|(_, connected)| *connected) {
            assert!(self.engine.due().is_some());
        }
    }

    fn begin(&mut self, conn: Conn, connected: bool) {
        assert!(self.conns.insert(conn, (0, connected)).is_none());
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        // Whole pieces of a WebSocket come only while they are wanted.
        if !self.engine.may_receive() {
            return Ok(());
        }
        if self.services == 0 {
            self.early += bytes.len();
        }
        let received = self.engine.receive(bytes, self.now);
        self.act(bytes.len());
        received
    }

    /// One event, of a kind and with two numbers.
    fn event(&mut self, kind: u8, which: u8, amount: u8) -> Result<(), Violation> {
        let picked = self.conns.keys().nth(usize::from(which) % self.conns.len().max(1)).copied();
        let bytes = usize::from(amount) * usize::from(amount);
        match (kind % 12, picked) {
            (0, _) => {
                let name = NAMES[usize::from(which) % NAMES.len()];
                if let Ok(conn) = self.engine.accept(name, self.now) {
                    self.begin(conn, true);
                }
            }
            (1, Some(conn)) => {
                self.engine.dialled(conn, self.now);
                self.conns.entry(conn).and_modify(|(_, connected)| *connected = true);
            }
            (2, Some(conn)) if !self.conns[&conn].1 => {
                self.engine.dial_failed(conn, self.now);
                self.conns.remove(&conn);
            }
            (3, Some(conn)) => self.engine.send(conn, vec![1; bytes].into(), self.now),
            (4, Some(conn)) => self.engine.local_end(conn, LocalEnd::Eof, self.now),
            (5, Some(conn)) => {
                self.engine.local_end(conn, LocalEnd::Broken, self.now);
                self.conns.remove(&conn);
            }
            (6, Some(conn)) => {
                let (waiting, _) = self.conns.get_mut(&conn).expect("it was picked");
                let taken = bytes.min(*waiting);
                *waiting -= taken;
                self.engine.written(conn, taken, self.now);
            }
            (7, _) => {
                self.now += Duration::from_millis(bytes as u64);
                while let Some(due) = self.engine.due().filter(|due| *due <= self.now) {
                    self.engine.wake(self.now);
                    assert!(self.engine.due().is_none_or(|next| next > due), "nothing came of waking it");
                }
            }
            (8, _) if amount == 255 => self.engine.stop(self.now),
            (9, _) => {
                let names = NAMES.iter().take(usize::from(which) % 4).map(ToString::to_string).collect();
                return self.message(Message { available_service_ids: names, ..message(Type::ServiceIds, 0, 0, 0) });
            }
            (10, _) => return self.message(message(Type::Data, which, amount & 7, bytes)),
            (11, _) => {
                let kinds = [Type::StreamStart, Type::ConnectionStart, Type::StreamReset, Type::ConnectionReset];
                let kind = kinds.get(usize::from(amount >> 3)).copied().unwrap_or(Type::SessionReset);
                return self.message(message(kind, which, amount & 7, 0));
            }
            _ => {}
        }
        self.act(0);
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Violation> {
        self.receive(&encode(&message).expect("it is short"))
    }
}

/// `which` is the service and the stream.
fn message(kind: Type, which: u8, connection: u8, payload: usize) -> Message {
    Message {
        r#type: kind.into(),
        stream_id: i32::from(which >> 2 & 3),
        payload: vec![2; payload.min(Limits::MAX_PAYLOAD)].into(),
        service_id: NAMES[usize::from(which & 3)].to_owned(),
        connection_id: connection.into(),
        ..Message::default()
    }
}

// The limits and the version, and then pieces of the input: an event and its numbers; or, where the event says so, how many
// bytes of the service follow, and these bytes.
fuzz_target!(|data: &[u8]| {
    let Some(([settings, scale], script)) = data.split_first_chunk() else { return };
    let compat = [Compat::V1, Compat::V2, Compat::V3][usize::from(settings % 3)];
    let limits = Limits {
        max_connections: usize::from(settings >> 4),
        max_payload: 1 << (scale & 15),
        queue: 1 << (scale >> 4),
        patience: Duration::from_millis(u64::from(*scale) * 10),
        half_close_grace: Duration::from_millis(u64::from(*settings)),
        ..Limits::default()
    };
    for mode in [Mode::Source, Mode::Destination] {
        let mut end = End::new(mode, compat, limits);
        if settings & 8 != 0 {
            end.event(9, 1, 0).expect("services come first");
        }
        let mut rest = script;
        while let [kind, which, amount, after @ ..] = rest {
            rest = after;
            let gone = if *kind < 128 {
                end.event(*kind, *which, *amount).is_err()
            } else {
                let (bytes, after) = after.split_at(after.len().min(usize::from(*amount)));
                rest = after;
                end.receive(bytes).is_err()
            };
            if gone {
                break;
            }
        }
        end.engine.stop(end.now);
        end.act(0);
    }
});
