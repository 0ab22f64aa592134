use super::*;

const CLOSED: [&str; 3] = ["reset stream 1/0 SSH", "abort #1 Misused", "abort #2 Misused"];

/// With connections 1 and 2 in stream 1, both connected.
fn busy() -> End {
    let mut end = End::destination(&["SSH"]);
    assert_eq!(end.on(Type::StreamStart, 1, "SSH", 1), ["dial #1 SSH"]);
    assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", 2), ["dial #2 SSH"]);
    end.dialled(1);
    end.dialled(2);
    end
}

#[test]
fn connections_are_dialled_and_carry_data_both_ways() {
    let mut end = busy();
    assert_eq!(end.on_data(1, "SSH", 2, b"two"), ["deliver #2 two"]);
    assert_eq!(end.on_data(1, "SSH", 1, b"one"), ["deliver #1 one"]);
    assert_eq!(end.send(Conn(2), b"hi"), ["data 1/2 SSH hi"]);
    for (stream, service, id) in [(2, "SSH", 1), (1, "SSH", 3), (1, "WEB", 1)] {
        assert!(end.on_data(stream, service, id, b"lost").is_empty());
    }
    assert_eq!(end.local_end(Conn(1), LocalEnd::Broken), ["reset connection 1/1 SSH"]);
    assert_eq!(end.on(Type::ConnectionReset, 1, "SSH", 2), Told::new());
    assert_eq!(end.written(Conn(2), 3), ["finish #2"]);
    // The stream is still there.
    assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", 3), ["dial #3 SSH"]);
}

#[test]
fn data_that_comes_before_the_application_is_reached_waits_for_it() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    assert!(end.on_data(1, "SSH", 1, b"first").is_empty());
    assert!(end.on_data(1, "SSH", 1, b"second").is_empty());
    // The client has already gone, and yet what it sent arrives.
    assert!(end.on(Type::ConnectionReset, 1, "SSH", 1).is_empty());
    assert_eq!(end.dialled(1), ["deliver #1 first", "deliver #1 second"]);
    assert!(end.written(Conn(1), 5).is_empty());
    assert_eq!(end.written(Conn(1), 6), ["finish #1"]);
}

#[test]
fn who_goes_without_a_word_is_not_dialled_for_any_longer() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    assert_eq!(end.on(Type::ConnectionReset, 1, "SSH", 1), ["finish #1"]);
    assert!(end.dialled(1).is_empty());
}

#[test]
fn a_failed_dial_ends_its_connection_only() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    end.on(Type::ConnectionStart, 1, "SSH", 2);
    end.dialled(2);
    end.engine.dial_failed(Conn(1), end.now);
    assert_eq!(end.told(), ["reset connection 1/1 SSH"]);
    assert_eq!(end.send(Conn(2), b"well"), ["data 1/2 SSH well"]);
    end.on(Type::ConnectionStart, 1, "SSH", 3);
    end.engine.dial_failed(Conn(3), end.now);
    assert_eq!(end.told(), ["reset connection 1/3 SSH"]);
}

#[test]
fn a_failed_first_dial_resets_the_stream_and_what_was_sent_into_it_meanwhile_is_not_dialled() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    end.engine.dial_failed(Conn(1), end.now);
    assert_eq!(end.told(), ["reset stream 1/0 SSH"]);
    assert!(end.on(Type::ConnectionStart, 1, "SSH", 2).is_empty());
    assert!(end.on_data(1, "SSH", 2, b"late").is_empty());
    assert_eq!(end.on(Type::StreamStart, 2, "SSH", 3), ["dial #2 SSH"]);
    assert_eq!(end.on(Type::ConnectionStart, 2, "SSH", 4), ["dial #3 SSH"]);
}

#[test]
fn a_failed_dial_of_an_old_source_resets_its_stream() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 0);
    end.engine.dial_failed(Conn(1), end.now);
    assert_eq!(end.told(), ["reset stream 1/0 SSH"]);
}

