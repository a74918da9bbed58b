//! From a sum of money down to the events: a journal or a transfer, recomputed from the archive.
//!
//! The books' totals and the archive's are computed apart and compared to the last decimal; each
//! line is priced again from the published card. Nothing of the answer is assumed.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use self::{catalogs::Catalogs, steps::Steps};
use super::{
    events::{Line, some},
    transfers::{Journal, Transfer, transfer_id},
};
use crate::{
    auth::{Caller, Scope as KeyScope, TenantScope},
    catalog::{RateForm, RateSchema},
    compiled,
    error::ApiError,
    extract::Query,
    openapi::{NotFound, Refusals, Unprocessable},
    page::{Asked, Page, PageQuery, cursor_invalid, page},
    state::Api,
    store::{
        conservation,
        events::EventRow,
        explain::{self, GroupRow, Place, Scope, Side, SumKey, SumRow},
        statement::{self, JournalRow, TransferRow},
    },
};

mod catalogs;
mod steps;

/// Transfers of a journal that one answer lists; sums and totals are over all.
const TRANSFERS_MAX: usize = 1_000;
/// Insert groups of the archive that one answer lists.
const GROUPS_MAX: i64 = 1_000;

/// A journal or a transfer, explained down to the lines of events.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// What was asked for: `journal_id` or `journal_id:ordinal`.
    id: String,
    /// Whether the archive's sums are the books', to the last decimal: amounts, quantities and
    /// lines of every transfer, and nothing beside them.
    matches: bool,
    /// The journal; its positions are the rated batches that it posted.
    journal: Journal,
    /// Runs of rated batches as the archive took them, which cover the journal's positions.
    batches: Vec<Batches>,
    /// Both totals per reason and currency, over all events.
    totals: Vec<Total>,
    /// Each transfer with the archive's sum beside it; at most 1000.
    transfers: Vec<ExplainedTransfer>,
    /// How many transfers are not listed; they are in the totals and in `matches`.
    transfers_left_out: usize,
    /// Sums of the archive that no transfer has; there must be none.
    sums_without_transfer: Vec<Sum>,
    /// The events in the order of the log.
    events: Page<ExplainedEvent>,
}

/// A run of rated batches.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedBatches)]
pub(crate) struct Batches {
    /// The partition.
    partition: u32,
    /// First position of `[usage]`.
    from: i64,
    /// Last position, inclusive.
    to: i64,
    /// When the archive had it.
    archived_at: String,
}

/// The books and the archive, side by side.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedTotal)]
pub(crate) struct Total {
    /// `usage` or `cost`.
    reason: String,
    /// The currency.
    currency: String,
    /// Sum of the transfers; negative where usage was taken back.
    ledger: String,
    /// Sum of the lines.
    archive: String,
    /// Lines by the transfers.
    ledger_lines: i64,
    /// Lines in the archive.
    archive_lines: i64,
    /// Whether both are the same.
    matches: bool,
}

/// A sum of lines in the archive.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedSum)]
pub(crate) struct Sum {
    /// `usage` or `cost`.
    reason: Side,
    /// The team; null for costs, which are summed over teams.
    team: Option<String>,
    /// The meter.
    meter: String,
    /// The rate card.
    card: Option<String>,
    /// Its version.
    card_version: Option<u32>,
    /// The currency.
    currency: String,
    /// Sum of the charges or costs.
    amount: String,
    /// Sum of the quantities.
    quantity: String,
    /// Lines.
    lines: i64,
}

/// A transfer with the archive's sum of its lines.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedTransfer {
    /// The transfer.
    #[serde(flatten)]
    transfer: Transfer,
    /// What the archive's lines add up to.
    archive: Option<Sum>,
    /// Whether amount, quantity and lines are the same.
    matches: bool,
}

/// An event with its lines in the journal.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedEvent {
    /// Its receipt.
    receipt: String,
    /// The client's id.
    id: String,
    /// The source as sent.
    source: String,
    /// The type.
    r#type: String,
    /// The team.
    team: String,
    /// The user.
    user: Option<String>,
    /// Its time.
    time: String,
    /// When it was accepted.
    accepted_at: String,
    /// The catalog version that it was rated by.
    catalog_version: i64,
    /// Receipt of the event that this corrects; null for an event itself. The receipt is the command's then.
    corrects: Option<String>,
    /// Whether this takes back what the event came to so far: amounts and quantities are negative.
    reversal: bool,
    /// Its lines in what is explained.
    lines: Vec<ExplainedLine>,
}

/// A line and how its amounts came about.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedLine {
    /// The line.
    #[serde(flatten)]
    line: Line,
    /// Its charge; null if it is not in what is explained.
    charge_step: Option<Step>,
    /// Its cost; null if it is not in what is explained.
    cost_step: Option<Step>,
}

