//! Two sides, the service between them, applications at both ends, and the time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use enftun::config::Mode;
use enftun::state::Moment;
use enftun::tunnel::aws::engine::{Action, Conn, Engine, Ids, LocalEnd, Refused, Settings, Why};
use enftun::tunnel::aws::message::{Message, Type};

use super::Plan;
use super::application::{Application, End, Kind, Then};
use super::relay::{Relay, frame, is_reset, message};
use crate::common::seeded::Seeded;

/// So much may wait between the service and one side; more stays with the sender.
const PIPE: usize = 50_000;
/// An application that nobody speaks to gives up after so long.
const BORED: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Side {
    session: Option<Session>,
    ids: Ids,
    /// When the next session begins.
    back: Moment,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) engine: Engine,
    /// What is to be served, once the caller has judged it.
    judging: Option<Vec<String>>,
    serving: bool,
    /// From the service, and not received.
    inbox: BytesMut,
    /// For the service.
    outbox: VecDeque<Bytes>,
    outgoing: usize,
    applications: BTreeMap<Conn, usize>,
}

pub struct World {
    pub(super) plan: Plan,
    chance: Seeded,
    pub(super) now: Moment,
    sides: [Side; 2],
    relay: Relay,
    pub applications: Vec<Application>,
    /// What those are like that will be dialled next.
    servers: VecDeque<Kind>,
    accepted: u64,
    settling: bool,
    /// How often a side did not want to receive.
    pub paused: u64,
    /// In so many connections and ways everything had to arrive, and did.
    pub equal: u64,
}

fn at(side: Mode) -> usize {
    usize::from(side == Mode::Destination)
}

pub(super) fn other(side: Mode) -> Mode {
    if side == Mode::Source { Mode::Destination } else { Mode::Source }
}

pub(super) const SIDES: [Mode; 2] = [Mode::Source, Mode::Destination];

impl World {
    pub fn new(plan: Plan, chance: Seeded) -> Self {
        Self {
            relay: Relay::new(plan.compat),
            plan,
            chance,
            now: Moment::ZERO,
            sides: Default::default(),
            applications: Vec::new(),
            servers: VecDeque::new(),
            accepted: 0,
            settling: false,
            paused: 0,
            equal: 0,
        }
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.chance.below(times) == 0
    }

    pub(super) fn session(&mut self, side: Mode) -> Option<&mut Session> {
        self.sides[at(side)].session.as_mut()
    }

    /// Everything that is planned to happen.
    pub fn live(&mut self) {
        let mut calm = 0;
        while calm < 50 {
            self.round();
            if self.accepted < self.plan.clients {
                if self.one_in(4) {
                    self.connect();
                }
            } else {
                calm += 1;
            }
            if self.plan.losses && self.one_in(40) {
                let side = self.chance.one_of(&SIDES);
                self.lose(side);
            }
            if self.plan.moods && self.one_in(60) {
                self.be_moody();
            }
        }
    }

    /// Nothing happens any more: what is there ends.
    pub fn settle(&mut self) {
        self.settling = true;
        for _ in 0..200_000 {
            let quiet = |side: &Side| {
                side.session.as_ref().is_some_and(|one| one.serving && one.inbox.is_empty() && one.outbox.is_empty())
            };
            let quiet = self.sides.iter().all(quiet);
            if quiet && self.applications.iter().all(|one| !one.is_live()) {
                return;
            }
            // Nothing will happen but time.
            if quiet && self.applications.iter().all(|one| one.waiting.is_empty() && one.sent == one.kind.planned) {
                self.now += Duration::from_millis(self.chance.below(1000));
            }
            self.round();
        }
        let live: Vec<_> = self.applications.iter().filter(|one| one.is_live()).collect();
        panic!("these do not end: {live:?}\n{:?}\n{:?}", self.plan, self.sides);
    }

    pub fn until_served(&mut self) {
        while !self.sides.iter().all(|side| side.session.as_ref().is_some_and(|session| session.serving)) {
            self.round();
        }
    }

    fn round(&mut self) {
        self.now += Duration::from_millis(self.chance.below(10));
        for side in SIDES {
            self.come_back(side);
            self.receive(side);
            self.judge_services(side);
            self.pass_on(side);
            let now = self.now;
            if let Some(session) = self.session(side)
                && session.engine.due().is_some_and(|due| due <= now)
            {
                session.engine.wake(now);
                self.act(side, true);
            }
        }
        for number in 0..self.applications.len() {
            if self.applications[number].is_live() && self.chance.below(2) == 0 {
                self.application(number);
            }
        }
    }