#[test]
fn a_destination_that_comes_later_than_the_stream_takes_its_next_connection() {
    let mut end = End::destination(&["SSH"]);
    assert!(end.on_data(4, "SSH", 7, b"of before").is_empty());
    assert!(end.on(Type::ConnectionReset, 4, "SSH", 7).is_empty());
    assert_eq!(end.on(Type::ConnectionStart, 4, "SSH", 8), ["dial #1 SSH"]);
    assert_eq!(end.on(Type::ConnectionStart, 4, "SSH", 9), ["dial #2 SSH"]);
    assert!(end.on_data(4, "SSH", 7, b"of before").is_empty());
}

#[test]
fn a_new_stream_takes_the_place_of_the_old_and_so_does_the_same_number_again() {
    for stream in [1, 2] {
        let mut end = busy();
        let told = end.on(Type::StreamStart, stream, "SSH", 1);
        assert_eq!(told, ["abort #1 Replaced", "abort #2 Replaced", "dial #3 SSH"]);
        end.dialled(3);
        assert_eq!(end.on_data(stream, "SSH", 1, b"new"), ["deliver #3 new"]);
        assert!(end.on_data(stream, "SSH", 2, b"old").is_empty());
        assert!(end.on_data(3 - stream, "SSH", 1, b"old").is_empty());
    }
    // A connection of a stream that was never opened here.
    let told = busy().on(Type::ConnectionStart, 2, "SSH", 5);
    assert_eq!(told, ["abort #1 Replaced", "abort #2 Replaced", "dial #3 SSH"]);
}

#[test]
fn a_connection_id_that_is_used_twice_ends_both() {
    let mut end = busy();
    assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", 2), ["abort #2 Misused", "reset connection 1/2 SSH"]);
    assert!(end.on_data(1, "SSH", 2, b"whose?").is_empty());
    assert_eq!(end.on_data(1, "SSH", 1, b"mine"), ["deliver #1 mine"]);
}

#[test]
fn resets_of_streams_and_of_the_session_act_at_once() {
    let mut end = busy();
    end.on_data(1, "SSH", 1, b"before");
    assert!(end.on(Type::StreamReset, 2, "SSH", 0).is_empty());
    assert_eq!(end.on(Type::StreamReset, 1, "SSH", 1), ["abort #2 Reset"]);
    assert!(end.on(Type::StreamReset, 1, "SSH", 0).is_empty());
    assert_eq!(
        end.written(Conn(1), 6),
        ["abort #1 Reset"],
        "what came before is delivered, and then it is no good end"
    );
    let mut end = busy();
    end.on_data(1, "SSH", 1, b"lost");
    assert_eq!(end.on(Type::SessionReset, 0, "", 0), ["abort #1 Reset", "abort #2 Reset"]);
    // Idle, and all goes on.
    assert!(end.on(Type::SessionReset, 0, "", 0).is_empty());
    assert_eq!(end.on(Type::StreamStart, 1, "SSH", 1), ["dial #3 SSH"]);
}

#[test]
fn a_v1_source_reaches_the_only_service_and_is_answered_as_it_speaks() {
    let mut end = End::destination(&["SSH"]);
    assert_eq!(end.on(Type::StreamStart, 1, "", 0), ["dial #1 SSH"]);
    end.dialled(1);
    assert_eq!(end.on_data(1, "", 0, b"hi"), ["deliver #1 hi"]);
    assert_eq!(end.send(Conn(1), b"yo"), ["data 1/0 yo"]);
    assert_eq!(end.local_end(Conn(1), LocalEnd::Broken), ["reset stream 1/0"]);
    assert_eq!(end.on(Type::StreamStart, 2, "", 0), ["dial #2 SSH"]);
    assert_eq!(end.take(message(Type::StreamStart, 3, "SSH", 0)), Err(Violation::Mixed));
    let mut end = busy();
    assert_eq!(end.take(data_message(1, "", 1, b"hi")), Err(Violation::Mixed));
}

