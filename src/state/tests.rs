//! The state machine by table, by story, and by random sequences of events.

use super::*;
use proptest::prelude::*;

const POLICY: Policy = Policy {
    retry: Retry {
        first: Duration::from_secs(1),
        max: Duration::from_secs(60),
        jitter: 0.0,
        stable_after: Duration::from_secs(60),
    },
    lockdown: Lockdown::Session,
    overlaps: true,
};

fn at(seconds: u64) -> Tick {
    Tick { now: Duration::from_secs(seconds), random: 0.0 }
}

fn link() -> Link {
    Link {
        remote: "router.example.net:443".into(),
        index: 0,
        peer: "192.0.2.1:443".parse().ok(),
        local: "192.0.2.9:40000".parse().ok(),
        addresses: vec!["fd00:8f80:1::1234/128".parse().unwrap()],
        tls: Tls::default(),
    }
}

fn closed(class: Class, unheard: bool) -> Ended {
    Ended { unheard, ..Ended::of(Failure::new(Reason::RemoteClosed, class, "the router closed the connection")) }
}

fn last_start(effects: &[Effect]) -> Option<SessionId> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Start(id) => Some(*id),
        _ => None,
    })
}

/// A tunnel whose kernel does as it is told.
struct Story {
    tunnel: Tunnel,
    policy: Policy,
}

impl Story {
    fn new() -> Self {
        Self { tunnel: Tunnel::default(), policy: POLICY }
    }

    /// Steps, and answers every `Apply` with `Applied` as the daemon does.
    fn tell(&mut self, event: Event, tick: Tick) -> Vec<Effect> {
        let mut all = self.tunnel.step(event, &self.policy, tick);
        let mut seen = 0;
        while let Some(effect) = all.get(seen).cloned() {
            seen += 1;
            if effect == Effect::Apply {
                all.extend(self.tunnel.step(Event::Applied, &self.policy, tick));
            }
        }
        all
    }

    fn connected(now: u64) -> Self {
        let mut story = Self::new();
        let effects = story.tell(Event::Connect(Reason::User), at(now));
        story.tell(Event::Ready(last_start(&effects).unwrap(), link()), at(now));
        assert_eq!(story.tunnel.phase, Phase::Connected);
        story
    }

    fn end(&mut self, ended: Ended, now: u64) -> Vec<Effect> {
        let id = self.tunnel.session().unwrap();
        self.tell(Event::Ended(id, ended), at(now))
    }
}

#[test]
fn the_kernel_blocks_before_anything_is_dialled() {
    let mut tunnel = Tunnel::default();
    let effects = tunnel.step(Event::Connect(Reason::User), &POLICY, at(0));
    assert_eq!(effects, [Effect::SaveTarget(Target::Up), Effect::WakeAt(None), Effect::Apply]);
    assert_eq!(tunnel.wanted(&POLICY), Wanted::Connecting);
    assert_eq!(tunnel.step(Event::Applied, &POLICY, at(0)), [Effect::Start(1)]);
}

#[test]
fn it_is_connected_only_after_the_first_frame_and_the_plan_for_it() {
    let mut tunnel = Tunnel::default();
    let _ = tunnel.step(Event::Connect(Reason::User), &POLICY, at(0));
    let _ = tunnel.step(Event::Applied, &POLICY, at(0));
    assert_eq!(tunnel.step(Event::Ready(1, link()), &POLICY, at(1)), [Effect::Apply]);
    assert_eq!(tunnel.phase, Phase::Connecting);
    assert_eq!(tunnel.wanted(&POLICY), Wanted::Connected(link().addresses));
    assert_eq!(tunnel.step(Event::Applied, &POLICY, at(1)), []);
    assert_eq!((tunnel.phase, tunnel.attempt), (Phase::Connected, 1));
}

