use super::*;

fn fresh(mode: Mode) -> Engine {
    Engine::new(Settings { mode, compat: Compat::V3, limits: Limits::default() })
}

fn wire(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|message| frames::encode(message).unwrap()).collect()
}

#[test]
fn what_comes_with_the_services_is_acted_on_once_they_are_judged() {
    let mut engine = fresh(Mode::Destination);
    let services = Message { available_service_ids: vec!["SSH".into()], ..message(Type::ServiceIds, 0, "", 0) };
    let start = message(Type::StreamStart, 1, "SSH", 1);
    assert!(engine.may_receive());
    engine.receive(&wire(&[services, start, data_message(1, "SSH", 1, b"early")]), at(0)).unwrap();
    let mut end = End { engine, now: at(0) };
    assert_eq!((end.told(), end.engine.may_receive()), (vec!["serve SSH".to_owned()], false));
    end.engine.services(&["SSH".into()], at(0)).unwrap();
    assert_eq!((end.told(), end.engine.may_receive()), (vec!["dial #1 SSH".to_owned()], true));
    assert_eq!(end.dialled(1), ["deliver #1 early"]);
}

#[test]
fn a_stream_that_is_opened_before_the_services_come_is_not_lost() {
    let mut end = End { engine: fresh(Mode::Destination), now: at(0) };
    assert!(end.on(Type::StreamStart, 1, "SSH", 1).is_empty());
    let services = Message { available_service_ids: vec!["SSH".into()], ..message(Type::ServiceIds, 0, "", 0) };
    end.take(services).unwrap();
    assert_eq!(end.told(), ["serve SSH"]);
    end.engine.services(&["SSH".into()], at(0)).unwrap();
    assert_eq!(end.told(), ["dial #1 SSH"]);
}

#[test]
fn without_end_too_early_ends_the_session() {
    let mut end = End { engine: fresh(Mode::Destination), now: at(0) };
    let data = data_message(1, "SSH", 1, &[0; 60_000]);
    let error = (0..1000).find_map(|_| end.take(data.clone()).err());
    assert_eq!(error, Some(Violation::TooEarly));
    let mut end = End { engine: fresh(Mode::Destination), now: at(0) };
    let error = (0..1_000_000).find_map(|_| end.take(message(Type::SessionReset, 0, "", 0)).err());
    assert_eq!(error, Some(Violation::TooEarly));
}

#[test]
fn only_the_first_list_of_services_counts() {
    let mut end = End::source(&["SSH"]);
    let second = Message { available_service_ids: vec!["WEB".into()], ..message(Type::ServiceIds, 0, "", 0) };
    end.take(second).unwrap();
    assert!(end.told().is_empty());
    end.engine.services(&["WEB".into()], at(0)).unwrap();
    assert_eq!(end.engine.accept("WEB", at(0)), Err(Refused::Unknown));
    end.accept("SSH");
}

#[test]
fn a_tunnel_without_services_has_one_without_a_name() {
    let mut source = End::source(&[""]);
    source.accept("");
    assert_eq!(source.told(), ["start 1/1"]);
    let mut destination = End::destination(&[""]);
    assert_eq!(destination.on(Type::StreamStart, 1, "", 1), ["dial #1"]);
    let mut none = End { engine: fresh(Mode::Source), now: at(0) };
    none.take(message(Type::ServiceIds, 0, "", 0)).unwrap();
    assert_eq!(none.told(), ["serve "]);
}

#[test]
fn version_1_serves_without_being_told_what() {
    let mut end = End { engine: fresh(Mode::Destination), now: at(0) };
    end.engine.services(&[String::new()], at(0)).unwrap();
    assert!(end.engine.may_receive());
    assert_eq!(end.on(Type::StreamStart, 1, "", 0), ["dial #1"]);
}

#[test]
fn nothing_is_accepted_before_it_is_served() {
    let mut engine = fresh(Mode::Source);
    assert_eq!(engine.accept("SSH", at(0)), Err(Refused::Unknown));
}

#[test]
fn unknown_types_may_be_ignored_where_they_say_so_and_type_0_never() {
    for mode in [Mode::Source, Mode::Destination] {
        let odd = Message { r#type: 99, ignorable: true, ..message(Type::Data, 1, "SSH", 1) };
        let mut end = End::new(mode, Compat::V3, &["SSH"]);
        end.take(odd.clone()).unwrap();
        // One that belongs to no service too.
        end.take(Message { service_id: String::new(), stream_id: 0, ..odd.clone() }).unwrap();
        assert!(end.told().is_empty());
        let error = end.take(Message { ignorable: false, ..odd.clone() }).unwrap_err();
        assert_eq!(error, Violation::UnknownType(99));
        let nothing = Message { ignorable: true, ..Message::default() };
        assert_eq!(End::new(mode, Compat::V3, &["SSH"]).take(nothing), Err(Violation::NoType));
        assert_eq!(End::new(mode, Compat::V3, &["SSH"]).engine.receive(&[0, 0], at(0)), Err(Violation::NoType));
        let broken = End::new(mode, Compat::V3, &["SSH"]).engine.receive(&[0, 1, 0xff], at(0));
        assert!(matches!(broken, Err(Violation::Malformed(_))));
    }
}

#[test]
fn streams_without_a_number_are_violations_and_resets_without_one_mean_nothing() {
    for kind in [Type::Data, Type::StreamStart, Type::ConnectionStart] {
        for stream in [0, -1] {
            let error = End::destination(&["SSH"]).take(message(kind, stream, "SSH", 1));
            assert_eq!(error, Err(Violation::StreamId(stream)));
        }
    }
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    assert!(end.on(Type::StreamReset, 0, "SSH", 0).is_empty());
    assert_eq!(end.dialled(1), Told::new());
}

#[test]
fn a_name_that_leaves_no_room_in_a_frame_is_a_violation() {
    let mut end = End { engine: fresh(Mode::Source), now: at(0) };
    let names = vec!["s".repeat(513)];
    let services = Message { available_service_ids: names, ..message(Type::ServiceIds, 0, "", 0) };
    assert_eq!(end.take(services), Err(Violation::LongName(513)));
}
