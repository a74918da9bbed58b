//! Holds that are asked for, by wallet: those that come while others are decided are decided together.
//!
//! A wallet's lock lets one transaction at a time through, so a call of its own for each hold would
//! queue up in Postgres. Here the calls of a wallet queue up instead: while a batch of it is in its
//! statement, what comes waits, and all of that is the next batch. A quiet wallet's hold waits for
//! nothing, a busy one's batches grow by themselves. A wallet without a call leaves nothing behind.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ledger::hold::{Decided, NewHold};
use runtime::{backoff::Backoff, http::Problem, postgres::PostgresError, task};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{auth::TenantScope, error::ApiError, state::Api, store::holds};

/// Holds of one wallet that wait at most.
const WAITING_MAX: usize = 10_000;
/// Holds of one batch at most.
const BATCH_MAX: usize = 1_000;
/// Runs of one batch, the first included.
const ATTEMPTS_MAX: u32 = 6;
/// After that long no further attempt begins: clients wait.
const ATTEMPTS_TIME: Duration = Duration::from_secs(10);
/// Back-off between attempts.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What became of a call; nothing where there is no such wallet.
type Outcome = Result<Option<Decided>, PostgresError>;

/// A call.
#[derive(Debug)]
struct Call {
    hold: NewHold,
    answer: oneshot::Sender<Outcome>,
}

/// A wallet: its tenant and its id.
type Wallet = (Uuid, Uuid);

/// The calls that wait, by wallet. A wallet is in it while a task decides about its holds.
#[derive(Debug, Default)]
pub(crate) struct HoldQueue(Mutex<HashMap<Wallet, VecDeque<Call>>>);

impl HoldQueue {
    /// Puts a call into the line of its wallet; true where nobody serves that yet.
    fn join(&self, wallet: Wallet, call: Call) -> Result<bool, Problem> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get_mut(&wallet) {
            None => {
                lines.insert(wallet, VecDeque::from([call]));
                Ok(true)
            }
            Some(line) if line.len() < WAITING_MAX => {
                line.push_back(call);
                Ok(false)
            }
            Some(_) => Err(Problem::unavailable(
                1,
                "holds_waiting",
                "too many holds of this wallet wait already",
                "send the request again, with the same Idempotency-Key",
            )),
        }
    }

    /// The next calls of a wallet; nothing when none wait, and nobody serves its line then.
    fn next(&self, wallet: Wallet) -> Option<Vec<Call>> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.get_mut(&wallet)?;
        if line.is_empty() {
            lines.remove(&wallet);
            return None;
        }
        let next = line.drain(..line.len().min(BATCH_MAX)).collect();
        // What a busy moment took is given back.
        if line.is_empty() {
            line.shrink_to_fit();
        }
        Some(next)
    }
}

/// Decides about a hold, together with those that are asked for at the same time. Nothing is answered
/// where the tenant has no such wallet. It is decided even when the caller hangs up.
pub(crate) async fn place(
    api: &Api,
    tenant: TenantScope,
    wallet: Uuid,
    hold: NewHold,
) -> Result<Option<Decided>, ApiError> {
    let (sender, answer) = oneshot::channel();
    api.metrics.holds_waiting.inc();
    let joined = api.holds.join((tenant.id(), wallet), Call { hold, answer: sender });
    if joined.inspect_err(|_| api.metrics.holds_waiting.dec())? {
        let served = Api::clone(api);
        task::spawn("api-holds", &api.shutdown, async move {
            serve(&served, tenant, wallet).await;
            Ok(())
        });
    }
    let unanswered = || ApiError::Internal("a batch of holds ended without an answer".to_owned());
    Ok(answer.await.map_err(|_| unanswered())??)
}

/// Serves the line of a wallet until it is empty.
async fn serve(api: &Api, tenant: TenantScope, wallet: Uuid) {
    while let Some(calls) = api.holds.next((tenant.id(), wallet)) {
        api.metrics.holds_waiting.sub(i64::try_from(calls.len()).unwrap_or(i64::MAX));
        let batch = Batch::of(calls);
        if batch.asked.is_empty() {
            continue;
        }
        api.metrics.hold_batches.inc();
        let size = u32::try_from(batch.asked.len()).unwrap_or(u32::MAX);
        api.metrics.hold_batch_size.observe(size.into());
        let decided = decide(api, tenant, wallet, &batch.asked).await;
        batch.answer(decided);
    }
}

/// Whom a decision is for, with the hash of their request.
type Asker = ([u8; 32], oneshot::Sender<Outcome>);

/// Holds that are decided together; a key is in it once.
#[derive(Debug, Default)]
struct Batch {
    asked: Vec<NewHold>,
    /// For each hold, who asked for it: several where they use one key.
    askers: Vec<Vec<Asker>>,
}

impl Batch {
    /// Leaves out those who do not wait any more: nothing of theirs has begun.
    fn of(calls: Vec<Call>) -> Batch {
        let mut batch = Batch::default();
        let mut keys: HashMap<String, usize> = HashMap::new();
        for Call { hold, answer } in calls.into_iter().filter(|call| !call.answer.is_closed()) {
            let asker = (hold.request_hash, answer);
            let twin = hold.key.as_ref().and_then(|key| keys.get(key));
            if let Some(askers) = twin.and_then(|twin| batch.askers.get_mut(*twin)) {
                askers.push(asker);
                continue;
            }
            keys.extend(hold.key.clone().map(|key| (key, batch.asked.len())));
            batch.asked.push(hold);
            batch.askers.push(vec![asker]);
        }
        batch
    }

