//! Ledger-writers: the real window, posting and what a lost answer means.

use ledger::post::{Posting, Seen, Standing};
use ledger_writer::window::Window;

use super::{
    calls::{Answer, CallId, Effect, Look},
    stores::Trimmed,
    world::World,
};

/// The ledger-writer of a partition.
#[derive(Clone)]
pub struct Writer {
    /// Where it believes that the ledger stands.
    standing: Standing,
    window: Window,
    /// The position of `[rated]` to read next.
    next: i64,
    /// A transaction on its way.
    pub posting: Option<(CallId, Box<Posting>)>,
}

/// Callers of ledger-writers.
const CALLER: usize = 4;

impl Writer {
    fn new(partition: usize, standing: Standing) -> Writer {
        let window = Window::new(
            u32::try_from(partition).unwrap(),
            standing.place,
            standing.catalog_version,
        );
        Writer { standing, window, next: standing.place.r + 1, posting: None }
    }

    /// Where its window ends.
    pub fn window(&self) -> &Window {
        &self.window
    }
}

impl World {
    /// A writer begins where Postgres says that the ledger stands.
    pub fn open_writer(&mut self, partition: usize, which: usize) {
        let standing = self.database.standings[partition];
        self.tell(|| format!("writer {partition}.{which} starts at {}", standing.place.x));
        self.writers[partition][which] = Some(Writer::new(partition, standing));
    }

    /// The process ends between two steps.
    pub fn crash_writer(&mut self, partition: usize, which: usize) {
        self.tell(|| format!("writer {partition}.{which} ends"));
        self.writers[partition][which] = None;
        self.faults.crashes += 1;
    }

    /// Adds so many messages of `[rated]` to its window, at most.
    pub fn read_writer(&mut self, partition: usize, which: usize, most: usize) {
        let Some(writer) = &mut self.writers[partition][which] else { return };
        for _ in 0..most {
            match self.log[partition].rated_at(writer.next) {
                _ if writer.posting.is_some() => return,
                Ok(None) => return,
                Ok(Some(message)) => {
                    writer.window.offer(writer.next, &message).unwrap();
                }
                Err(Trimmed) => return self.crash_writer(partition, which),
            }
            writer.next += 1;
        }
    }

    /// Sends the transaction of its window.
    pub fn post(&mut self, partition: usize, which: usize) {
        let Some(writer) = &mut self.writers[partition][which] else { return };
        if writer.posting.is_some() || writer.window.is_empty() {
            return;
        }
        let posting = Box::new(writer.window.posting());
        let effect = Effect::Post(posting.clone(), writer.standing.head);
        writer.posting = Some((self.calls.begin(CALLER + which, effect), posting));
    }

    /// Looks at the answer of its transaction.
    pub fn hear_post(&mut self, partition: usize, which: usize, doubt: bool) {
        let now = self.database.standings[partition];
        let Some(writer) = &mut self.writers[partition][which] else { return };
        let Some((call, posting)) = writer.posting.take() else { return };
        let next = writer.next;
        let on = |standing| Writer { next, ..Writer::new(partition, standing) };
        match self.calls.look(call) {
            Look::Waiting if !doubt => writer.posting = Some((call, posting)),
            Look::Answered(Answer::Posted(standing)) if !doubt => {
                *writer = on(standing);
                self.calls.forget(call);
            }
            Look::Answered(Answer::Stale) if !doubt => {
                *writer = Writer::new(partition, now);
                self.faults.fenced += 1;
            }
            _ => {
                match posting.seen(&now.place) {
                    Seen::Posted => {
                        *writer = on(now);
                        self.faults.posted_unheard += 1;
                    }
                    Seen::NotPosted => {
                        let effect = Effect::Post(posting.clone(), writer.standing.head);
                        writer.posting = Some((self.calls.begin(CALLER + which, effect), posting));
                    }
                    Seen::Overtaken => {
                        *writer = Writer::new(partition, now);
                        self.faults.fenced += 1;
                    }
                }
                self.unheard(doubt);
            }
        }
        self.tell(|| format!("writer {partition}.{which} hears of call {call}, doubt {doubt}"));
    }
}