/// Quantity times price, and times the multiplier of an offer, is the amount, and the amount is added to the transfer.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplainedStep)]
pub(crate) struct Step {
    /// The transfer; null where all its lines add up to zero, which moves nothing.
    transfer_id: Option<String>,
    /// The row of the card that priced it; null if the published card has none.
    #[schema(value_type = Option<RateSchema>)]
    rate: Option<RateForm>,
    /// What the charge by that row was multiplied with, by the offer of the team; null for nothing.
    multiplier: Option<String>,
    /// Quantity times that price, rounded once, and once more by the multiplier: computed for this answer.
    computed: Option<String>,
    /// Whether that is what the line says.
    matches: bool,
    /// Sum of the transfer's lines up to this one; the last line's is the transfer's amount.
    running_total: String,
}

struct Asking {
    journal: Uuid,
    ordinal: Option<i32>,
}

fn read_id(text: &str) -> Option<Asking> {
    let (journal, ordinal) = match text.split_once(':') {
        None => (text, None),
        Some((journal, ordinal)) => (journal, Some(ordinal.parse().ok().filter(|n| *n >= 0)?)),
    };
    Some(Asking { journal: journal.parse().ok()?, ordinal })
}

fn unknown() -> Problem {
    Problem::not_found(
        "explanation_unknown",
        "there is no journal or transfer of this id",
        "give a journal_id, or journal_id:ordinal of a transfer; a team's journals list them",
    )
}

/// Explain a journal or a transfer
///
/// Goes down from a sum of money to the events: the transfers, the archive's sums of their lines,
/// and the events in the order of the log, each line with its card, row and price, adding up to
/// the exact amount. Totals are over all events, whatever the page. While the archive is behind
/// the journal, the answer is 503 `archive_behind`, which says what is missing.
#[utoipa::path(get, path = "/v1/explain/{id}", tag = "balances",
    params(PageQuery, ("id" = String, Path, description = "`journal_id`, or `journal_id:ordinal` of a transfer", example = "01980d3e-6c4e-7d2a-9a55-0c3ff0f3a001:0")),
    responses((status = 200, body = Explanation), NotFound, Unprocessable, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Explanation>, ApiError> {
    let tenant = caller.may(KeyScope::BalancesRead)?;
    caller.may(KeyScope::UsageRead)?;
    let asked = query.asked(3)?;
    let after = cursor(&asked)?;
    let asking = read_id(&text).ok_or_else(unknown)?;
    let (journal, transfers) = books(&api, tenant, &asking).await?;
    let scope = scope(&journal, asking.ordinal.and(transfers.first()))?;
    wait_for_archive(&api, &scope).await?;
    let archive = Archive::read(&api, tenant, &scope, after, &asked).await?;
    let ids = transfer_ids(&api, tenant, asking.journal, &archive.events).await?;
    let newest = compiled::newest(&api, tenant).await?;
    let catalogs = Catalogs::of(&api, tenant, &newest, &archive.events).await?;
    let catalog = &newest.document;
    let steps = Steps { scope: &scope, catalog, catalogs, ids, running: BTreeMap::new() };
    Ok(Json(explanation(text, journal, transfers, archive, steps, &asked)?))
}

/// Ids of the journal's transfers that lines of these events are in.
async fn transfer_ids(
    api: &Api,
    tenant: TenantScope,
    journal: Uuid,
    events: &[EventRow],
) -> Result<BTreeMap<SumKey, String>, ApiError> {
    let teams: BTreeSet<String> = events.iter().map(|row| row.team.clone()).collect();
    let teams = &Vec::from_iter(teams);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        explain::transfers(&mut transaction, tenant, &[journal], teams).await
    })
    .await?;
    Ok(rows.into_iter().map(|row| (row.key(), transfer_id(journal, row.ordinal))).collect())
}

fn cursor(asked: &Asked) -> Result<Option<Place>, Problem> {
    let (Some(position), Some(index), Some(sign)) =
        (asked.after_number(0)?, asked.after_number(1)?, asked.after_number(2)?)
    else {
        return Ok(None);
    };
    let index = u32::try_from(index).map_err(|_| cursor_invalid())?;
    Ok(Some((position, index, i8::try_from(sign).map_err(|_| cursor_invalid())?)))
}