    /// Tells everybody. Twins of a request are told what was decided about the first of them.
    fn answer(self, decided: Result<Vec<Decided>, PostgresError>) {
        for (number, (hold, askers)) in self.asked.iter().zip(self.askers).enumerate() {
            for (hash, answer) in askers {
                let outcome = match &decided {
                    Ok(decided) => Ok(decided.get(number).map(|one| {
                        let same = one.same && hash == hold.request_hash;
                        Decided { same, ..one.clone() }
                    })),
                    Err(error) => Err(error.clone()),
                };
                // Who has hung up does not hear it.
                let _ = answer.send(outcome);
            }
        }
    }
}

/// Decides about a batch, again and again with the same ids while Postgres is away or others are in
/// the way: only the ids and keys prove what has happened.
async fn decide(
    api: &Api,
    tenant: TenantScope,
    wallet: Uuid,
    asked: &[NewHold],
) -> Result<Vec<Decided>, PostgresError> {
    let began = Instant::now();
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let (mut attempts, mut may_have_happened) = (0, false);
    loop {
        attempts += 1;
        let error = match attempt(api, tenant, wallet, asked).await {
            Ok(decided) => return Ok(decided),
            Err(error) => error,
        };
        may_have_happened |= matches!(error, PostgresError::OutcomeUnknown(_));
        // A key of the batch was used on another wallet at the same time: it is known next time.
        let passes = error.is_passing() || matches!(error, PostgresError::Conflict(_));
        if !passes || attempts >= ATTEMPTS_MAX || began.elapsed() >= ATTEMPTS_TIME {
            return Err(match error {
                PostgresError::Conflict(name) => PostgresError::Contended(name),
                error if may_have_happened => PostgresError::OutcomeUnknown(error.to_string()),
                error => error,
            });
        }
        tracing::debug!(%error, attempts, "a batch of holds is tried again");
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// A statement whose connection is lost may have happened.
async fn attempt(
    api: &Api,
    tenant: TenantScope,
    wallet: Uuid,
    asked: &[NewHold],
) -> Result<Vec<Decided>, PostgresError> {
    let mut connection = api.pool.acquire().await?;
    let decided = holds::place(&mut connection, tenant, wallet, asked).await;
    let decided = decided.map_err(|error| match error {
        PostgresError::Unavailable(reason) => PostgresError::OutcomeUnknown(reason),
        error => error,
    })?;
    if decided.is_empty() || decided.len() == asked.len() {
        return Ok(decided);
    }
    let (count, answers) = (asked.len(), decided.len());
    Err(PostgresError::Broken(format!("{count} holds were asked for and {answers} decided")))
}

#[cfg(test)]
mod tests {
    use ledger::hold::SettleBy;

    use super::*;

    const WALLET: Wallet = (Uuid::from_u128(1), Uuid::from_u128(2));

    fn call(id: u128, key: Option<&str>, hash: u8) -> (Call, oneshot::Receiver<Outcome>) {
        let (answer, receiver) = oneshot::channel();
        let hold = NewHold {
            hold: Uuid::from_u128(id),
            key: key.map(str::to_owned),
            request_hash: [hash; 32],
            amount: 1,
            life_ms: 1,
            settle_by: SettleBy::Usage,
            meters: Vec::new(),
        };
        (Call { hold, answer }, receiver)
    }

    fn decided(id: u128) -> Decided {
        Decided {
            hold: Uuid::from_u128(id),
            state: "open".to_owned(),
            reason: String::new(),
            same: true,
            amount: 1,
            created_us: 0,
            expires_us: 1,
            available: 0,
        }
    }

    #[test]
    fn a_line_is_bounded_and_leaves_nothing_behind() {
        let queue = HoldQueue::default();
        let mut answers = Vec::new();
        let mut join = |id: u128| {
            let (call, answer) = call(id, None, 0);
            answers.push(answer);
            queue.join(WALLET, call)
        };
        assert!(join(0).unwrap());
        assert_eq!(queue.next(WALLET).unwrap().len(), 1);
        // Somebody serves the line as long as it is there.
        for id in 1..=WAITING_MAX {
            assert!(!join(id as u128).unwrap());
        }
        assert_eq!(join(0).unwrap_err().code(), "holds_waiting");
        for _ in 0..WAITING_MAX / BATCH_MAX {
            assert_eq!(queue.next(WALLET).unwrap().len(), BATCH_MAX);
        }
        assert!(queue.next(WALLET).is_none());
        assert!(queue.0.lock().unwrap().is_empty());
    }

    #[test]
    fn twins_are_told_what_the_first_is_and_others_that_they_differ() {
        let asked = [
            call(1, Some("a"), 1),
            call(2, None, 1),
            call(3, Some("a"), 1),
            call(4, Some("a"), 2),
            call(5, Some("b"), 1),
            call(6, None, 1),
        ];
        let (calls, mut answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        // The last has hung up.
        answers.pop();
        let batch = Batch::of(calls);
        let ids: Vec<Uuid> = batch.asked.iter().map(|hold| hold.hold).collect();
        assert_eq!(ids, [1, 2, 5].map(Uuid::from_u128));
        batch.answer(Ok(vec![decided(1), decided(2), decided(5)]));
        let told: Vec<(Uuid, bool)> = answers
            .into_iter()
            .map(|mut answer| answer.try_recv().unwrap().unwrap().unwrap())
            .map(|one| (one.hold, one.same))
            .collect();
        let wanted = [(1, true), (2, true), (1, true), (1, false), (5, true)];
        assert_eq!(told, wanted.map(|(id, same)| (Uuid::from_u128(id), same)));
        let (call, mut answer) = call(7, None, 0);
        Batch::of(vec![call]).answer(Ok(Vec::new()));
        assert_eq!(answer.try_recv().unwrap(), Ok(None));
    }
}