#[test]
fn a_lost_session_is_replaced_after_a_delay_that_doubles() {
    let mut story = Story::connected(0);
    for (now, delay) in [(10, 1), (20, 2), (30, 4)] {
        if story.tunnel.session().is_none() {
            story.tell(Event::Timer, at(now));
        }
        let effects = story.end(closed(Class::Transient, false), now);
        assert_eq!(story.tunnel.phase, Phase::Reconnecting);
        assert!(effects.contains(&Effect::WakeAt(Some(Duration::from_secs(now + delay)))), "{effects:?}");
    }
    assert_eq!(story.tunnel.reason, Reason::RemoteClosed);
    assert_eq!(story.tunnel.attempt, 2);
}

#[test]
fn a_stable_session_resets_the_delay_and_a_short_one_does_not() {
    for (lived, expected) in [(59, 2), (60, 1)] {
        let mut story = Story::connected(0);
        story.end(closed(Class::Transient, false), 1);
        let effects = story.tell(Event::Timer, at(2));
        story.tell(Event::Ready(last_start(&effects).unwrap(), link()), at(2));
        let effects = story.end(closed(Class::Transient, false), 2 + lived);
        assert!(effects.contains(&Effect::WakeAt(Some(Duration::from_secs(2 + lived + expected)))), "{effects:?}");
    }
}

#[test]
fn what_only_a_person_can_mend_is_an_error_that_retries_slowly() {
    for class in [Class::Credentials, Class::Configuration, Class::Environment, Class::Bug] {
        let mut story = Story::connected(0);
        let effects = story.end(closed(class, false), 5);
        assert_eq!(story.tunnel.phase, Phase::Error);
        assert_eq!(story.tunnel.wanted(&POLICY), Wanted::Connecting);
        assert!(effects.contains(&Effect::WakeAt(Some(Duration::from_secs(65)))));
        assert!(last_start(&story.tell(Event::Connect(Reason::User), at(6))).is_some(), "connect tries at once");
    }
}

#[test]
fn three_sessions_closed_before_their_first_frame_mean_refused_credentials() {
    let mut story = Story::new();
    story.tell(Event::Connect(Reason::User), at(0));
    for (now, phase) in [(1, Phase::Reconnecting), (10, Phase::Reconnecting), (20, Phase::Error)] {
        story.tell(Event::Timer, at(now));
        story.end(closed(Class::Transient, true), now);
        assert_eq!(story.tunnel.phase, phase);
    }
    assert_eq!(story.tunnel.reason, Reason::AuthFailed);
    assert_eq!(story.tunnel.last_failure.as_ref().unwrap().class, Class::Credentials);
}

#[test]
fn a_frame_in_between_clears_the_suspicion() {
    let mut story = Story::new();
    story.tell(Event::Connect(Reason::User), at(0));
    for now in [1, 10, 20, 30, 40] {
        let effects = story.tell(Event::Timer, at(now));
        if now == 20 {
            story.tell(Event::Ready(last_start(&effects).unwrap(), link()), at(now));
        }
        story.end(closed(Class::Transient, now != 20), now);
        assert_eq!(story.tunnel.phase, Phase::Reconnecting, "at {now}");
    }
}

#[test]
fn only_the_user_opens_it() {
    let mut story = Story::connected(0);
    let effects = story.tell(Event::Disconnect, at(5));
    assert_eq!(story.tunnel.phase, Phase::Disconnected);
    assert_eq!(story.tunnel.wanted(&POLICY), Wanted::Open);
    assert_eq!(effects.first(), Some(&Effect::SaveTarget(Target::Down)));
    let stop = effects.iter().position(|effect| matches!(effect, Effect::Stop(_))).unwrap();
    let apply = effects.iter().position(|effect| *effect == Effect::Apply).unwrap();
    assert!(stop < apply, "the session ends before the host is opened");
}

#[test]
fn under_boot_lockdown_a_disconnected_tunnel_still_blocks() {
    let mut story = Story::connected(0);
    story.policy.lockdown = Lockdown::Boot;
    story.tell(Event::Disconnect, at(5));
    assert_eq!(story.tunnel.phase, Phase::Disconnected);
    assert_eq!(story.tunnel.wanted(&story.policy), Wanted::Blocked);
}