/// The journal and its transfers, or the one that was asked for.
async fn books(
    api: &Api,
    tenant: TenantScope,
    asking: &Asking,
) -> Result<(JournalRow, Vec<TransferRow>), ApiError> {
    scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let connection = &mut transaction;
        let id = asking.journal;
        let journal = statement::journal(connection, tenant, id).await?.ok_or_else(unknown)?;
        let (after, limit) = asking.ordinal.map_or((-1, u32::MAX), |ordinal| (ordinal - 1, 1));
        let rows = statement::transfers_of_journal(connection, tenant, id, after, limit).await?;
        if asking
            .ordinal
            .is_some_and(|ordinal| rows.first().is_none_or(|row| row.ordinal != ordinal))
        {
            return Err(unknown().into());
        }
        Ok((journal, rows))
    })
    .await
}

fn scope(journal: &JournalRow, only: Option<&TransferRow>) -> Result<Scope, Problem> {
    let place = journal.partition.zip(journal.position_from).zip(journal.position_to);
    let ((partition, from), to) = place.ok_or_else(|| {
        Problem::unprocessable(
            "not_usage",
            "the journal is not about usage, so no events are behind it",
            "read it with GET /v1/journals/{journal_id}",
        )
    })?;
    Ok(Scope { partition: partition.unsigned_abs(), from, to, only: only.map(transfer_key) })
}

fn transfer_key(row: &TransferRow) -> SumKey {
    let side = side(&row.reason);
    SumKey {
        side,
        team: row.team.clone(),
        meter: row.meter.clone(),
        card: row.card.clone(),
        card_version: row.card_version.unsigned_abs(),
        currency: row.currency.clone(),
    }
}

fn side(reason: &str) -> Side {
    if reason == ledger::transfer::REASON_COST { Side::Cost } else { Side::Usage }
}

/// Refuses while the archive has not all positions of the scope: a sum of a part explains nothing.
async fn wait_for_archive(api: &Api, scope: &Scope) -> Result<(), ApiError> {
    let archived = conservation::archived(&api.clickhouse).await?;
    let reached = archived.iter().find(|(partition, _)| *partition == scope.partition);
    let reached = reached.map_or(-1, |(_, position)| *position);
    if reached >= scope.to {
        return Ok(());
    }
    Err(Problem::unavailable(
        2,
        "archive_behind",
        format!(
            "the archive has partition {} up to position {reached}; the journal goes to {}",
            scope.partition, scope.to
        ),
        "ask again when the archive has caught up; GET /v1/conservation shows how far it is",
    )
    .with("partition", scope.partition)
    .with("archived_position", reached)
    .with("needed_position", scope.to)
    .into())
}

/// What the archive says of the scope.
struct Archive {
    batches: Vec<GroupRow>,
    sums: Vec<SumRow>,
    /// Sums of the lines before the page.
    before: Vec<SumRow>,
    events: Vec<EventRow>,
}

impl Archive {
    async fn read(
        api: &Api,
        tenant: TenantScope,
        scope: &Scope,
        after: Option<Place>,
        asked: &Asked,
    ) -> Result<Self, ApiError> {
        let clickhouse = &api.clickhouse;
        let before = match after {
            None => Vec::new(),
            after => explain::sums(clickhouse, tenant, scope, after).await?,
        };
        Ok(Self {
            batches: explain::groups(clickhouse, scope, GROUPS_MAX).await?,
            sums: explain::sums(clickhouse, tenant, scope, None).await?,
            before,
            events: explain::events(clickhouse, tenant, scope, after, asked.rows()).await?,
        })
    }
}

fn explanation(
    id: String,
    journal: JournalRow,
    transfers: Vec<TransferRow>,
    archive: Archive,
    mut steps: Steps<'_>,
    asked: &Asked,
) -> Result<Explanation, ApiError> {
    let mut sums = BTreeMap::new();
    for row in archive.sums {
        sums.insert(row.key(), Figures::of_sum(&row)?);
    }
    for row in &archive.before {
        steps.running.insert(row.key(), Figures::of_sum(row)?.amount);
    }
    let batches =
        archive.batches.iter().map(|group| batches(steps.scope.partition, group)).collect();
    let (totals, listed, left_out, alone) = compare(transfers, &mut sums)?;
    let matches =
        alone.is_empty() && left_out.all_match && listed.iter().all(|transfer| transfer.matches);
    let found = page(asked, archive.events, |row| {
        vec![row.position.to_string(), row.index.to_string(), row.sign.to_string()]
    });
    let items = found.items.into_iter().map(|row| steps.event(row)).collect::<Result<_, _>>()?;
    Ok(Explanation {
        id,
        matches,
        journal: journal.into(),
        batches,
        totals,
        transfers: listed,
        transfers_left_out: left_out.count,
        sums_without_transfer: alone,
        events: Page { items, next_cursor: found.next_cursor },
    })
}

fn batches(partition: u32, group: &GroupRow) -> Batches {
    let archived_at = time::format(group.archived_us);
    Batches { partition, from: group.from_x, to: group.to_x, archived_at }
}

