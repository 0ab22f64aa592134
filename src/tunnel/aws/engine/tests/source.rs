use super::*;

fn old(compat: Compat) -> End {
    End::new(Mode::Source, compat, &["SSH"])
}

#[test]
fn the_first_connection_opens_the_stream_and_further_ones_join_it() {
    let mut end = End::source(&["SSH", "WEB"]);
    let first = end.accept("SSH");
    assert_eq!(end.told(), ["start 1/1 SSH"]);
    assert_eq!(end.send(first, b"hi"), ["data 1/1 SSH hi"]);
    assert_eq!(end.local_end(first, LocalEnd::Broken), ["reset connection 1/1 SSH"]);
    // The stream stays, without any connection in it, and numbers are not used twice.
    end.accept("SSH");
    end.accept("SSH");
    assert_eq!(end.told(), ["start connection 1/2 SSH", "start connection 1/3 SSH"]);
    // Each service counts for itself.
    end.accept("WEB");
    assert_eq!(end.told(), ["start 1/1 WEB"]);
}

#[test]
fn a_connection_of_each_version_is_the_golden_bytes() {
    for (compat, hex) in [
        (Compat::V1, "000408021001"),
        (Compat::V2, "0009080210012a03535348"),
        (Compat::V3, "000b080210012a035353483801"),
    ] {
        let mut end = old(compat);
        end.accept("SSH");
        let Some(Action::Send(frame)) = end.engine.poll() else { panic!("nothing is sent") };
        assert_eq!(data_encoding::HEXLOWER.encode(&frame), hex);
    }
}

#[test]
fn data_comes_to_the_connection_it_names_and_late_data_to_nobody() {
    let mut end = End::source(&["SSH"]);
    let (first, second) = (end.accept("SSH"), end.accept("SSH"));
    end.told();
    assert_eq!(end.on_data(1, "SSH", 2, b"two"), ["deliver #2 two"]);
    assert_eq!(end.on_data(1, "SSH", 1, b"one"), ["deliver #1 one"]);
    for (stream, service, id) in [(2, "SSH", 1), (1, "SSH", 3), (1, "WEB", 1)] {
        assert!(end.on_data(stream, service, id, b"lost").is_empty());
    }
    end.local_end(first, LocalEnd::Broken);
    assert!(end.on_data(1, "SSH", 1, b"late").is_empty());
    assert_eq!(end.send(second, b"still there"), ["data 1/2 SSH still there"]);
}

#[test]
fn long_data_is_split_to_the_largest_payload() {
    let mut end = End::with(Mode::Source, Compat::V3, &["SSH"], |limits| limits.max_payload = 4);
    let conn = end.accept("SSH");
    end.told();
    assert_eq!(end.send(conn, b"0123456789"), ["data 1/1 SSH 0123", "data 1/1 SSH 4567", "data 1/1 SSH 89"]);
    assert!(end.send(conn, b"").is_empty());
    // A limit above the protocol's is the protocol's.
    let mut end = End::with(Mode::Source, Compat::V3, &["SSH"], |limits| limits.max_payload = 1 << 20);
    let conn = end.accept("SSH");
    end.told();
    assert_eq!(end.send(conn, &[b'a'; 64_513]).len(), 2);
}

#[test]
fn a_reset_of_one_connection_ends_it_after_what_came_before() {
    let mut end = End::source(&["SSH"]);
    let conn = end.accept("SSH");
    let other = end.accept("SSH");
    end.told();
    assert_eq!(end.on_data(1, "SSH", 1, b"last words"), ["deliver #1 last words"]);
    assert!(end.on(Type::ConnectionReset, 1, "SSH", 1).is_empty());
    assert!(end.send(conn, b"nobody hears it").is_empty());
    assert!(end.written(conn, 4).is_empty());
    assert_eq!(end.written(conn, 6), ["finish #1"]);
    // Without anything to deliver at once; the stream id of this message is no filter.
    assert_eq!(end.on(Type::ConnectionReset, 7, "SSH", 2), ["finish #2"]);
    assert!(end.local_end(other, LocalEnd::Eof).is_empty());
}

#[test]
fn resets_of_what_is_not_there_mean_nothing() {
    let mut end = End::source(&["SSH"]);
    let conn = end.accept("SSH");
    end.told();
    for (kind, stream, service, id) in [
        (Type::StreamReset, 2, "SSH", 0),
        (Type::StreamReset, 1, "WEB", 0),
        (Type::ConnectionReset, 1, "SSH", 2),
        (Type::ConnectionReset, 1, "WEB", 1),
    ] {
        assert!(end.on(kind, stream, service, id).is_empty());
    }
    assert_eq!(end.send(conn, b"alive"), ["data 1/1 SSH alive"]);
}

