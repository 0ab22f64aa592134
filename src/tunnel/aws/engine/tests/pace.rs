use super::*;

/// A destination with so many connections in stream 1, connected, with a queue of 1000 bytes, 10 s of patience and a grace
/// of 2 s.
fn end(connections: u32) -> End {
    let mut end = End::with(Mode::Destination, Compat::V3, &["SSH"], |limits| limits.queue = 1000);
    for id in 1..=connections {
        end.on(if id == 1 { Type::StreamStart } else { Type::ConnectionStart }, 1, "SSH", id);
        end.dialled(id.into());
    }
    end
}

fn fill(end: &mut End, id: u32, bytes: usize) {
    end.on_data(1, "SSH", id, &vec![0; bytes]);
}

#[test]
fn an_application_that_is_behind_stops_the_reading_until_it_is_below_half() {
    let mut end = end(1);
    fill(&mut end, 1, 1000);
    assert!(end.engine.may_receive());
    fill(&mut end, 1, 1);
    assert!(!end.engine.may_receive());
    end.written(Conn(1), 501);
    assert!(!end.engine.may_receive());
    end.written(Conn(1), 1);
    assert!(end.engine.may_receive());
    assert_eq!(end.engine.due(), None);
}

#[test]
fn who_keeps_others_waiting_is_cut_off_when_its_patience_is_used_up() {
    let mut end = end(2);
    fill(&mut end, 2, 2000);
    // It moves, but does not catch up.
    for _ in 0..9 {
        assert!(end.pass(1000).is_empty());
        end.written(Conn(2), 10);
    }
    assert!(end.pass(999).is_empty());
    assert_eq!(end.pass(1), ["reset connection 1/2 SSH", "abort #2 TooSlow"]);
    assert!(end.engine.may_receive());
    fill(&mut end, 1, 10);
    assert_eq!(end.send(Conn(1), b"well"), ["data 1/1 SSH well"]);
}

#[test]
fn alone_it_may_be_slow_but_not_stand_still() {
    let mut end = end(1);
    fill(&mut end, 1, 2000);
    for _ in 0..100 {
        assert!(end.pass(9_000).is_empty());
        end.written(Conn(1), 1);
    }
    assert!(!end.engine.may_receive());
    assert!(end.pass(9_999).is_empty());
    assert_eq!(end.pass(1), ["reset connection 1/1 SSH", "abort #1 TooSlow"]);
}

#[test]
fn time_counts_only_while_others_are_there() {
    let mut end = end(1);
    fill(&mut end, 1, 2000);
    let keep_moving = |end: &mut End, seconds: u32| {
        (0..seconds).flat_map(|_| [end.written(Conn(1), 1), end.pass(1000)].concat()).collect::<Told>()
    };
    assert!(keep_moving(&mut end, 60).is_empty());
    end.on(Type::ConnectionStart, 1, "SSH", 2);
    end.dialled(2);
    assert!(keep_moving(&mut end, 6).is_empty());
    end.on(Type::ConnectionReset, 1, "SSH", 2);
    assert!(keep_moving(&mut end, 60).is_empty());
    end.on(Type::ConnectionStart, 1, "SSH", 3);
    assert!(keep_moving(&mut end, 3).is_empty());
    assert_eq!(keep_moving(&mut end, 1), ["reset connection 1/1 SSH", "abort #1 TooSlow"]);
}

#[test]
fn patience_comes_back_while_the_application_keeps_up() {
    let mut end = end(2);
    for _ in 0..20 {
        fill(&mut end, 2, 1001);
        assert!(end.pass(9000).is_empty());
        end.written(Conn(2), 1001);
        assert!(end.engine.may_receive());
        assert!(end.pass(9000).is_empty());
    }
    // Half the time is not enough.
    fill(&mut end, 2, 1001);
    end.pass(9000);
    end.written(Conn(2), 1001);
    end.pass(5000);
    fill(&mut end, 2, 1001);
    assert!(end.pass(5999).is_empty());
    assert_eq!(end.pass(1), ["reset connection 1/2 SSH", "abort #2 TooSlow"]);
}

#[test]
fn of_two_that_stall_each_other_the_first_goes_and_the_other_is_alone() {
    let mut end = end(2);
    fill(&mut end, 1, 1001);
    end.pass(1000);
    fill(&mut end, 2, 1001);
    end.pass(8000);
    end.written(Conn(2), 1);
    assert_eq!(end.pass(1000), ["reset connection 1/1 SSH", "abort #1 TooSlow"]);
    // It has moved a second ago.
    assert!(end.pass(8000).is_empty());
    end.written(Conn(2), 1);
    assert!(end.pass(9999).is_empty());
    assert_eq!(end.pass(1), ["reset connection 1/2 SSH", "abort #2 TooSlow"]);
    assert!(end.engine.may_receive());
}

#[test]
fn what_waits_for_a_dial_counts_and_only_others_make_it_urgent() {
    let mut end = end(0);
    end.on(Type::StreamStart, 1, "SSH", 1);
    fill(&mut end, 1, 2000);
    assert_eq!((end.engine.may_receive(), end.engine.due()), (false, None));
    assert!(end.pass(60_000).is_empty());
    end.on(Type::ConnectionStart, 1, "SSH", 2);
    assert_eq!(end.pass(10_000), ["reset connection 1/1 SSH", "abort #1 TooSlow"]);
    assert!(end.engine.may_receive());
}

