//! Events: where each stands, what it came to, and the journal that it is in.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use domain::{
    money::Amount,
    time,
    wire::{
        block::{Block, BlockHeader},
        record::{Entry, EventRecord},
    },
};
use runtime::{
    http::{Path, Problem},
    log::{LogError, Message},
    postgres::scoped,
    task,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::transfers::transfer_id;
use crate::{
    USAGE,
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::{Query, time_us},
    openapi::{NotFound, Refusals},
    page::{Asked, Page, asked, cursor_invalid, page},
    state::{Api, Shared},
    store::{
        conservation,
        corrected::{self, CorrectionOf},
        events::{self, EventPlace, EventQuestion, EventRow, LineRow, Table},
        explain::{self, SumKey},
    },
};

/// Wait for a message that must be in the log.
const LOG_WAIT: Duration = Duration::from_secs(2);

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    /// Of this team.
    team: Option<String>,
    /// Of this user.
    user: Option<String>,
    /// Of this type.
    r#type: Option<String>,
    /// Of this source, as sent.
    source: Option<String>,
    /// With this id, as sent.
    id: Option<String>,
    /// Reported by this app.
    app: Option<String>,
    /// With this outcome: `rated`, `unmetered` (no meter matched), `unpriced` (a price is unknown),
    /// `duplicate`, `conflict` or `rejected`.
    outcome: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Events of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// An event and what became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Event {
    /// Its receipt: partition:position:index in `[usage]`.
    pub receipt: String,
    /// `rated`, `unmetered`, `unpriced`, `duplicate`, `conflict`, `rejected`; or `pending` while the
    /// archive has it not.
    pub status: String,
    /// Whether everything at its position is posted to the ledger.
    posted: bool,
    /// The client's id.
    id: String,
    /// The source as sent.
    source: String,
    /// The type.
    r#type: String,
    /// The subject as sent.
    subject: String,
    /// The team that it belongs to.
    team: String,
    /// The user.
    user: Option<String>,
    /// The app that reported it.
    app: Option<String>,
    /// The feature.
    feature: Option<String>,
    /// Its time: the client's, or else when it was accepted.
    time: String,
    /// When it was accepted.
    accepted_at: String,
    /// The catalog version that it was rated by.
    catalog_version: Option<i64>,
    /// What its meters made of it, when it was rated first.
    lines: Vec<Line>,
    /// What was corrected about it since, in order.
    corrections: Vec<AppliedCorrection>,
    /// The journal that its charges and costs are in, once they are posted.
    journal_id: Option<Uuid>,
    /// Why it was rejected.
    reason: Option<String>,
    /// The same for people.
    detail: Option<String>,
    /// Receipt of the event that took this id first.
    twin: Option<String>,
    /// The event as it was sent, where it is kept.
    raw: Option<String>,
}

/// A correction of an event.
#[derive(Serialize, ToSchema)]
pub(crate) struct AppliedCorrection {
    /// Where its command stands: partition:position:index. `GET /v1/explain` shows it in its journal.
    command: String,
    /// `applied`, or `refused` and then nothing of it holds.
    status: &'static str,
    /// Which correction of the event it is, from 1; null for one that was refused.
    run: Option<u32>,
    /// When it was accepted.
    accepted_at: String,
    /// What the event comes to since then; none where it is void or was refused.
    outcome: Option<String>,
    /// What its meters make of it since then.
    lines: Vec<Line>,
    /// Why it was refused.
    reason: Option<String>,
    /// The same for people.
    detail: Option<String>,
}