    /// A session begins.
    fn come_back(&mut self, side: Mode) {
        let here = &mut self.sides[at(side)];
        if here.session.is_some() || self.now < here.back {
            return;
        }
        let settings = Settings { mode: side, compat: self.plan.compat, limits: self.plan.limits };
        let names = self.plan.services.clone();
        let names = if names == [""] { Vec::new() } else { names };
        let first = frame(Message { available_service_ids: names, ..message(Type::ServiceIds) });
        here.session = Some(Session {
            engine: Engine::after(settings, here.ids.clone()),
            judging: None,
            serving: false,
            inbox: first.into(),
            outbox: VecDeque::new(),
            outgoing: 0,
            applications: BTreeMap::new(),
        });
        if self.plan.resets {
            let resets = self.relay.reset(None);
            self.put(other(side), &resets);
        }
    }

    /// The service sends this to one side, if it is there.
    fn put(&mut self, side: Mode, frames: &[Bytes]) {
        if let Some(session) = self.session(side) {
            frames.iter().for_each(|frame| session.inbox.extend_from_slice(frame));
        }
    }

    /// One piece of what the service has sent comes to a side.
    fn receive(&mut self, side: Mode) {
        let most = self.plan.pieces;
        let (length, now) = (1 + self.chance.below(most) as usize, self.now);
        for _ in 0..1 + self.chance.below(8) {
            let Some(session) = self.session(side).filter(|session| !session.inbox.is_empty()) else { return };
            if !session.engine.may_receive() {
                self.paused += 1;
                return;
            }
            let piece = session.inbox.split_to(length.min(session.inbox.len()));
            session.engine.receive(&piece, now).expect("no rule is broken");
            self.act(side, false);
        }
    }

    fn judge_services(&mut self, side: Mode) {
        if self.one_in(2) {
            return;
        }
        let now = self.now;
        let Some(session) = self.session(side) else { return };
        let Some(mut names) = session.judging.take() else { return };
        if names.is_empty() {
            names.push(String::new());
        }
        session.serving = true;
        session.engine.services(&names, now).expect("no rule is broken");
        self.act(side, false);
    }

    /// The service takes what a side has sent, while the other one takes it from there.
    fn pass_on(&mut self, side: Mode) {
        for _ in 0..self.chance.below(20) {
            if self.session(other(side)).is_some_and(|session| session.inbox.len() > PIPE) {
                return;
            }
            let Some(session) = self.session(side) else { return };
            let Some(frame) = session.outbox.pop_front() else { return };
            session.outgoing -= frame.len();
            self.relay.pass(side, &frame);
            self.put(other(side), &[frame]);
        }
    }

    /// One whose application sends no more is reset from here; it could be any of these.
    fn lingered(&mut self, side: Mode) {
        let done = self.applications.iter_mut().filter(|one| one.side == side && one.eof && one.is_live());
        done.for_each(|one| one.lingered = true);
    }

    /// Does what an engine wants. `woken`: since time has passed.
    fn act(&mut self, side: Mode, woken: bool) {
        let now = self.now;
        while let Some(action) = self.session(side).and_then(|session| session.engine.poll()) {
            match action {
                Action::Send(frame) => {
                    if woken && is_reset(&frame) {
                        self.lingered(side);
                    }
                    let session = self.session(side).unwrap();
                    session.outgoing += frame.len();
                    session.outbox.push_back(frame);
                }
                Action::Serve(names) => self.session(side).unwrap().judging = Some(names),
                Action::Dial { conn, service } => {
                    assert_eq!(side, Mode::Destination);
                    let kind = self.servers.pop_front().unwrap_or_else(|| self.draw());
                    self.begin(Application::new(side, service.to_string(), conn, kind, now));
                }
                Action::Deliver { conn, data } => {
                    let most = self.plan.limits.queue + self.plan.pieces as usize + 2 * usize::from(u16::MAX);
                    let application = self.of(side, conn);
                    application.get(data);
                    assert!(application.waiting_bytes <= most, "{} bytes wait", application.waiting_bytes);
                }
                Action::Finish { conn } => {
                    let application = self.of(side, conn);
                    assert_eq!(application.waiting_bytes, 0);
                    let end = if application.lingered { End::Lingered } else { End::Finished };
                    self.end(side, conn, end);
                }
                Action::Abort { conn, why } => {
                    assert_ne!(why, Why::Misused, "nobody breaks the rules here");
                    self.end(side, conn, End::Aborted(why));
                }
            }
        }
    }

    fn begin(&mut self, application: Application) {
        let (side, conn, number) = (application.side, application.conn, self.applications.len());
        let before = self.session(side).unwrap().applications.insert(conn, number);
        assert_eq!(before, None, "a handle is used again");
        self.applications.push(application);
    }

    fn of(&mut self, side: Mode, conn: Conn) -> &mut Application {
        let number = self.session(side).unwrap().applications[&conn];
        &mut self.applications[number]
    }

    fn end(&mut self, side: Mode, conn: Conn, end: End) {
        let application = self.of(side, conn);
        assert_eq!(application.end.replace(end), None, "it ends twice: {application:?}");
        application.waiting.clear();
    }

