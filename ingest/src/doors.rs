//! Doors: topics of Kafka that tools write themselves, one per tenant, read into `[usage]`.
//!
//! One thread takes messages, reads them as a request's body is read ([`message`]), hands them to
//! the blocks, and commits a door's offset when the log has acknowledged everything below it. What
//! the log does not acknowledge is handed over again, and only that; meanwhile nothing more is
//! taken, so memory is bounded, and the thread keeps polling, so that the group keeps its member.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use runtime::{
    backoff::Backoff,
    context::Context,
    http::{Heartbeat, State as Ready},
    log::{
        LogError,
        kafka::{Inbox, KafkaOptions, Letter, Place},
    },
    task::{self, TaskError},
};
use tokio::{runtime::Handle, time::timeout_at};

use self::message::{Read, Unread};
use crate::{Ingest, block::Answer};

pub mod message;

/// A tenant's door is the topic `{prefix}.in.{tenant}`.
pub const DOORS: &str = "in";
/// The group that shares the doors is `{prefix}.ingest`.
pub const GROUP: &str = "ingest";
/// Name of the check that `/ready` shows.
const READINESS: &str = "ingest-doors";
/// How long to wait for the first message of a round.
const WAIT: Duration = Duration::from_millis(100);
/// A round is handed to the log when it has this many messages, or bytes.
const ROUND_MESSAGES_MAX: usize = 1_000;
const ROUND_BYTES_MAX: usize = 1 << 20;
/// Pauses between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long an error of the cluster is shown after it was last seen.
const TROUBLE_TIME: Duration = Duration::from_secs(10);
/// Why messages are handed over again whose tenant has gone meanwhile.
const NO_TENANT: &str = "tenant";
/// How often the lag is shown, and waiting messages are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Reads the doors until a stop is asked for. Blocks; the answers of the log come on `runtime`.
pub(crate) fn run(
    ingest: &Arc<Ingest>,
    options: &KafkaOptions,
    context: &Context,
    runtime: &Handle,
) -> Result<(), TaskError> {
    // The blocks are closed when this thread has ended.
    let _open = ingest.open_request();
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let heartbeat = Heartbeat::new(&context.readiness, READINESS, Duration::ZERO);
    while !context.shutdown.is_cancelled() {
        let mut doors = Doors {
            heartbeat: &heartbeat,
            ingest,
            context,
            runtime,
            inbox: Inbox::join(options, DOORS, GROUP)?,
            aside: BTreeMap::new(),
            trouble: None,
            looked_at: Instant::now(),
        };
        match doors.read() {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the doors are read anew");
                context.readiness.set(READINESS, Ready::NotReady(error.to_string()));
                std::thread::sleep(backoff.pause());
            }
        }
    }
    Ok(())
}

/// A message on its way into the log.
struct Mail {
    letter: Letter,
    /// Which of its events are in the log; none before it was read once.
    done: Vec<bool>,
}

/// Messages that are taken together, and the offsets to commit when all of them are in the log.
#[derive(Default)]
struct Round {
    mails: Vec<Mail>,
    bytes: usize,
    next: BTreeMap<Place, i64>,
}

impl Round {
    fn add(&mut self, letter: Letter) {
        self.bytes += letter.value.as_ref().map_or(0, bytes::Bytes::len);
        self.next.insert(letter.place.clone(), letter.offset.saturating_add(1));
        self.mails.push(Mail { letter, done: Vec::new() });
    }

    fn is_full(&self) -> bool {
        self.mails.len() >= ROUND_MESSAGES_MAX || self.bytes >= ROUND_BYTES_MAX
    }

    /// Whoever has these places now reads them again.
    fn give_up(&mut self, revoked: &BTreeSet<Place>) {
        self.mails.retain(|mail| !revoked.contains(&mail.letter.place));
        self.next.retain(|place, _| !revoked.contains(place));
    }
}

/// Events of a message that were handed to the log.
struct Sent {
    mail: usize,
    read: Read,
    answers: Vec<(Vec<u32>, Answer)>,
}

struct Doors<'a> {
    heartbeat: &'a Heartbeat,
    ingest: &'a Arc<Ingest>,
    context: &'a Context,
    runtime: &'a Handle,
    inbox: Inbox,
    /// Messages that wait for their tenant or for the decision about an alias, in the order of their
    /// offsets. Their places are paused.
    aside: BTreeMap<Place, Vec<Letter>>,
    trouble: Option<(Instant, String)>,
    looked_at: Instant,
}

