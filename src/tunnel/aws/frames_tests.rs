use proptest::prelude::*;

use super::super::message::Type;
use super::*;
use crate::config;

fn message(kind: Type) -> Message {
    Message { r#type: kind.into(), ..Message::default() }
}

fn ssh(kind: Type, connection_id: u32) -> Message {
    Message { stream_id: 1, service_id: "SSH".into(), connection_id, ..message(kind) }
}

/// Everything in these bytes, which end with a frame.
fn all(frames: &mut Frames, mut bytes: &[u8]) -> Vec<Message> {
    std::iter::from_fn(|| frames.next(&mut bytes).unwrap()).collect()
}

#[test]
fn the_golden_frames_are_written_and_read_byte_for_byte() {
    let golden = [
        (Message { available_service_ids: vec!["SSH".into()], ..message(Type::ServiceIds) }, "0007080532035353 48"),
        (message(Type::ServiceIds), "0002 0805"),
        (Message { stream_id: 1, ..message(Type::StreamStart) }, "0004 0802 1001"),
        (ssh(Type::StreamStart, 0), "0009 0802 1001 2a03535348"),
        (ssh(Type::StreamStart, 1), "000b 0802 1001 2a03535348 3801"),
        (ssh(Type::ConnectionStart, 2), "000b 0806 1001 2a03535348 3802"),
        (
            Message { payload: Bytes::from_static(b"hi"), ..ssh(Type::Data, 1) },
            "000f 0801 1001 22026869 2a03535348 3801",
        ),
        (ssh(Type::ConnectionReset, 1), "000b 0807 1001 2a03535348 3801"),
        (ssh(Type::StreamReset, 0), "0009 0803 1001 2a03535348"),
        (message(Type::SessionReset), "0002 0804"),
    ];
    for (message, hex) in golden {
        let wire = data_encoding::HEXLOWER.decode(hex.replace(' ', "").as_bytes()).unwrap();
        assert_eq!(encode(&message).unwrap(), wire, "{message:?}");
        assert_eq!(all(&mut Frames::default(), &wire), [message], "{hex}");
    }
}

#[test]
fn the_longest_frame_is_read_wherever_it_is_cut() {
    let mut long = Message { payload: vec![7; 65_000].into(), ..ssh(Type::Data, 1) };
    let room = usize::from(u16::MAX) - long.encoded_len();
    long.payload = (0..65_000 + room).map(|at| at as u8).collect::<Vec<_>>().into();
    let wire = encode(&long).unwrap();
    assert_eq!(wire.len(), HEADER + usize::from(u16::MAX));
    // Each place near the ends, and a sample of those between.
    for cut in (0..64).chain((64..wire.len()).step_by(997)).chain(wire.len() - 16..=wire.len()) {
        let mut frames = Frames::default();
        let (mut first, mut second) = wire.split_at(cut);
        let early = frames.next(&mut first).unwrap();
        let got = early.or_else(|| frames.next(&mut second).unwrap());
        assert_eq!(got.as_ref(), Some(&long), "cut at {cut}");
        assert_eq!(frames.next(&mut second).unwrap(), None);
    }
    long.payload = vec![7; long.payload.len() + 1].into();
    assert_eq!(encode(&long), None);
}

#[test]
fn the_largest_payload_fits_into_a_frame() {
    let payload = Bytes::from(vec![1; config::Limits::MAX_PAYLOAD]);
    let message = Message {
        payload,
        service_id: "s".repeat(512),
        stream_id: i32::MAX,
        connection_id: u32::MAX,
        ..message(Type::Data)
    };
    assert!(encode(&message).is_some());
}

#[test]
fn fields_of_later_versions_are_skipped_and_broken_messages_are_errors() {
    let mut frames = Frames::default();
    // Field 15: a string; field 16: a number.
    let wire = b"\x00\x0c\x08\x01\x7a\x03new\x80\x01\x05\x10\x01";
    assert_eq!(all(&mut frames, wire), [Message { stream_id: 1, ..message(Type::Data) }]);
    // A payload that is longer than its frame, a service that is not UTF-8, a number without end.
    for wire in [&b"\x00\x03\x22\x05a"[..], b"\x00\x03\x2a\x01\xff", b"\x00\x02\x08\xff"] {
        assert!(Frames::default().next(&mut &wire[..]).is_err());
    }
    // An empty frame is a message of type 0.
    assert_eq!(all(&mut frames, &[0, 0]), [Message::default()]);
}

#[test]
fn a_payload_keeps_no_more_memory_than_it_needs() {
    // One byte of data in a frame that is full of something else, in two pieces.
    let mut frame = Message { payload: Bytes::from_static(b"x"), ..ssh(Type::Data, 1) };
    frame.available_service_ids = vec!["y".repeat(60_000)];
    let wire = encode(&frame).unwrap();
    let (mut first, mut second) = wire.split_at(100);
    let mut frames = Frames::default();
    assert_eq!(frames.next(&mut first).unwrap(), None);
    let payload = frames.next(&mut second).unwrap().unwrap().payload;
    assert_eq!(payload.try_into_mut().unwrap().capacity(), 1);
}

fn some_message() -> impl Strategy<Value = Message> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    (0..9i32, any::<i32>(), any::<bool>(), payload, "[a-z.]{0,9}", any::<u32>()).prop_map(
        |(r#type, stream_id, ignorable, payload, service_id, connection_id)| Message {
            r#type,
            stream_id,
            ignorable,
            payload: payload.into(),
            service_id,
            available_service_ids: Vec::new(),
            connection_id,
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read_in_whatever_pieces_it_comes(
        messages in prop::collection::vec(some_message(), 0..12),
        pieces in prop::collection::vec(1..200usize, 1..40),
    ) {
        let wire: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
        let (mut frames, mut got, mut rest) = (Frames::default(), Vec::new(), &wire[..]);
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            got.extend(all(&mut frames, now));
            rest = later;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(got, messages);
    }
}