    fn draw(&mut self) -> Kind {
        let tiny = self.plan.limits.max_payload < 10 || self.plan.limits.queue < 100;
        Kind::draw(&mut self.chance, self.plan.unruly, tiny)
    }

    fn connect(&mut self) {
        let kind = self.draw();
        let service = self.chance.below(self.plan.services.len() as u64) as usize;
        self.accept(service, kind);
    }

    /// A client of this kind, and the server that it will reach.
    pub fn connect_as(&mut self, service: usize, client: Kind, server: Kind) {
        self.servers.push_back(server);
        assert!(self.accept(service, client));
    }

    fn accept(&mut self, service: usize, kind: Kind) -> bool {
        let (now, service) = (self.now, self.plan.services[service].clone());
        let Some(session) = self.session(Mode::Source).filter(|session| session.serving) else { return false };
        let accepted = session.engine.accept(&service, now);
        self.accepted += 1;
        self.act(Mode::Source, false);
        match accepted {
            Ok(conn) => self.begin(Application::new(Mode::Source, service, conn, kind, now)),
            Err(refused) => assert_eq!(refused, Refused::TooMany),
        }
        accepted.is_ok()
    }

    /// An application does something, if it likes to.
    fn application(&mut self, number: usize) {
        let now = self.now;
        let (side, conn) = (self.applications[number].side, self.applications[number].conn);
        if !self.applications[number].there {
            self.dial(number);
            return;
        }
        for data in self.applications[number].read(now) {
            self.judge_bytes(number, &data);
            self.session(side).unwrap().engine.written(conn, data.len(), now);
            self.act(side, false);
        }
        if !self.applications[number].is_live() {
            return;
        }
        if self.session(side).unwrap().outgoing < PIPE
            && let Some(data) = self.applications[number].write(number, &mut self.chance, now)
        {
            self.session(side).unwrap().engine.send(conn, data, now);
            self.act(side, false);
        }
        let application = &self.applications[number];
        let done = application.sent == application.kind.planned;
        let bored = self.settling && now - application.active > BORED;
        let breaks = application.kind.breaks.is_some_and(|breaks| application.sent >= breaks);
        if bored || breaks || (done && application.kind.then == Then::Close && application.waiting_bytes == 0) {
            self.session(side).unwrap().engine.local_end(conn, LocalEnd::Broken, now);
            self.end(side, conn, End::Own);
            self.act(side, false);
        } else if done && application.kind.then == Then::Eof && !application.eof {
            self.applications[number].eof = true;
            self.applications[number].lingered = self.plan.limits.half_close_grace.is_zero();
            self.session(side).unwrap().engine.local_end(conn, LocalEnd::Eof, now);
            self.act(side, false);
        }
    }

    fn dial(&mut self, number: usize) {
        let (now, conn) = (self.now, self.applications[number].conn);
        if self.chance.below(8) > 0 {
            return;
        }
        if self.plan.failures && self.one_in(4) {
            self.session(Mode::Destination).unwrap().engine.dial_failed(conn, now);
            self.end(Mode::Destination, conn, End::Own);
        } else {
            self.applications[number].there = true;
            self.applications[number].active = now;
            self.session(Mode::Destination).unwrap().engine.dialled(conn, now);
        }
        self.act(Mode::Destination, false);
    }

    /// What is on its way may be lost: of all whose other end has not ended too, or has not shown itself.
    fn cut(&mut self) {
        for number in 0..self.applications.len() {
            let over = self.peer(number).is_some_and(|peer| !self.applications[peer].is_live());
            let here = &mut self.applications[number];
            here.cut |= here.is_live() || !over;
        }
    }

    /// The one at the other end, if either has heard the other.
    pub(super) fn peer(&self, number: usize) -> Option<usize> {
        let heard = || self.applications.iter().position(|one| one.from == Some(number));
        self.applications[number].from.or_else(heard)
    }

    fn lose(&mut self, side: Mode) {
        self.cut();
        let pause = self.chance.below(200);
        let here = &mut self.sides[at(side)];
        let Some(session) = here.session.take() else { return };
        here.ids = session.engine.ids();
        here.back = self.now + Duration::from_millis(pause);
        for number in session.applications.into_values() {
            self.applications[number].end.get_or_insert(End::Lost);
        }
    }

    /// The service resets a stream, all of them or the session, for one side or both.
    fn be_moody(&mut self) {
        self.cut();
        let one = self.chance.below(self.relay.streams.len() as u64 + 1) as usize;
        let frames = match self.chance.below(3) {
            0 => vec![frame(message(Type::SessionReset))],
            1 => self.relay.reset(Some(one)),
            _ => self.relay.reset(None),
        };
        let sides = self.chance.one_of(&[&SIDES[..], &SIDES[..1], &SIDES[1..]]);
        sides.iter().for_each(|side| self.put(*side, &frames));
    }
}