/// An amount with its sign, a quantity and lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    amount: Amount,
    quantity: Amount,
    lines: i64,
}

impl Figures {
    fn of_sum(row: &SumRow) -> Result<Self, ApiError> {
        Ok(Self {
            amount: number(&row.amount)?,
            quantity: number(&row.quantity)?,
            lines: row.lines,
        })
    }

    /// A transfer's: what goes the other way is negative.
    fn of_transfer(row: &TransferRow) -> Result<Self, ApiError> {
        let (amount, own) = (number(&row.amount)?, side(&row.reason));
        let forward = match own {
            Side::Usage => row.debit == "receivable",
            Side::Cost => row.debit == "cost_of_sales",
        };
        let amount = if forward { amount } else { amount.negated() };
        Ok(Self { amount, quantity: number(&row.quantity)?, lines: row.events })
    }

    fn plus(self, other: Self) -> Result<Self, ApiError> {
        Ok(Self {
            amount: add(self.amount, other.amount)?,
            quantity: add(self.quantity, other.quantity)?,
            lines: self.lines.saturating_add(other.lines),
        })
    }
}

fn number(text: &str) -> Result<Amount, ApiError> {
    Amount::parse_sum(text)
        .map_err(|_| ApiError::Internal(format!("`{text}` is not an amount of ours")))
}

fn add(left: Amount, right: Amount) -> Result<Amount, ApiError> {
    left.checked_add(right).ok_or_else(|| ApiError::Internal("a sum is out of range".to_owned()))
}

/// Transfers that are compared but not listed.
struct LeftOut {
    count: usize,
    all_match: bool,
}

type Compared = (Vec<Total>, Vec<ExplainedTransfer>, LeftOut, Vec<Sum>);

/// Every transfer beside the archive's sum, taken out of `sums`; what stays there must be zero.
fn compare(
    transfers: Vec<TransferRow>,
    sums: &mut BTreeMap<SumKey, Figures>,
) -> Result<Compared, ApiError> {
    let mut totals: BTreeMap<(Side, String), (Figures, Figures)> = BTreeMap::new();
    for (key, sum) in &*sums {
        let total = totals.entry((key.side, key.currency.clone())).or_default();
        total.1 =
            total.1.plus(if sum.amount == Amount::ZERO { Figures::default() } else { *sum })?;
    }
    let (mut listed, mut left_out) = (Vec::new(), LeftOut { count: 0, all_match: true });
    for row in transfers {
        let (key, booked) = (transfer_key(&row), Figures::of_transfer(&row)?);
        let total = totals.entry((key.side, key.currency.clone())).or_default();
        total.0 = total.0.plus(booked)?;
        let transfer = Transfer::from(row);
        let found = sums.remove(&key);
        let matches = found == Some(booked);
        if listed.len() < TRANSFERS_MAX {
            let archive = found.map(|figures| sum(&key, figures));
            listed.push(ExplainedTransfer { transfer, archive, matches });
        } else {
            left_out.count += 1;
            left_out.all_match &= matches;
        }
    }
    let alone = sums.iter().filter(|(_, figures)| figures.amount != Amount::ZERO);
    let alone = alone.map(|(key, figures)| sum(key, *figures)).collect();
    let totals = totals.into_iter().map(|(of, sides)| total(of, sides)).collect();
    Ok((totals, listed, left_out, alone))
}

fn total((side, currency): (Side, String), (ledger, archive): (Figures, Figures)) -> Total {
    let reason = match side {
        Side::Usage => ledger::transfer::REASON_USAGE,
        Side::Cost => ledger::transfer::REASON_COST,
    };
    Total {
        reason: reason.to_owned(),
        currency,
        ledger: ledger.amount.to_string(),
        archive: archive.amount.to_string(),
        ledger_lines: ledger.lines,
        archive_lines: archive.lines,
        matches: ledger == archive,
    }
}

fn sum(key: &SumKey, figures: Figures) -> Sum {
    Sum {
        reason: key.side,
        team: some(key.team.clone()),
        meter: key.meter.clone(),
        card: some(key.card.clone()),
        card_version: Some(key.card_version).filter(|version| *version > 0),
        currency: key.currency.clone(),
        amount: figures.amount.to_string(),
        quantity: figures.quantity.to_string(),
        lines: figures.lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_journals_or_transfers() {
        let id = Uuid::from_u128(7);
        let read = |text: &str| read_id(text).map(|asking| (asking.journal, asking.ordinal));
        assert_eq!(read(&id.to_string()), Some((id, None)));
        assert_eq!(read(&format!("{id}:3")), Some((id, Some(3))));
        for text in ["", "x", ":1", &format!("{id}:"), &format!("{id}:-1"), &format!("{id}:1:2")] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