#[test]
fn after_a_restart_what_was_disconnected_under_boot_lockdown_blocks_again() {
    let mut story = Story::new();
    story.policy.lockdown = Lockdown::Boot;
    assert_eq!(story.tell(Event::Lockdown, at(0)), [Effect::WakeAt(None), Effect::Apply]);
    assert_eq!((story.tunnel.phase, story.tunnel.reason), (Phase::Disconnected, Reason::Lockdown));
    assert_eq!(story.tunnel.wanted(&story.policy), Wanted::Blocked);
    let effects = story.tell(Event::Connect(Reason::User), at(1));
    assert!(last_start(&effects).is_some());
}

#[test]
fn what_is_locked_opens_by_the_users_word_alone_also_after_a_failed_apply() {
    for word in [Event::Unlock, Event::Disconnect] {
        let mut story = Story::new();
        let _ = story.tunnel.step(Event::Lockdown, &POLICY, at(0));
        let failure = Failure::new(Reason::RouteFailed, Class::Environment, "no");
        let effects = story.tell(Event::ApplyFailed(failure), at(0));
        let Some(Effect::WakeAt(Some(due))) = effects.first() else { panic!("{effects:?}") };
        assert_eq!(story.tunnel.wanted(&POLICY), Wanted::Blocked);
        story.tell(Event::Timer, Tick { now: *due, random: 0.0 });
        assert_eq!(story.tunnel.phase, Phase::Disconnected);
        assert_eq!(story.tunnel.wanted(&POLICY), Wanted::Blocked);
        story.tell(word, at(100));
        assert_eq!(story.tunnel.wanted(&POLICY), Wanted::Open);
    }
    let mut story = Story::connected(0);
    assert_eq!(story.tell(Event::Unlock, at(1)), [], "what is wanted goes on");
}

#[test]
fn a_failed_apply_is_an_error_that_blocks_and_is_tried_again() {
    let mut tunnel = Tunnel::default();
    let _ = tunnel.step(Event::Connect(Reason::User), &POLICY, at(0));
    let failure = Failure::new(Reason::RouteFailed, Class::Environment, "add a rule: no permission");
    let effects = tunnel.step(Event::ApplyFailed(failure), &POLICY, at(0));
    assert_eq!((tunnel.phase, tunnel.reason), (Phase::Error, Reason::RouteFailed));
    assert_eq!(tunnel.wanted(&POLICY), Wanted::Connecting);
    assert_eq!(effects, [Effect::WakeAt(Some(Duration::from_secs(1)))]);
    let effects = tunnel.step(Event::Timer, &POLICY, at(1));
    assert!(effects.contains(&Effect::Apply));
}

#[test]
fn a_way_down_that_fails_is_tried_again_until_it_works() {
    let mut story = Story::connected(0);
    let _ = story.tunnel.step(Event::Disconnect, &POLICY, at(1));
    let failure = Failure::new(Reason::RouteFailed, Class::Environment, "delete a rule: no permission");
    let _ = story.tunnel.step(Event::ApplyFailed(failure), &POLICY, at(1));
    assert_eq!((story.tunnel.phase, story.tunnel.wanted(&POLICY)), (Phase::Error, Wanted::Blocked));
    story.tell(Event::Timer, at(3));
    assert_eq!(story.tunnel.phase, Phase::Disconnected);
}

#[test]
fn a_clock_that_was_set_gives_certificates_that_were_not_yet_valid_another_chance() {
    let mut story = Story::connected(0);
    let early = Failure::new(Reason::CertificateNotYetValid, Class::Transient, "the clock is wrong");
    story.end(Ended::of(early), 1);
    assert!(last_start(&story.tell(Event::ClockSet, at(1))).is_some());
    story.end(closed(Class::Transient, false), 2);
    assert_eq!(story.tell(Event::ClockSet, at(2)), [], "other failures wait for their time");
}

#[test]
fn a_late_word_of_an_old_session_means_nothing() {
    let mut story = Story::connected(0);
    let old = story.tunnel.session().unwrap();
    story.tell(Event::Reconnect(Reason::User), at(1));
    assert_ne!(story.tunnel.session(), Some(old));
    let before = story.tunnel.clone();
    assert_eq!(story.tell(Event::Ended(old, closed(Class::Credentials, true)), at(2)), []);
    assert_eq!(story.tell(Event::Ready(old, link()), at(2)), []);
    assert_eq!(story.tunnel, before);
}