#[test]
fn pieces_are_counted_too() {
    let mut end = end(1);
    for _ in 0..1024 {
        end.take(data_message(1, "SSH", 1, b"")).unwrap();
    }
    assert!(end.told().is_empty(), "nothing is no piece");
    let mut end = End::with(Mode::Destination, Compat::V3, &["SSH"], |limits| limits.queue = 1 << 20);
    end.on(Type::StreamStart, 1, "SSH", 1);
    end.dialled(1);
    let pieces = (1..).find(|_| {
        fill(&mut end, 1, 1);
        !end.engine.may_receive()
    });
    assert_eq!(pieces, Some((1 << 20) / 64 + 1));
    end.written(Conn(1), (1 << 19) / 64 + 1);
    assert!(!end.engine.may_receive());
    end.written(Conn(1), 1);
    assert!(end.engine.may_receive());
}

#[test]
fn what_the_other_end_has_ended_keeps_nobody_waiting_and_is_never_cut_off() {
    let mut end = end(2);
    fill(&mut end, 2, 5000);
    assert!(end.on(Type::ConnectionReset, 1, "SSH", 2).is_empty());
    assert!(end.engine.may_receive());
    assert!(end.pass(100_000).is_empty());
    assert_eq!(end.written(Conn(2), 5000), ["finish #2"]);
}

#[test]
fn after_the_applications_end_the_answer_still_arrives() {
    let mut end = end(2);
    assert!(end.local_end(Conn(1), LocalEnd::Eof).is_empty());
    assert!(end.local_end(Conn(1), LocalEnd::Eof).is_empty());
    assert!(end.send(Conn(1), b"after the end").is_empty());
    for _ in 0..10 {
        assert!(end.pass(1999).is_empty());
        assert_eq!(end.on_data(1, "SSH", 1, b"more"), ["deliver #1 more"]);
        end.written(Conn(1), 4);
    }
    fill(&mut end, 1, 7);
    assert_eq!(end.pass(2000), ["reset connection 1/1 SSH"]);
    assert!(end.on_data(1, "SSH", 1, b"late").is_empty());
    assert_eq!(end.written(Conn(1), 7), ["finish #1"]);
}

#[test]
fn while_nothing_is_read_the_grace_does_not_pass() {
    let mut end = end(2);
    end.local_end(Conn(1), LocalEnd::Eof);
    end.pass(1500);
    fill(&mut end, 2, 1001);
    for _ in 0..7 {
        assert!(end.pass(1000).is_empty());
    }
    end.written(Conn(2), 1001);
    assert!(end.pass(499).is_empty());
    assert_eq!(end.pass(1), ["reset connection 1/1 SSH", "finish #1"]);
}

#[test]
fn a_lingering_connection_ends_with_the_other_ends_reset_or_its_own_socket() {
    let mut end = end(2);
    end.local_end(Conn(1), LocalEnd::Eof);
    assert_eq!(end.on(Type::ConnectionReset, 1, "SSH", 1), ["finish #1"]);
    end.local_end(Conn(2), LocalEnd::Eof);
    assert_eq!(end.local_end(Conn(2), LocalEnd::Broken), ["reset connection 1/2 SSH"]);
    assert_eq!(end.engine.due(), None);
}

#[test]
fn without_a_grace_the_applications_end_is_the_end() {
    let mut end = End::with(Mode::Source, Compat::V2, &["SSH"], |limits| limits.half_close_grace = at(0));
    let conn = end.accept("SSH");
    end.told();
    assert_eq!(end.on_data(1, "SSH", 0, b"hi"), ["deliver #1 hi"]);
    assert_eq!(end.local_end(conn, LocalEnd::Eof), ["reset stream 1/0 SSH"]);
    assert_eq!(end.written(conn, 2), ["finish #1"]);
}

#[test]
fn an_old_style_connection_lingers_too_and_then_resets_its_stream() {
    let mut end = End::new(Mode::Source, Compat::V1, &["SSH"]);
    let conn = end.accept("SSH");
    end.told();
    end.local_end(conn, LocalEnd::Eof);
    assert_eq!(end.on_data(1, "", 0, b"answer"), ["deliver #1 answer"]);
    assert!(end.written(conn, 6).is_empty());
    assert_eq!(end.pass(2000), ["reset stream 1/0", "finish #1"]);
}

#[test]
fn limits_without_end_are_possible() {
    let mut end = End::with(Mode::Source, Compat::V3, &["SSH"], |limits| {
        (limits.queue, limits.patience, limits.half_close_grace) = (0, Duration::MAX, Duration::MAX);
        limits.max_connections = usize::MAX;
    });
    let conn = end.accept("SSH");
    end.now = at(1000);
    end.told();
    end.on_data(1, "SSH", 1, b"x");
    assert!(!end.engine.may_receive());
    end.written(conn, 1);
    assert!(end.engine.may_receive());
    assert!(end.local_end(conn, LocalEnd::Eof).is_empty());
    assert!(end.pass(100_000).is_empty());
}
