//! Calls on their way to the log, Postgres and ClickHouse. A call is carried out once, at some time,
//! or never; its caller hears of it, or not, or before it happens that it is unknown.

use std::collections::{BTreeMap, BTreeSet};

use archiver::{borders::Borders, insert::Insert};
use bytes::Bytes;
use domain::chain::Hash;
use ledger::post::{Posting, Standing};
use rater::queue::Move;
use uuid::Uuid;

use super::traffic::Entry;

/// Number of a call.
pub type CallId = u32;

/// What a call does. Each is atomic.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Appends a batch to a partition of `[rated]`.
    Rated(u32, Bytes),
    /// Appends a lane's copies to a partition of `[usage]`.
    Copies(u32, Bytes),
    /// Appends to a partition of `[usage]` what closes periods, or amends what closed them.
    Close(u32, Bytes, Vec<Entry>),
    /// The ledger-writer's transaction, behind the head of the audit chain that it believes in.
    Post(Box<Posting>, Hash),
    /// The lane's transaction.
    Move(u32, Move),
    /// Fixes borders of groups.
    Fix(Uuid, Vec<(u32, Borders)>),
    /// An insert of the archiver.
    Insert(Insert),
}

/// What a caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The append stands there.
    At(i64),
    /// The window is posted.
    Posted(Standing),
    /// It was done.
    Done,
    /// The compare-and-set found something else; nothing was done.
    Stale,
}

/// What is known of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing yet.
    Waiting,
    /// It was carried out.
    Answered(Answer),
    /// It was lost and will never be carried out; the caller hears that its outcome is unknown.
    Lost,
}

/// A call that was not carried out yet.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number.
    pub id: CallId,
    /// Who made it: calls of one caller to one log partition keep their order where the log does.
    pub caller: usize,
    /// What it does.
    pub effect: Effect,
}

/// All calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    next: CallId,
    /// Not carried out yet, oldest first.
    pub flying: Vec<Call>,
    answers: BTreeMap<CallId, Answer>,
    lost: BTreeSet<CallId>,
}

impl Calls {
    /// A new call.
    pub fn begin(&mut self, caller: usize, effect: Effect) -> CallId {
        let id = self.next;
        self.next += 1;
        self.flying.push(Call { id, caller, effect });
        id
    }

    /// What its caller would hear now.
    pub fn look(&self, id: CallId) -> Look {
        match self.answers.get(&id) {
            Some(answer) => Look::Answered(*answer),
            None if self.lost.contains(&id) => Look::Lost,
            None => Look::Waiting,
        }
    }

    /// A call was carried out.
    pub fn answer(&mut self, id: CallId, answer: Answer) {
        self.answers.insert(id, answer);
    }

    /// A call will never be carried out.
    pub fn lose(&mut self, at: usize) -> Call {
        let call = self.flying.remove(at);
        self.lost.insert(call.id);
        call
    }

    /// Forgets what nobody waits for.
    pub fn forget(&mut self, id: CallId) {
        self.answers.remove(&id);
        self.lost.remove(&id);
    }

    /// Whether a call may be the next of its caller that a log with order takes.
    pub fn is_first_append(&self, at: usize) -> bool {
        let append = |effect: &Effect| match effect {
            Effect::Rated(partition, _) => Some((0, *partition)),
            Effect::Copies(partition, _) | Effect::Close(partition, ..) => Some((1, *partition)),
            _ => None,
        };
        let (call, target) = (&self.flying[at], append(&self.flying[at].effect));
        let same = |other: &Call| other.caller == call.caller && append(&other.effect) == target;
        target.is_none() || !self.flying[..at].iter().any(same)
    }
}