/// Corrections by event.
fn applied(rows: Vec<CorrectionOf>) -> BTreeMap<EventPlace, Vec<AppliedCorrection>> {
    let mut all: BTreeMap<EventPlace, Vec<AppliedCorrection>> = BTreeMap::new();
    for row in rows {
        let (command, is_back, is_applied) = (receipt(row.place()), row.sign < 0, row.sign != 0);
        let of_event = all.entry(row.event()).or_default();
        // What it takes back stands before what it books instead, if anything.
        if of_event.last().is_none_or(|last| last.command != command) {
            of_event.push(AppliedCorrection {
                command,
                status: if is_applied { "applied" } else { "refused" },
                run: Some(row.rating_run).filter(|run| *run > 0),
                accepted_at: time::format(row.append_us),
                outcome: None,
                lines: Vec::new(),
                reason: some(row.reason),
                detail: some(row.detail),
            });
        }
        if let Some(last) = of_event.last_mut().filter(|_| is_applied && !is_back) {
            last.outcome = Some(row.outcome);
            last.lines = row.lines.into_iter().map(Line::from).collect();
        }
    }
    all
}

/// What one meter made of an event.
#[derive(Serialize, ToSchema)]
pub(crate) struct Line {
    /// The meter.
    meter: String,
    /// The meter's unit.
    unit: String,
    /// How much.
    quantity: String,
    /// `priced`, `unlimited`, `unpriced`; or `observed`: its period is priced, at its close.
    status: String,
    /// Values that the price depends on.
    dimensions: BTreeMap<String, String>,
    /// The rate card.
    card: Option<String>,
    /// Its version.
    card_version: Option<u32>,
    /// Currency of the charge.
    currency: Option<String>,
    /// What it is charged.
    charge: Option<String>,
    /// The cost card.
    cost_card: Option<String>,
    /// Its version.
    cost_card_version: Option<u32>,
    /// Currency of the cost.
    cost_currency: Option<String>,
    /// What it cost.
    cost: Option<String>,
    /// The running total before it, in priced units, where its price depends on one; else 0.
    total_before: String,
    /// The transfer that its charge is in, once it is posted: `GET /v1/explain/{id}` takes it.
    transfer_id: Option<String>,
    /// The transfer that its cost is in, once it is posted.
    cost_transfer_id: Option<String>,
}

pub(super) fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl Line {
    /// The line with the ids of the transfers that its charge and its cost are in.
    pub fn of_transfers(self, charge: Option<String>, cost: Option<String>) -> Self {
        Self { transfer_id: charge, cost_transfer_id: cost, ..self }
    }
}

impl From<LineRow> for Line {
    fn from(row: LineRow) -> Self {
        // The archive's decimals in the form that is used everywhere else.
        let plain =
            |text: String| Amount::parse_exact(&text).map_or(text, |amount| amount.to_string());
        Self {
            meter: row.meter,
            unit: row.unit,
            quantity: plain(row.quantity),
            status: row.status,
            dimensions: row.dimensions,
            total_before: plain(row.total_before),
            card: some(row.card),
            card_version: Some(row.card_version).filter(|version| *version > 0),
            currency: some(row.currency),
            charge: row.charge.map(plain),
            cost_card: some(row.cost_card),
            cost_card_version: Some(row.cost_card_version).filter(|version| *version > 0),
            cost_currency: some(row.cost_currency),
            cost: row.cost.map(plain),
            transfer_id: None,
            cost_transfer_id: None,
        }
    }
}

pub(crate) fn receipt(place: EventPlace) -> String {
    format!("{}:{}:{}", place.partition, place.position, place.index)
}

/// How far the ledger is, and which journals and transfers hold the events' charges and costs.
struct Ledger {
    posted: BTreeMap<u32, i64>,
    journals: BTreeMap<(u32, i64), Uuid>,
    transfers: BTreeMap<(Uuid, SumKey), i32>,
}

