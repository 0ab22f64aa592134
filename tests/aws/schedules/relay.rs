//! The service between the two sides: it passes whole frames on and judges them, since the real one closes the session of a
//! client that breaks its rules.

use std::collections::BTreeMap;

use bytes::Bytes;
use enftun::config::{Compat, Mode};
use enftun::tunnel::aws::frames::{Frames, encode};
use enftun::tunnel::aws::message::{Message, Type};

#[derive(Debug)]
pub struct Relay {
    compat: Compat,
    /// The streams that sources have opened, and that nobody has reset: by service, as on the wire.
    pub streams: BTreeMap<String, i32>,
    /// The last stream of each service: numbers are not used again.
    last: BTreeMap<String, i32>,
}

impl Relay {
    pub fn new(compat: Compat) -> Self {
        Self { compat, streams: BTreeMap::new(), last: BTreeMap::new() }
    }

    /// Judges a frame and remembers what it opens and ends.
    pub fn pass(&mut self, side: Mode, frame: &Bytes) {
        let mut rest = &frame[..];
        let message = Frames::default().next(&mut rest).unwrap().expect("one whole frame");
        assert!(
            rest.is_empty() && encode(&message).as_ref() == Some(frame),
            "something else is in the frame: {message:?}"
        );
        let kind = Type::try_from(message.r#type).unwrap();
        assert!(message.stream_id > 0 && !message.ignorable && message.available_service_ids.is_empty(), "{message:?}");
        assert_eq!(message.payload.is_empty(), kind != Type::Data, "{message:?}");
        assert!(self.compat != Compat::V1 || message.service_id.is_empty(), "{message:?}");
        assert_eq!(message.connection_id != 0, self.compat == Compat::V3 && kind != Type::StreamReset, "{message:?}");
        let current = self.streams.get(&message.service_id) == Some(&message.stream_id);
        match (kind, side) {
            (Type::StreamStart, Mode::Source) => {
                let last = self.last.insert(message.service_id.clone(), message.stream_id).unwrap_or(0);
                assert!(message.stream_id > last, "stream {} after {last}", message.stream_id);
                self.streams.insert(message.service_id, message.stream_id);
            }
            (Type::ConnectionStart, Mode::Source) => assert_eq!(self.last[&message.service_id], message.stream_id),
            (Type::StreamReset, _) if current => {
                self.streams.remove(&message.service_id);
            }
            (Type::Data | Type::StreamReset | Type::ConnectionReset, _) => {}
            _ => panic!("{side:?} sends {message:?}"),
        }
    }

    /// Resets for all streams that are open, or any one.
    pub fn reset(&mut self, one: Option<usize>) -> Vec<Bytes> {
        let open: Vec<_> = self.streams.iter().map(|(service, stream)| (service.clone(), *stream)).collect();
        let chosen = open.into_iter().enumerate().filter(|(at, _)| one.is_none_or(|one| one == *at));
        chosen
            .map(|(_, (service_id, stream_id))| {
                self.streams.remove(&service_id);
                frame(Message { stream_id, service_id, ..message(Type::StreamReset) })
            })
            .collect()
    }
}

pub fn message(kind: Type) -> Message {
    Message { r#type: kind.into(), ..Message::default() }
}

pub fn frame(message: Message) -> Bytes {
    encode(&message).unwrap()
}

/// Whether this frame ends a connection.
pub fn is_reset(frame: &[u8]) -> bool {
    let message = Frames::default().next(&mut &frame[..]).unwrap().unwrap();
    matches!(Type::try_from(message.r#type), Ok(Type::StreamReset | Type::ConnectionReset))
}