impl Doors<'_> {
    fn read(&mut self) -> Result<(), LogError> {
        while !self.context.shutdown.is_cancelled() {
            let mut round = self.gather()?;
            if !round.mails.is_empty() {
                self.bring(&mut round)?;
            }
            let stopping = self.context.shutdown.is_cancelled();
            if round.mails.is_empty()
                && !round.next.is_empty()
                && let Err(error) = self.inbox.commit(&round.next, stopping)
            {
                tracing::warn!(%error, "how far doors were read is not committed; it is read again");
            }
            if round.mails.is_empty() {
                self.heartbeat.beat();
            }
            self.look()?;
        }
        Ok(())
    }

    /// Takes what has come, up to the bounds of a round.
    fn gather(&mut self) -> Result<Round, LogError> {
        let mut round = Round::default();
        let mut wait = WAIT;
        while !round.is_full() {
            let Some(letter) = self.next(wait)? else { break };
            wait = Duration::ZERO;
            self.take(&mut round, letter)?;
        }
        Ok(round)
    }

    /// The next message. What a person must mend is shown, and does not keep other doors closed.
    fn next(&mut self, wait: Duration) -> Result<Option<Letter>, LogError> {
        match self.inbox.next(wait) {
            Err(LogError::Broken(reason)) => {
                if self.trouble.is_none() {
                    tracing::warn!(reason, "doors cannot be read");
                }
                self.trouble = Some((Instant::now(), reason));
                Ok(None)
            }
            other => other,
        }
    }

    fn is_known(&self, place: &Place) -> bool {
        let known = self.ingest.door.known.load();
        known.tenants.get(place.topic.as_str()).is_some_and(|tenant| !tenant.disabled)
    }

    /// Puts a message into the round, or to those that wait.
    fn take(&mut self, round: &mut Round, letter: Letter) -> Result<(), LogError> {
        if let Some(before) = self.aside.get_mut(&letter.place) {
            before.push(letter);
            return Ok(());
        }
        if self.is_known(&letter.place) {
            round.add(letter);
            return Ok(());
        }
        let door = self.inbox.topic_name(&letter.place);
        tracing::warn!(
            door,
            "nobody is called like this door, or is disabled; its messages wait for the tenant"
        );
        self.inbox.pause(&letter.place)?;
        self.aside.insert(letter.place.clone(), vec![letter]);
        Ok(())
    }

    /// Takes the places of a round that wait for an alias out of it, from the first message on that
    /// is left. What was done of them is done again: it is found as a duplicate.
    fn put_aside(&mut self, round: &mut Round, waiting: &BTreeSet<Place>) -> Result<(), LogError> {
        for place in waiting {
            let of_place = |mail: &mut Mail| mail.letter.place == *place;
            let letters: Vec<Letter> =
                round.mails.extract_if(.., of_place).map(|mail| mail.letter).collect();
            let Some(first) = letters.first() else { continue };
            round.next.insert(place.clone(), first.offset);
            self.inbox.pause(place)?;
            self.aside.insert(place.clone(), letters);
            self.ingest.metrics.door_retries.with_label_values(&["alias"]).inc();
        }
        Ok(())
    }

    /// Hands messages to the log until all of them are in it, or a stop is asked for; what is left
    /// then stays in the round.
    fn bring(&mut self, round: &mut Round) -> Result<(), LogError> {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut paused = false;
        loop {
            let reason = self.attempt(round)?;
            let Some(reason) = reason.filter(|_| !round.mails.is_empty()) else {
                if round.mails.is_empty() {
                    break;
                }
                // Memory was short, and some of it has been let go.
                continue;
            };
            self.ingest.metrics.door_retries.with_label_values(&[reason]).inc();
            if reason == NO_TENANT {
                // Nothing of the round is committed: its doors are read again, this one set aside.
                return Err(LogError::Unavailable("the tenant of a door is disabled".to_owned()));
            }
            if self.context.shutdown.is_cancelled() {
                return Ok(());
            }
            self.inbox.pause_all()?;
            paused = true;
            // Polling is what keeps this member in the group. A place that was assigned just now
            // may give a message all the same.
            if let Some(letter) = self.next(backoff.pause())? {
                self.take(round, letter)?;
            }
            let revoked = self.inbox.revoked();
            round.give_up(&revoked);
            self.aside.retain(|place, _| !revoked.contains(place));
        }
        if paused {
            self.inbox.resume_all_but(&self.aside.keys().cloned().collect())?;
        }
        Ok(())
    }

    /// Hands what is left to the log once. Answers why some of it must be handed over again.
    fn attempt(&mut self, round: &mut Round) -> Result<Option<&'static str>, LogError> {
        let (sent, waiting, mut reason) = self.send(round);
        let none_sent = sent.is_empty();
        let short = reason == Some("memory");
        let deadline = tokio::time::Instant::now() + self.ingest.answer_timeout;
        for Sent { mail, read, answers } in sent {
            let Some(mail) = round.mails.get_mut(mail) else { continue };
            for (numbers, answer) in answers {
                let outcome = self.runtime.block_on(async { timeout_at(deadline, answer).await });
                if !matches!(outcome, Ok(Ok(Ok(_)))) {
                    reason = Some("log");
                    continue;
                }
                for number in numbers {
                    self.count(&mail.letter.place, &read, number);
                    if let Some(done) = mail.done.get_mut(read.item(number)) {
                        *done = true;
                    }
                }
            }
        }
        let is_left = |mail: &Mail| mail.done.is_empty() || mail.done.contains(&false);
        round.mails.retain(is_left);
        self.put_aside(round, &waiting)?;
        // What was sent has given its memory back.
        Ok(if short && !none_sent && reason == Some("memory") { None } else { reason })
    }

    /// Reads messages and queues their events, as far as memory goes. Answers the places that wait
    /// for an alias as well, and why messages of the others are left.
    fn send(&self, round: &mut Round) -> (Vec<Sent>, BTreeSet<Place>, Option<&'static str>) {
        let (mut sent, mut waiting, mut reason) = (Vec::new(), BTreeSet::new(), None);
        for (number, mail) in round.mails.iter_mut().enumerate() {
            let place = &mail.letter.place;
            if waiting.contains(place) {
                continue;
            }
            let caller = match self.ingest.door.writer_of(&place.topic) {
                Ok(Some(caller)) => caller,
                Ok(None) => {
                    reason = Some(NO_TENANT);
                    continue;
                }
                Err(_) => {
                    reason = Some("stale");
                    break;
                }
            };
            let door = self.inbox.topic_name(place);
            let budget = &self.ingest.budget;
            let read = match message::read(&mail.letter, &door, caller, budget, task::now_us()) {
                Ok(read) => read,
                Err(Unread::Memory) => {
                    reason = Some("memory");
                    break;
                }
                Err(Unread::Alias) => {
                    waiting.insert(place.clone());
                    continue;
                }
            };
            mail.done.resize(read.items, false);
            let left: Vec<u32> = read
                .numbers()
                .filter(|number| !mail.done.get(read.item(*number)).copied().unwrap_or(false))
                .collect();
            let answers = self.ingest.blocks.push(&read.batch, &left);
            sent.push(Sent { mail: number, read, answers });
        }
        (sent, waiting, reason)
    }

    fn count(&self, place: &Place, read: &Read, number: u32) {
        let metrics = &self.ingest.metrics;
        let outcome = match read.batch.refusal(number) {
            None => "accepted",
            Some(refusal) => {
                metrics.rejected.with_label_values(&[refusal.reason]).inc();
                "refused"
            }
        };
        metrics.door_events.with_label_values(&[&place.topic, outcome]).inc();
    }

    /// Lets go of what was taken away, takes up what waited for its tenant, and shows how it goes.
    fn look(&mut self) -> Result<(), LogError> {
        let revoked = self.inbox.revoked();
        self.aside.retain(|place, _| !revoked.contains(place));
        if self.looked_at.elapsed() < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked_at = Instant::now();
        self.take_up()?;
        self.trouble.take_if(|(since, _)| since.elapsed() > TROUBLE_TIME);
        let state = match &self.trouble {
            None => Ready::Ready,
            Some((_, reason)) => Ready::NotReady(reason.clone()),
        };
        self.context.readiness.set(READINESS, state);
        self.ingest.metrics.door_lag.reset();
        for (door, lag) in self.inbox.lag() {
            self.ingest.metrics.door_lag.with_label_values(&[&door]).set(lag);
        }
        Ok(())
    }

    /// Reads the messages aside again whose tenant is known by now, place by place.
    fn take_up(&mut self) -> Result<(), LogError> {
        let known: Vec<Place> =
            self.aside.keys().filter(|place| self.is_known(place)).cloned().collect();
        if known.is_empty() {
            return Ok(());
        }
        for place in known {
            let mut round = Round::default();
            // The cluster may have taken it away meanwhile.
            self.aside.remove(&place).into_iter().flatten().for_each(|letter| round.add(letter));
            if round.mails.is_empty() {
                continue;
            }
            self.bring(&mut round)?;
            if !round.mails.is_empty() {
                return Ok(());
            }
            self.inbox.commit(&round.next, false)?;
        }
        self.inbox.resume_all_but(&self.aside.keys().cloned().collect())
    }
}