#[test]
fn a_reset_of_the_stream_ends_all_in_it_and_the_next_has_a_new_number() {
    let mut end = End::source(&["SSH", "WEB"]);
    end.accept("SSH");
    end.accept("SSH");
    end.accept("WEB");
    end.told();
    // What else such a message carries was left over by its sender.
    assert_eq!(end.on(Type::StreamReset, 1, "SSH", 2), ["abort #1 Reset", "abort #2 Reset"]);
    end.accept("SSH");
    assert_eq!(end.told(), ["start 2/3 SSH"]);
    assert!(end.on(Type::StreamReset, 1, "SSH", 0).is_empty(), "late, and not about stream 2");
    assert_eq!(end.on(Type::SessionReset, 0, "", 0), ["abort #4 Reset", "abort #3 Reset"]);
    end.accept("WEB");
    assert_eq!(end.told(), ["start 2/2 WEB"]);
}

#[test]
fn with_an_old_destination_a_new_connection_takes_the_place_of_the_old() {
    for (compat, name) in [(Compat::V1, ""), (Compat::V2, " SSH")] {
        let mut end = old(compat);
        let first = end.accept("SSH");
        assert_eq!(end.told(), [format!("start 1/0{name}")]);
        let second = end.accept("SSH");
        let replaced = [format!("reset stream 1/0{name}"), "abort #1 Replaced".into(), format!("start 2/0{name}")];
        assert_eq!(end.told(), replaced);
        // The end of the old one's socket says nothing about the new one.
        assert!(end.local_end(first, LocalEnd::Broken).is_empty());
        assert!(end.local_end(first, LocalEnd::Eof).is_empty());
        assert!(end.on(Type::StreamReset, 1, name.trim(), 0).is_empty());
        assert_eq!(end.send(second, b"hi"), [format!("data 2/0{name} hi")]);
        assert!(end.on_data(1, name.trim(), 0, b"old").is_empty());
        assert_eq!(end.on_data(2, name.trim(), 0, b"new"), ["deliver #2 new"]);
        // The other end's reset of the stream is how its connection ends.
        assert!(end.on(Type::StreamReset, 2, name.trim(), 0).is_empty());
        assert_eq!(end.written(second, 3), ["finish #2"]);
        end.accept("SSH");
        assert_eq!(end.told(), [format!("start 3/0{name}")]);
    }
}

#[test]
fn the_end_of_an_old_style_connection_resets_its_stream() {
    let mut end = old(Compat::V2);
    let conn = end.accept("SSH");
    end.told();
    assert_eq!(end.local_end(conn, LocalEnd::Broken), ["reset stream 1/0 SSH"]);
}

#[test]
fn an_old_destination_that_was_not_announced_is_found_out_by_its_answers() {
    let mut end = End::source(&["SSH"]);
    let first = end.accept("SSH");
    end.told();
    assert_eq!(end.on_data(1, "SSH", 0, b"hi"), ["deliver #1 hi"]);
    assert_eq!(end.send(first, b"yo"), ["data 1/1 SSH yo"], "the form does not change");
    // From now on there is one at a time, and streams are reset as that destination expects.
    let second = end.accept("SSH");
    assert_eq!(end.told(), ["reset stream 1/0 SSH", "abort #1 Replaced", "start 2/2 SSH"]);
    assert_eq!(end.on_data(2, "SSH", 0, b"hi"), ["deliver #2 hi"]);
    assert_eq!(end.local_end(second, LocalEnd::Broken), ["reset stream 2/0 SSH"]);
}

#[test]
fn an_answer_that_could_be_for_either_of_two_connections_is_for_none() {
    let mut end = End::source(&["SSH"]);
    end.accept("SSH");
    end.accept("SSH");
    end.told();
    let closed = ["reset stream 1/0 SSH", "abort #1 Misused", "abort #2 Misused"];
    assert_eq!(end.on_data(1, "SSH", 0, b"whose?"), closed);
    end.accept("SSH");
    assert_eq!(end.told(), ["start 2/3 SSH"]);
    end.accept("SSH");
    assert_eq!(end.told(), ["reset stream 2/0 SSH", "abort #3 Replaced", "start 3/4 SSH"]);
}