impl Ledger {
    /// Reads what is there about events of `teams` at `places`.
    async fn read(
        api: &Api,
        tenant: TenantScope,
        places: &[EventPlace],
        teams: &[String],
    ) -> Result<Self, ApiError> {
        let (rows, journals, transfers) =
            scoped(&api.pool, tenant.id(), |mut transaction| async move {
                let rows = conservation::partitions(&mut transaction).await?;
                let journals = events::journals(&mut transaction, tenant, places).await?;
                let mut ids: Vec<Uuid> = journals.values().copied().collect();
                ids.dedup();
                let transfers = explain::transfers(&mut transaction, tenant, &ids, teams).await?;
                Ok::<_, ApiError>((rows, journals, transfers))
            })
            .await?;
        let posted = rows.into_iter().map(|row| (row.partition.unsigned_abs(), row.x)).collect();
        let transfers =
            transfers.into_iter().map(|row| ((row.journal_id, row.key()), row.ordinal)).collect();
        Ok(Self { posted, journals, transfers })
    }

    /// The line with the transfers that its amounts are in.
    fn line(&self, journal: Option<Uuid>, team: &str, row: LineRow) -> Line {
        let id = |key: Option<SumKey>| {
            let (journal, key) = journal.zip(key)?;
            let ordinal = self.transfers.get(&(journal, key))?;
            Some(transfer_id(journal, *ordinal))
        };
        let (charged, costed) = (id(row.charged(team)), id(row.costed()));
        Line::from(row).of_transfers(charged, costed)
    }

    fn has(&self, place: EventPlace) -> bool {
        self.posted.get(&place.partition).is_some_and(|posted| place.position <= *posted)
    }
}

/// One event with what the ledger has of it.
pub(super) async fn event_of(
    api: &Api,
    tenant: TenantScope,
    row: EventRow,
) -> Result<Event, ApiError> {
    let places = [row.place()];
    let ledger = Ledger::read(api, tenant, &places, std::slice::from_ref(&row.team)).await?;
    let mut corrections =
        applied(corrected::corrections_of(&api.clickhouse, tenant, &places).await?);
    Ok(event(row, &ledger, &mut corrections))
}

fn event(
    row: EventRow,
    ledger: &Ledger,
    corrections: &mut BTreeMap<EventPlace, Vec<AppliedCorrection>>,
) -> Event {
    let place = row.place();
    let moves_money = row.lines.iter().any(|line| line.charge.is_some() || line.cost.is_some());
    let journal = ledger.journals.get(&(place.partition, place.position)).copied();
    let twin = row.twin_position.filter(|position| *position >= 0);
    let twin = twin.map(|position| {
        receipt(EventPlace { partition: row.partition, position, index: row.twin_index })
    });
    let lines = row.lines.into_iter().map(|line| ledger.line(journal, &row.team, line)).collect();
    Event {
        receipt: receipt(place),
        status: row.outcome,
        posted: ledger.has(place),
        id: row.event_id,
        source: row.source,
        r#type: row.event_type,
        subject: row.subject,
        team: row.team,
        user: some(row.user),
        app: some(row.app),
        feature: some(row.feature),
        time: time::format(row.order_us),
        accepted_at: time::format(row.append_us),
        catalog_version: Some(row.catalog_version),
        journal_id: journal.filter(|_| moves_money),
        lines,
        corrections: corrections.remove(&place).unwrap_or_default(),
        reason: some(row.reason),
        detail: some(row.detail),
        twin,
        raw: some(row.raw),
    }
}

/// The place of an event in lists: newest first.
fn order(row: &EventRow) -> (i64, EventPlace) {
    (row.order_us, row.place())
}

pub(super) fn cursor_of(row: &EventRow) -> Vec<String> {
    vec![
        row.order_us.to_string(),
        row.partition.to_string(),
        row.position.to_string(),
        row.index.to_string(),
    ]
}

pub(super) fn cursor(asked: &Asked) -> Result<Option<(i64, EventPlace)>, Problem> {
    let (Some(order_us), Some(partition), Some(position), Some(index)) = (
        asked.after_number(0)?,
        asked.after_number(1)?,
        asked.after_number(2)?,
        asked.after_number(3)?,
    ) else {
        return Ok(None);
    };
    let small = |number: i64| u32::try_from(number).map_err(|_| cursor_invalid());
    Ok(Some((
        order_us,
        EventPlace { partition: small(partition)?, position, index: small(index)? },
    )))
}

