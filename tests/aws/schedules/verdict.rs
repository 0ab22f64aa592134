//! What must be true, of each byte that an application reads and of the whole at the end.

use enftun::config::{Compat, Mode};
use enftun::tunnel::aws::engine::Action;
use enftun::tunnel::aws::message::{Message, Type};

use super::application::End;
use super::relay::{frame, message};
use super::world::{SIDES, World, other};

impl World {
    /// Bytes that an application has read are the next ones of the one at the other end, and nobody else gets those.
    pub(super) fn judge_bytes(&mut self, number: usize, data: &[u8]) {
        let count = self.applications.len();
        self.applications[number].judge(data, count);
        let Some(from) = self.applications[number].from else { return };
        let (here, there) = (&self.applications[number], &self.applications[from]);
        assert!(here.received <= there.sent, "more than was sent");
        assert_eq!((there.side, &there.service), (other(here.side), &here.service));
        assert!(there.from.is_none_or(|from| from == number), "{from} gets the bytes of another one: {there:?}");
        let also = self.applications.iter().enumerate().find(|(at, one)| *at != number && one.from == Some(from));
        assert!(also.is_none(), "the bytes of {from} go to {number} and {also:?}");
    }

    /// Everything has ended: what had to arrive did, and nothing is left.
    pub fn judge(&mut self) {
        for number in 0..self.applications.len() {
            let here = &self.applications[number];
            let there = |from: usize| &self.applications[from];
            let Some(from) = self.peer(number) else { continue };
            assert!(here.begins_like(from) && here.received <= there(from).sent);
            if here.end == Some(End::Finished) && !here.cut && !there(from).cut {
                assert_eq!(here.received, there(from).sent, "{here:?}\n{:?}", there(from));
                self.equal += 1;
            }
        }
        for side in SIDES {
            let engine = &self.session(side).unwrap().engine;
            assert_eq!((engine.due(), engine.may_receive()), (None, true));
        }
        self.judge_room();
    }

    /// Both ends have room for as many connections as at the beginning.
    fn judge_room(&mut self) {
        if self.plan.compat != Compat::V3 {
            return;
        }
        let (now, limit, services) = (self.now, self.plan.limits.max_connections, self.plan.services.clone());
        let source = &mut self.session(Mode::Source).unwrap().engine;
        for service in &services {
            assert!((0..limit).all(|_| source.accept(service, now).is_ok()), "no room at the source");
        }
        let destination = &mut self.session(Mode::Destination).unwrap().engine;
        for service_id in services {
            for connection_id in 1..=4 * limit as u32 {
                let kind = if connection_id == 1 { Type::StreamStart } else { Type::ConnectionStart };
                let start = Message { stream_id: 1, service_id: service_id.clone(), connection_id, ..message(kind) };
                destination.receive(&frame(start), now).unwrap();
                let action = destination.poll();
                assert!(matches!(action, Some(Action::Dial { .. })), "no room at the destination: {action:?}");
            }
        }
    }
}