#[test]
fn an_answer_without_a_service_id_is_for_the_only_service() {
    let mut end = End::source(&["SSH"]);
    end.accept("SSH");
    end.told();
    assert_eq!(end.on_data(1, "", 1, b"hi"), ["deliver #1 hi"]);
    assert_eq!(end.take(data_message(1, "SSH", 1, b"hi")), Err(Violation::Mixed));
}

#[test]
fn a_source_is_not_asked_to_open_anything() {
    for kind in [Type::StreamStart, Type::ConnectionStart] {
        let mut end = End::source(&["SSH"]);
        end.accept("SSH");
        end.accept("SSH");
        end.told();
        // Only the connection that it could be mistaken for ends.
        assert_eq!(end.on(kind, 1, "SSH", 2), ["abort #2 Misused", "reset connection 1/2 SSH"]);
        assert_eq!(end.on(kind, 5, "SSH", 9), ["reset connection 5/9 SSH"]);
        assert_eq!(end.take(message(kind, 1, "SSH", 0)), Err(Violation::StartAtSource));
        for compat in [Compat::V1, Compat::V2] {
            assert_eq!(old(compat).take(message(kind, 1, "SSH", 1)), Err(Violation::StartAtSource));
        }
    }
}

#[test]
fn one_connection_too_many_is_refused_and_the_others_go_on() {
    let mut end = End::with(Mode::Source, Compat::V3, &["SSH", "WEB"], |limits| limits.max_connections = 2);
    let first = end.accept("SSH");
    end.accept("SSH");
    end.told();
    assert_eq!(end.engine.accept("SSH", end.now), Err(Refused::TooMany));
    assert!(end.told().is_empty());
    end.accept("WEB");
    // One that only waits for the other end's last data does not count.
    end.local_end(first, LocalEnd::Eof);
    end.accept("SSH");
    assert_eq!(end.engine.accept("SSH", end.now), Err(Refused::TooMany));
    assert_eq!(end.engine.accept("FTP", end.now), Err(Refused::Unknown));
}

#[test]
fn connections_that_only_wait_for_their_end_are_bounded_too() {
    let mut end = End::with(Mode::Source, Compat::V3, &["SSH"], |limits| limits.max_connections = 2);
    for _ in 0..8 {
        let conn = end.accept("SSH");
        end.local_end(conn, LocalEnd::Eof);
    }
    assert_eq!(end.engine.accept("SSH", end.now), Err(Refused::TooMany));
    end.pass(2000);
    end.accept("SSH");
}

#[test]
fn several_services_cannot_be_told_apart_without_names() {
    let mut end = End::new(Mode::Source, Compat::V1, &["SSH", "WEB"]);
    assert_eq!(end.engine.accept("SSH", end.now), Err(Refused::Unknown));
}

#[test]
fn numbers_go_on_in_the_next_session_and_begin_again_after_the_last() {
    let mut end = End::source(&["SSH"]);
    let conn = end.accept("SSH");
    end.local_end(conn, LocalEnd::Broken);
    end.told();
    let settings = Settings { mode: Mode::Source, compat: Compat::V3, limits: Limits::default() };
    let mut next = End { engine: Engine::after(settings, end.engine.ids()), now: at(0) };
    // A session that served nothing passes them on.
    next = End { engine: Engine::after(settings, next.engine.ids()), now: at(0) };
    next.engine.services(&["SSH".into()], at(0)).unwrap();
    next.accept("SSH");
    assert_eq!(next.told(), ["start 2/2 SSH"]);
    for service in &mut next.engine.services {
        (service.last_stream, service.last_connection) = (i32::MAX, u32::MAX);
    }
    next.on(Type::StreamReset, 2, "SSH", 0);
    next.accept("SSH");
    assert_eq!(next.told(), ["start 1/1 SSH"]);
}

#[test]
fn stopping_resets_each_stream_and_takes_no_more() {
    let mut end = End::source(&["SSH", "WEB"]);
    let conn = end.accept("SSH");
    end.accept("SSH");
    end.accept("WEB");
    end.told();
    end.on_data(1, "SSH", 1, b"late");
    end.on(Type::ConnectionReset, 1, "SSH", 1);
    end.engine.stop(end.now);
    assert_eq!(end.told(), ["reset stream 1/0 SSH", "abort #2 Stopped", "reset stream 1/0 WEB", "abort #3 Stopped"]);
    // What the other end had ended is still delivered.
    assert_eq!(end.written(conn, 4), ["finish #1"]);
    assert_eq!(end.engine.accept("SSH", end.now), Err(Refused::TooMany));
    assert!(end.on(Type::SessionReset, 0, "", 0).is_empty());
}