/// One page of events, newest first, with what the ledger has of them.
pub(super) async fn answer(
    api: &Api,
    tenant: TenantScope,
    asked: &Asked,
    mut rows: Vec<EventRow>,
) -> Result<Page<Event>, ApiError> {
    rows.sort_by_key(|row| std::cmp::Reverse(order(row)));
    let found = page(asked, rows, cursor_of);
    let places: Vec<EventPlace> = found.items.iter().map(EventRow::place).collect();
    let mut teams: Vec<String> = found.items.iter().map(|row| row.team.clone()).collect();
    teams.sort_unstable();
    teams.dedup();
    let ledger = Ledger::read(api, tenant, &places, &teams).await?;
    let mut corrections =
        applied(corrected::corrections_of(&api.clickhouse, tenant, &places).await?);
    let items = found.items.into_iter().map(|row| event(row, &ledger, &mut corrections)).collect();
    Ok(Page { items, next_cursor: found.next_cursor })
}

pub(super) fn time_optional(name: &str, text: Option<&String>) -> Result<Option<i64>, Problem> {
    text.map(|text| time_us(name, text)).transpose()
}

/// The tables in which events with an outcome are.
fn tables(outcome: Option<&str>) -> Result<&'static [Table], Problem> {
    match outcome {
        None => Ok(&[Table::Effective, Table::Other]),
        Some("rated" | "unmetered" | "unpriced") => Ok(&[Table::Effective]),
        Some("duplicate" | "conflict" | "rejected") => Ok(&[Table::Other]),
        Some(other) => Err(Problem::bad_request(
            "query_invalid",
            format!("there is no outcome `{other}`"),
            "use rated, unmetered, unpriced, duplicate, conflict or rejected",
        )),
    }
}

/// List events
///
/// Newest first by event time, from the archive; an event accepted a moment ago may not be there
/// yet: ask by its receipt.
#[utoipa::path(get, path = "/v1/events", tag = "usage", params(EventQuery), responses((status = 200, body = Page<Event>), Refusals))]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(mut query): Query<EventQuery>,
) -> Result<Json<Page<Event>>, ApiError> {
    let tenant = caller.may_filter(Scope::UsageRead, &mut query.team)?;
    let asked = asked(query.limit, query.cursor.as_deref(), 4)?;
    let question = EventQuestion {
        from_us: time_optional("from", query.from.as_ref())?,
        to_us: time_optional("to", query.to.as_ref())?,
        team: query.team,
        user: query.user,
        event_type: query.r#type,
        source: query.source,
        id: query.id,
        app: query.app,
        outcome: query.outcome.clone(),
        after: cursor(&asked)?,
        limit: asked.rows(),
        ..EventQuestion::default()
    };
    let mut rows = Vec::new();
    for table in tables(query.outcome.as_deref())? {
        rows.extend(events::list(&api.clickhouse, tenant, *table, &question).await?);
    }
    Ok(Json(answer(&api, tenant, &asked, rows).await?))
}