#[test]
fn asking_for_what_is_already_so_changes_nothing() {
    let mut story = Story::connected(0);
    assert_eq!(story.tell(Event::Connect(Reason::User), at(1)), []);
    story.tell(Event::Disconnect, at(2));
    assert_eq!(story.tell(Event::Disconnect, at(3)), []);
    assert_eq!(story.tell(Event::Reconnect(Reason::User), at(4)), []);
}

#[test]
fn the_address_stays_on_the_link_between_sessions_and_goes_with_the_user() {
    let mut story = Story::connected(0);
    story.end(closed(Class::Transient, false), 1);
    assert_eq!(story.tunnel.kept_addresses(), link().addresses);
    story.tell(Event::Disconnect, at(2));
    assert!(story.tunnel.kept_addresses().is_empty());
}

#[test]
fn under_lockdown_the_own_address_stays_guarded_until_the_user_opens_it() {
    let mut story = Story::connected(0);
    story.policy.lockdown = Lockdown::Boot;
    story.tell(Event::Disconnect, at(1));
    assert_eq!(story.tunnel.wanted(&story.policy), Wanted::Blocked);
    assert_eq!(story.tunnel.kept_addresses(), link().addresses, "a socket that is left may still send from it");
    story.policy.lockdown = Lockdown::Session;
    story.tell(Event::Unlock, at(2));
    assert_eq!(story.tunnel.wanted(&story.policy), Wanted::Open);
    assert!(story.tunnel.kept_addresses().is_empty());
}

/// Starts a successor by this event; its number.
fn successor(story: &mut Story, event: Event, now: u64) -> SessionId {
    let effects = story.tell(event, at(now));
    assert_eq!(story.tunnel.phase, Phase::Connected);
    last_start(&effects).unwrap()
}

#[test]
fn a_new_path_is_made_before_the_old_one_goes() {
    let mut story = Story::connected(0);
    let old = story.tunnel.session().unwrap();
    let new = successor(&mut story, Event::PathChanged, 10);
    assert_eq!(story.tunnel.session(), Some(old), "it carries packets until the new one does");
    let moved = Link { remote: "other.example.net:443".into(), ..link() };
    let effects = story.tell(Event::Ready(new, moved.clone()), at(11));
    assert_eq!(effects, [Effect::Retire(old), Effect::Apply]);
    assert_eq!((story.tunnel.phase, story.tunnel.reason), (Phase::Connected, Reason::NetworkChanged));
    assert_eq!(story.tunnel.link, Some(moved));
    assert_eq!(story.tell(Event::Ended(old, closed(Class::Transient, false)), at(12)), [], "that is success");
}

#[test]
fn a_successor_that_fails_leaves_the_live_session_alone_and_a_new_path_is_tried_again() {
    let mut story = Story::connected(0);
    let new = successor(&mut story, Event::PathChanged, 10);
    let effects = story.tell(Event::Ended(new, closed(Class::Transient, false)), at(11));
    assert_eq!(effects, [Effect::WakeAt(Some(Duration::from_secs(12)))]);
    assert_eq!(story.tunnel.phase, Phase::Connected);
    let again = last_start(&story.tell(Event::Timer, at(12))).unwrap();
    assert!(again > new);
    let effects = story.tell(Event::Ended(again, closed(Class::Credentials, false)), at(12));
    assert_eq!(effects, [Effect::WakeAt(Some(Duration::from_secs(72)))], "slowly");
    let new = successor(&mut story, Event::Suspect(1), 13);
    assert_eq!(story.tell(Event::Ended(new, closed(Class::Transient, false)), at(14)), [], "silence speaks again");
}