#[test]
fn a_v1_source_at_several_services_is_told_so() {
    let mut end = End::destination(&["SSH", "WEB"]);
    assert_eq!(end.on(Type::StreamStart, 1, "", 0), ["reset stream 1/0"]);
    assert!(end.on_data(1, "", 0, b"hi").is_empty());
}

#[test]
fn a_service_that_is_not_here_is_answered_with_a_reset() {
    let mut end = busy();
    assert_eq!(end.on(Type::StreamStart, 1, "FTP", 1), ["reset stream 1/0 FTP"]);
    assert_eq!(end.on(Type::ConnectionStart, 1, "FTP", 2), ["reset connection 1/2 FTP"]);
    assert_eq!(end.on_data(1, "SSH", 1, b"well"), ["deliver #1 well"]);
}

#[test]
fn a_v2_source_has_one_connection_in_a_stream_and_each_service_its_own() {
    let mut end = End::destination(&["SSH", "WEB"]);
    assert_eq!(end.on(Type::StreamStart, 1, "SSH", 0), ["dial #1 SSH"]);
    assert_eq!(end.on(Type::StreamStart, 1, "WEB", 0), ["dial #2 WEB"]);
    end.dialled(1);
    end.dialled(2);
    assert_eq!(end.send(Conn(2), b"hi"), ["data 1/0 WEB hi"]);
    assert_eq!(end.on_data(1, "WEB", 5, b"x"), ["deliver #2 x"], "a connection id means nothing here");
    assert_eq!(end.on(Type::StreamStart, 2, "SSH", 0), ["abort #1 Replaced", "dial #3 SSH"]);
    end.dialled(3);
    assert_eq!(end.on_data(2, "SSH", 0, b"bye"), ["deliver #3 bye"]);
    assert!(end.on(Type::StreamReset, 2, "SSH", 0).is_empty());
    assert_eq!(end.written(Conn(3), 3), ["finish #3"]);
}

#[test]
fn a_further_connection_in_a_stream_for_one_closes_that_stream() {
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 0);
    assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", 2), ["reset stream 1/0 SSH", "abort #1 Misused"]);
    assert_eq!(busy().on(Type::ConnectionStart, 1, "SSH", 0), CLOSED);
    assert_eq!(End::destination(&["SSH"]).on(Type::ConnectionStart, 1, "SSH", 0), ["reset stream 1/0 SSH"]);
}

#[test]
fn a_missing_connection_id_closes_a_stream_whose_connections_have_ids() {
    assert_eq!(busy().on_data(1, "SSH", 0, b"whose?"), CLOSED);
    assert_eq!(busy().on(Type::ConnectionReset, 1, "SSH", 0), CLOSED);
    let mut end = End::destination(&["SSH"]);
    end.on(Type::StreamStart, 1, "SSH", 1);
    assert_eq!(end.on_data(1, "SSH", 0, b"mine?"), ["reset stream 1/0 SSH", "abort #1 Misused"]);
}

#[test]
fn what_one_source_may_open_is_bounded() {
    let mut end = End::with(Mode::Destination, Compat::V3, &["SSH"], |limits| limits.max_connections = 1);
    end.on(Type::StreamStart, 1, "SSH", 1);
    for id in 2..=4 {
        assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", id).len(), 1);
    }
    assert_eq!(end.on(Type::ConnectionStart, 1, "SSH", 5), ["reset connection 1/5 SSH"]);
    // Those that wait for their application count, since they hold memory.
    for conn in 1..=4 {
        end.dialled(conn);
        end.on_data(1, "SSH", conn as u32, b"x");
        assert!(end.on(Type::ConnectionReset, 1, "SSH", conn as u32).is_empty());
    }
    assert_eq!(end.on(Type::StreamStart, 2, "SSH", 6), ["reset stream 2/0 SSH"]);
    assert_eq!(end.written(Conn(3), 1), ["finish #3"]);
    assert_eq!(end.on(Type::StreamStart, 3, "SSH", 7), ["dial #5 SSH"]);
}