/// Read an event by its receipt
///
/// Answers from the archive, or from the log while the archive has it not: `pending`. A late event, which
/// was looked up in the archive first, stands at a second place, whose receipt is shown; both are taken.
#[utoipa::path(get, path = "/v1/events/{receipt}", tag = "usage", params(("receipt" = String, Path, description = "partition:position:index", example = "3:1042:0")),
    responses((status = 200, body = Event), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Event>, ApiError> {
    let tenant = caller.may(Scope::UsageRead)?;
    let place = read_receipt(&text)
        .filter(|place| place.partition < api.log.partitions())
        .ok_or_else(unknown)?;
    let archived = match in_archive(&api, tenant, EventQuestion::at(place)).await {
        Ok(Some(row)) => return Ok(Json(event_of(&api, tenant, row).await?)),
        archived => archived,
    };
    let ledger = Ledger::read(&api, tenant, &[place], &[]).await?;
    // What is posted so far was decided, or handed on to be looked up.
    let archived = match archived {
        Ok(_) if ledger.has(place) => in_archive(&api, tenant, EventQuestion::copy_of(place)).await,
        archived => archived,
    };
    if let Ok(Some(row)) = archived {
        return Ok(Json(event_of(&api, tenant, row).await?));
    }
    let found = from_log(&api, tenant, place, ledger.has(place)).await?;
    match (found, archived) {
        (Some(event), _) => Ok(Json(event)),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(unknown().into()),
    }
}

pub(super) fn unknown() -> Problem {
    Problem::not_found(
        "event_unknown",
        "there is no event of this receipt",
        "check the receipt: partition:position:index",
    )
}

pub(crate) fn read_receipt(text: &str) -> Option<EventPlace> {
    let mut parts = text.split(':');
    let place = EventPlace {
        partition: parts.next()?.parse().ok()?,
        position: parts.next()?.parse().ok().filter(|position| *position >= 0)?,
        index: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(place)
}

/// The event that is asked for, in either table.
async fn in_archive(
    api: &Api,
    tenant: TenantScope,
    question: EventQuestion,
) -> Result<Option<EventRow>, ApiError> {
    events::first(&api.clickhouse, tenant, &[Table::Effective, Table::Other], &question).await
}

/// The event as it was accepted, if it is in the log and the tenant's.
pub(super) async fn from_log(
    api: &Api,
    tenant: TenantScope,
    place: EventPlace,
    posted: bool,
) -> Result<Option<Event>, ApiError> {
    let api = Api::clone(api);
    let message = task::blocking(move || message_at(&api, place)).await??;
    let Some(message) = message else { return Ok(None) };
    let damaged = |error| {
        ApiError::Internal(format!("{USAGE}/{} at {}: {error}", place.partition, place.position))
    };
    let header = BlockHeader::decode(&message.payload).map_err(damaged)?;
    let body = header.body(&message.payload).map_err(damaged)?;
    let block = Block::decode(&header, &body).map_err(damaged)?;
    let entry = usize::try_from(place.index).ok().and_then(|index| block.entries.get(index));
    let (Some(Entry::Event(record)) | Some(Entry::Copy(_, _, record))) = entry else {
        return Ok(None);
    };
    if header.tenant(record.tenant) != Some(tenant.id()) {
        return Ok(None);
    }
    Ok(Some(pending(&block, record, place, &message, posted)))
}

/// The message at a position; `None` if there is none.
fn message_at(api: &Shared, place: EventPlace) -> Result<Option<Message>, LogError> {
    let (begin, end) = api.log.bounds(USAGE, place.partition, LOG_WAIT)?;
    if place.position < begin || place.position >= end {
        return Ok(None);
    }
    match api.log.reader(USAGE, place.partition, place.position)?.next(LOG_WAIT) {
        Ok(Some(message)) => Ok(Some(message).filter(|message| message.position == place.position)),
        Ok(None) => Err(LogError::Unavailable("the message was not read in time".to_owned())),
        Err(LogError::Trimmed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn pending(
    block: &Block<'_>,
    record: &EventRecord<'_>,
    place: EventPlace,
    message: &Message,
    posted: bool,
) -> Event {
    let text = |number: u32| block.dictionary.get(number).unwrap_or_default().to_owned();
    Event {
        receipt: receipt(place),
        status: "pending".to_owned(),
        posted,
        id: record.id.to_owned(),
        source: text(record.source),
        r#type: text(record.event_type),
        subject: text(record.subject),
        team: text(record.team),
        user: record.user.map(text),
        app: record.app.map(text),
        feature: record.feature.map(text),
        time: time::format(record.time_us.unwrap_or(message.append_time_us)),
        accepted_at: time::format(message.append_time_us),
        catalog_version: None,
        lines: Vec::new(),
        corrections: Vec::new(),
        journal_id: None,
        reason: None,
        detail: None,
        twin: None,
        raw: some(String::from_utf8_lossy(record.raw).into_owned()),
    }
}