#[test]
fn when_the_old_session_ends_first_the_successor_is_the_session() {
    let mut story = Story::connected(0);
    let new = successor(&mut story, Event::Resumed, 10);
    let effects = story.end(closed(Class::Transient, false), 11);
    assert_eq!(effects, [Effect::Apply], "it has begun already");
    assert_eq!((story.tunnel.phase, story.tunnel.session()), (Phase::Connecting, Some(new)));
    assert_eq!(story.tunnel.kept_addresses(), link().addresses);
    story.tell(Event::Ready(new, link()), at(12));
    assert_eq!(story.tunnel.phase, Phase::Connected);
}

#[test]
fn one_more_change_of_path_starts_the_successor_anew_and_the_old_path_makes_it_superfluous() {
    let mut story = Story::connected(0);
    let first = successor(&mut story, Event::PathChanged, 10);
    let effects = story.tell(Event::PathChanged, at(11));
    assert_eq!(effects.first(), Some(&Effect::Abandon(first)));
    let second = last_start(&effects).unwrap();
    assert_eq!(story.tell(Event::PathRestored, at(12)), [Effect::Abandon(second)]);
    assert_eq!(story.tunnel.successor(), None);
    let silent = successor(&mut story, Event::Suspect(1), 13);
    assert_eq!(story.tell(Event::PathRestored, at(14)), [], "that one is about something else");
    assert_eq!(story.tell(Event::Suspect(1), at(14)), [], "one is enough");
    assert_eq!(story.tunnel.successor().unwrap().id, silent);
}

#[test]
fn a_network_that_comes_or_a_system_that_wakes_ends_every_wait() {
    for event in [Event::PathChanged, Event::Resumed] {
        let mut story = Story::connected(0);
        for now in [1, 10, 20, 30] {
            story.end(closed(Class::Transient, false), now);
            story.tell(Event::Timer, at(now + 9));
        }
        story.end(closed(Class::Transient, false), 40);
        assert!(last_start(&story.tell(event, at(41))).is_some());
        assert_eq!(story.tunnel.phase, Phase::Connecting);
        let effects = story.end(closed(Class::Transient, false), 42);
        assert!(effects.contains(&Effect::WakeAt(Some(Duration::from_secs(43)))), "{effects:?}");
    }
}

#[test]
fn without_any_network_the_next_attempt_waits_for_one() {
    let mut story = Story::new();
    story.tell(Event::Connect(Reason::User), at(0));
    let failure = Failure::new(Reason::NoNetwork, Class::Transient, "no way leads there");
    let effects = story.end(Ended::of(failure), 1);
    assert!(effects.contains(&Effect::WakeAt(Some(Duration::from_secs(61)))), "{effects:?}");
    assert_eq!(story.tunnel.reason, Reason::NoNetwork);
}

#[test]
fn new_credentials_end_the_error_that_old_ones_caused_and_no_other() {
    for (class, tried) in [(Class::Credentials, true), (Class::Configuration, true), (Class::Environment, false)] {
        let mut story = Story::new();
        story.tell(Event::Connect(Reason::User), at(0));
        story.end(closed(class, false), 1);
        assert_eq!(story.tunnel.phase, Phase::Error);
        assert_eq!(last_start(&story.tell(Event::Renewed, at(2))).is_some(), tried, "{class:?}");
    }
    let mut story = Story::connected(0);
    let new = successor(&mut story, Event::Renewed, 1);
    story.tell(Event::Ready(new, link()), at(2));
    assert_eq!((story.tunnel.phase, story.tunnel.reason), (Phase::Connected, Reason::Config));
    assert_eq!(Story::new().tell(Event::Renewed, at(0)), []);
}

#[derive(Clone, Debug)]
enum Input {
    Connect,
    Disconnect,
    Reconnect,
    Lockdown,
    Unlock,
    Ready,
    Ended(Class, bool),
    Stale,
    Timer,
    ClockSet,
    ApplyFails,
    PathChanged,
    PathRestored,
    Resumed,
    Suspect,
    Preferred,
    Renewed,
    SuccessorReady,
    SuccessorEnded(Class),
}

