//! An engine with hands on both sides of it: messages of the other end go in, and what comes out is told in words.

mod destination;
mod opening;
mod pace;
mod source;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Limits;

pub(super) fn at(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

pub(super) struct End {
    pub engine: Engine,
    pub now: Moment,
}

/// What the engine wants, as people would say it: `start 1/1 SSH`, `dial #1 SSH`, `deliver #1 hi`.
pub(super) type Told = Vec<String>;

impl End {
    /// Serves these.
    pub fn new(mode: Mode, compat: Compat, services: &[&str]) -> Self {
        Self::with(mode, compat, services, |_| {})
    }

    pub fn with(mode: Mode, compat: Compat, services: &[&str], change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let mut end = Self { engine: Engine::new(Settings { mode, compat, limits }), now: at(0) };
        let names: Vec<String> = services.iter().map(ToString::to_string).collect();
        let announced = Message { available_service_ids: names.clone(), ..message(Type::ServiceIds, 0, "", 0) };
        end.take(announced).unwrap();
        assert_eq!(end.engine.poll(), Some(Action::Serve(names.clone())));
        end.engine.services(&names, end.now).unwrap();
        end
    }

    pub fn source(services: &[&str]) -> Self {
        Self::new(Mode::Source, Compat::V3, services)
    }

    pub fn destination(services: &[&str]) -> Self {
        Self::new(Mode::Destination, Compat::V3, services)
    }

    pub fn take(&mut self, message: Message) -> Result<(), Violation> {
        self.engine.receive(&frames::encode(&message).unwrap(), self.now)
    }

    /// The same from the other end, and what comes of it.
    pub fn on(&mut self, kind: Type, stream: i32, service: &str, id: u32) -> Told {
        self.take(message(kind, stream, service, id)).unwrap();
        self.told()
    }

    pub fn on_data(&mut self, stream: i32, service: &str, id: u32, data: &[u8]) -> Told {
        self.take(data_message(stream, service, id, data)).unwrap();
        self.told()
    }

    pub fn accept(&mut self, service: &str) -> Conn {
        self.engine.accept(service, self.now).unwrap()
    }

    pub fn dialled(&mut self, conn: u64) -> Told {
        self.engine.dialled(Conn(conn), self.now);
        self.told()
    }

    pub fn send(&mut self, conn: Conn, data: &[u8]) -> Told {
        self.engine.send(conn, Bytes::copy_from_slice(data), self.now);
        self.told()
    }

    pub fn local_end(&mut self, conn: Conn, how: LocalEnd) -> Told {
        self.engine.local_end(conn, how, self.now);
        self.told()
    }

    pub fn written(&mut self, conn: Conn, bytes: usize) -> Told {
        self.engine.written(conn, bytes, self.now);
        self.told()
    }

    /// Lets time pass, waking the engine whenever it is due.
    pub fn pass(&mut self, milliseconds: u64) -> Told {
        let until = self.now + at(milliseconds);
        while let Some(due) = self.engine.due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.engine.wake(self.now);
            assert_ne!(self.engine.due(), Some(due), "nothing came of waking it");
        }
        self.now = until;
        self.engine.wake(self.now);
        self.told()
    }

    pub fn told(&mut self) -> Told {
        std::iter::from_fn(|| self.engine.poll()).map(|action| tell(&action)).collect()
    }
}

pub(super) fn message(kind: Type, stream: i32, service: &str, id: u32) -> Message {
    Message {
        r#type: kind.into(),
        stream_id: stream,
        service_id: service.into(),
        connection_id: id,
        ..Message::default()
    }
}

pub(super) fn data_message(stream: i32, service: &str, id: u32, data: &[u8]) -> Message {
    Message { payload: Bytes::copy_from_slice(data), ..message(Type::Data, stream, service, id) }
}

fn tell(action: &Action) -> String {
    match action {
        Action::Send(frame) => {
            let Message { r#type, stream_id, payload, service_id, connection_id, .. } =
                Frames::default().next(&mut &frame[..]).unwrap().unwrap();
            let kind = match Type::try_from(r#type).unwrap() {
                Type::Data => "data",
                Type::StreamStart => "start",
                Type::StreamReset => "reset stream",
                Type::ConnectionStart => "start connection",
                Type::ConnectionReset => "reset connection",
                other => panic!("{other:?} is never sent"),
            };
            let payload = String::from_utf8_lossy(&payload[..payload.len().min(20)]);
            let ids = format!("{stream_id}/{connection_id}");
            let words = [kind, &ids, &service_id, &payload];
            words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        }
        Action::Serve(names) => format!("serve {}", names.join(",")),
        Action::Dial { conn, service } => format!("dial #{} {service}", conn.0).trim_end().to_owned(),
        Action::Deliver { conn, data } if data.len() > 20 => format!("deliver #{} {} bytes", conn.0, data.len()),
        Action::Deliver { conn, data } => format!("deliver #{} {}", conn.0, String::from_utf8_lossy(data)),
        Action::Finish { conn } => format!("finish #{}", conn.0),
        Action::Abort { conn, why } => format!("abort #{} {why:?}", conn.0),
    }
}
