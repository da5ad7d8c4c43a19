//! Questions that are noted twice: when they come, and again with their answers or with what a server's own policy did. Each is
//! one contact, so a question waits until the second note of it comes, or none does for a while.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use jiff::Timestamp;

use super::{Noted, Observed, Question};

/// Seconds of the log for which a question waits.
const WAIT_SECS: i64 = 30;
/// Questions that wait.
const WAITING_LIMIT: usize = 1 << 16;

/// What two notes of one question have in common. What a log does not note is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tell {
    /// The client's port.
    pub(super) port: u16,
    /// The message's id.
    pub(super) id: u16,
}

type Key = (IpAddr, Tell, Vec<u8>, String);

/// Hands on questions, each once.
pub(super) struct Pairs<'e> {
    each: &'e mut dyn FnMut(Observed),
    /// Each with its number, and whether it is known what a server's policy did to it.
    waiting: HashMap<Key, VecDeque<(u64, bool, Observed)>>,
    /// What waits, oldest first; some of it was answered since.
    order: VecDeque<(Timestamp, u64, Key)>,
    next: u64,
}

impl<'e> Pairs<'e> {
    pub(super) fn new(each: &'e mut dyn FnMut(Observed)) -> Self {
        Self { each, waiting: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    /// Hands on what nothing more is said of.
    pub(super) fn whole(&mut self, observed: Observed) {
        (self.each)(observed);
    }

    /// A question came.
    pub(super) fn came(&mut self, time: Timestamp, client: IpAddr, tell: Tell, question: Question) {
        let key = key(client, tell, &question);
        let observed = Observed { time, client, what: Noted::Asked(question) };
        self.next += 1;
        self.waiting.entry(key.clone()).or_default().push_back((self.next, false, observed));
        self.order.push_back((time, self.next, key));
        while self.order.len() > WAITING_LIMIT
            || self.order.front().is_some_and(|(at, ..)| time.as_second() - at.as_second() > WAIT_SECS)
        {
            let Some((_, number, key)) = self.order.pop_front() else { break };
            self.give_up(number, &key);
        }
    }

    /// What a server's policy did to a question. Whether one waits of which that was not said yet.
    pub(super) fn judged(
        &mut self,
        time: Timestamp,
        client: IpAddr,
        tell: Tell,
        question: &Question,
    ) -> bool {
        let waiting = self.waiting.get_mut(&key(client, tell, question));
        let is_one = |(_, judged, observed): &&mut (u64, bool, Observed)| {
            !judged && time.as_second() - observed.time.as_second() <= WAIT_SECS
        };
        match waiting.and_then(|waiting| waiting.iter_mut().find(is_one)) {
            Some((_, judged, Observed { what: Noted::Asked(waiting), .. })) => {
                waiting.is_blocked = question.is_blocked;
                *judged = true;
                true
            }
            _ => false,
        }
    }

    /// A question was answered. Whether it waited: otherwise it is handed on as it is. Nothing more is said of it.
    pub(super) fn answered(
        &mut self,
        time: Timestamp,
        client: IpAddr,
        tell: Tell,
        question: Question,
    ) -> bool {
        let key = key(client, tell, &question);
        let Some((_, _, mut observed)) = self.waiting.get_mut(&key).and_then(VecDeque::pop_front) else {
            (self.each)(Observed { time, client, what: Noted::Asked(question) });
            return false;
        };
        self.forget_empty(&key);
        if let Noted::Asked(asked) = &mut observed.what {
            asked.is_blocked |= question.is_blocked;
            asked.answers = question.answers;
        }
        (self.each)(observed);
        true
    }

    /// Hands on all that waits.
    pub(super) fn finish(mut self) {
        while let Some((_, number, key)) = self.order.pop_front() {
            self.give_up(number, &key);
        }
    }

    fn give_up(&mut self, number: u64, key: &Key) {
        if let Some(waiting) = self.waiting.get_mut(key)
            && waiting.front().is_some_and(|(first, ..)| *first == number)
            && let Some((_, _, observed)) = waiting.pop_front()
        {
            (self.each)(observed);
        }
        self.forget_empty(key);
    }

    fn forget_empty(&mut self, key: &Key) {
        if self.waiting.get(key).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(key);
        }
    }
}

fn key(client: IpAddr, tell: Tell, question: &Question) -> Key {
    (client, tell, question.name.as_name().as_wire().to_vec(), question.rtype.clone())
}