fn input() -> impl Strategy<Value = Input> {
    let class = prop::sample::select(vec![
        Class::Transient,
        Class::Configuration,
        Class::Credentials,
        Class::Environment,
        Class::Bug,
    ]);
    let ended = class.clone();
    prop_oneof![
        1 => Just(Input::Connect),
        1 => Just(Input::Disconnect),
        1 => Just(Input::Reconnect),
        1 => Just(Input::Lockdown),
        1 => Just(Input::Unlock),
        3 => Just(Input::Ready),
        3 => (class, any::<bool>()).prop_map(|(class, unheard)| Input::Ended(class, unheard)),
        1 => Just(Input::Stale),
        4 => Just(Input::Timer),
        1 => Just(Input::ClockSet),
        1 => Just(Input::ApplyFails),
        1 => Just(Input::PathChanged),
        1 => Just(Input::PathRestored),
        1 => Just(Input::Resumed),
        1 => Just(Input::Suspect),
        1 => Just(Input::Preferred),
        1 => Just(Input::Renewed),
        2 => Just(Input::SuccessorReady),
        2 => ended.prop_map(Input::SuccessorEnded),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The promise "only the user opens it", over everything that can happen: a tunnel that was ever wanted leaves the
    /// host open only when the user's own disconnect was the last wish. And: never more than a session and its successor, never
    /// one that nobody stops, and a tunnel that is wanted always has a session or a time for the next.
    #[test]
    fn every_state_but_the_users_own_disconnected_blocks(inputs in prop::collection::vec(input(), 1..60), random in 0.0f64..1.0) {
        let mut tunnel = Tunnel::default();
        let mut now = Duration::ZERO;
        let mut running = std::collections::BTreeSet::new();
        let mut wish_up = false;
        let mut locked = false;
        for input in inputs {
            now += Duration::from_secs(1);
            let mut fail_apply = false;
            let event = match input {
                Input::Connect => { (wish_up, locked) = (true, false); Event::Connect(Reason::User) }
                Input::Disconnect => { (wish_up, locked) = (false, false); Event::Disconnect }
                Input::Reconnect => Event::Reconnect(Reason::User),
                Input::Lockdown => { locked |= !wish_up; Event::Lockdown }
                Input::Unlock => { locked = false; Event::Unlock }
                Input::Ready => match tunnel.session() { Some(id) => Event::Ready(id, link()), None => continue },
                Input::Ended(class, unheard) => match tunnel.session() {
                    Some(id) => { running.remove(&id); Event::Ended(id, closed(class, unheard)) }
                    None => continue,
                },
                Input::SuccessorReady => match tunnel.successor() {
                    Some(Successor { id, .. }) => Event::Ready(id, link()),
                    None => continue,
                },
                Input::SuccessorEnded(class) => match tunnel.successor() {
                    Some(Successor { id, .. }) => { running.remove(&id); Event::Ended(id, closed(class, false)) }
                    None => continue,
                },
                Input::PathChanged => Event::PathChanged,
                Input::PathRestored => Event::PathRestored,
                Input::Resumed => Event::Resumed,
                Input::Suspect => Event::Suspect(tunnel.session().unwrap_or(0)),
                Input::Preferred => Event::Preferred,
                Input::Renewed => Event::Renewed,
                Input::Stale => Event::Ended(0, closed(Class::Bug, true)),
                Input::Timer => { now = tunnel.next_attempt.unwrap_or(now).max(now); Event::Timer }
                Input::ClockSet => Event::ClockSet,
                Input::ApplyFails => { fail_apply = true; Event::Reconnect(Reason::User) }
            };
            let tick = Tick { now, random };
            let mut queue = std::collections::VecDeque::from([event]);
            while let Some(event) = queue.pop_front() {
                for effect in tunnel.step(event, &POLICY, tick) {
                    match effect {
                        Effect::Apply if fail_apply => {
                            fail_apply = false;
                            queue.push_back(Event::ApplyFailed(Failure::new(Reason::RouteFailed, Class::Environment, "no")));
                        }
                        Effect::Apply => queue.push_back(Event::Applied),
                        Effect::Start(id) => prop_assert!(running.insert(id)),
                        Effect::Stop(id) | Effect::Abandon(id) | Effect::Retire(id) => prop_assert!(running.remove(&id)),
                        Effect::Probe(id) => prop_assert_eq!(tunnel.session(), Some(id)),
                        Effect::WakeAt(at) => prop_assert!(at.is_none_or(|at| at > now)),
                        Effect::SaveTarget(target) => prop_assert_eq!(target == Target::Up, wish_up),
                    }
                }
            }
            let open = tunnel.wanted(&POLICY) == Wanted::Open;
            prop_assert_eq!(tunnel.target == Target::Up, wish_up);
            prop_assert!(!(open && wish_up), "open while wanted: {:?}", tunnel);
            prop_assert!(!(open && locked), "open while locked: {:?}", tunnel);
            let ours = tunnel.session().into_iter().chain(tunnel.successor().map(|successor| successor.id));
            prop_assert_eq!(&running, &ours.collect());
            prop_assert!(tunnel.successor().is_none() || tunnel.phase == Phase::Connected);
            if wish_up {
                prop_assert!(!running.is_empty() || tunnel.next_attempt.is_some(), "nothing will ever happen: {:?}", tunnel);
            } else {
                prop_assert!(running.is_empty());
            }
            prop_assert_eq!(tunnel.phase == Phase::Connected, tunnel.link.is_some());
        }
    }
}

#[test]
fn a_far_end_that_goes_away_says_when_to_come_back_and_nobody_waits_longer_than_the_longest_delay() {
    let away = |class, again| {
        let mut story = Story::connected(0);
        let failure = Failure::new(Reason::GoingAway, class, "the router is being shut down");
        let effects = story.end(Ended { again, ..Ended::of(failure) }, 100);
        assert_eq!(story.tunnel.reason, Reason::GoingAway);
        assert!(story.tunnel.last_failure.as_ref().is_some_and(|failure| failure.text.contains("shut down")));
        let wake = effects.iter().find_map(|effect| match effect {
            Effect::WakeAt(at) => *at,
            _ => None,
        });
        wake.unwrap().as_secs() - 100
    };
    let (before, seconds) = (Again::NotBefore, Duration::from_secs);
    for (class, again, expected) in [
        (Class::Transient, Again::InTurn, 1),
        (Class::Transient, before(seconds(0)), 1),
        (Class::Transient, before(seconds(7)), 7),
        (Class::Transient, before(seconds(3600)), 60),
        (Class::Transient, Again::AtOnce, 0),
        // What only a change from outside mends is not mended by another far end.
        (Class::Credentials, Again::AtOnce, 60),
        (Class::Credentials, before(seconds(7)), 60),
    ] {
        assert_eq!(away(class, again), expected, "{class:?} {again:?}");
    }
}

#[test]
fn what_the_far_end_takes_once_only_is_asked_for_life_and_gets_no_successor() {
    let alone = Policy { overlaps: false, ..POLICY };
    let mut tunnel = Tunnel::default();
    let tick = Tick { now: Duration::from_secs(1), random: 0.5 };
    let _ = tunnel.step(Event::Connect(Reason::User), &alone, tick);
    let _ = tunnel.step(Event::Applied, &alone, tick);
    let session = tunnel.session().unwrap();
    let _ = tunnel.step(Event::Ready(session, Link { addresses: Vec::new(), ..link() }), &alone, tick);
    let _ = tunnel.step(Event::Applied, &alone, tick);
    assert_eq!((tunnel.phase, tunnel.wanted(&alone)), (Phase::Connected, Wanted::Connected(Vec::new())));
    for event in [Event::PathChanged, Event::Resumed] {
        assert_eq!(tunnel.step(event, &alone, tick), [Effect::Probe(session)]);
    }
    for event in [Event::Suspect(session), Event::Preferred] {
        assert_eq!(tunnel.step(event, &alone, tick), []);
    }
    assert_eq!((tunnel.phase, tunnel.successor()), (Phase::Connected, None));
    let effects = tunnel.step(Event::Renewed, &alone, tick);
    assert!(effects.contains(&Effect::Stop(session)), "{effects:?}");
    assert_eq!(tunnel.phase, Phase::Connecting);
}
