//! Transfers and journals: the double entries behind a team's balance.

use axum::{Json, extract::State};
use domain::time;
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::no_team;
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    openapi::{NotFound, Refusals},
    page::{Asked, Page, PageQuery, page},
    state::Api,
    store::{
        statement::{self, JournalRow, TransferRow},
        teams,
    },
};

/// A transfer: one amount from one account to another.
#[derive(Serialize, ToSchema)]
pub(crate) struct Transfer {
    /// Its id, which can be explained: `journal_id:ordinal`.
    transfer_id: String,
    /// The journal that it belongs to.
    journal_id: Uuid,
    /// Its number in the journal.
    ordinal: i32,
    /// Kind of the account that is debited.
    debit: String,
    /// Kind of the account that is credited.
    credit: String,
    /// How much; positive.
    amount: String,
    /// The currency.
    currency: String,
    /// Why.
    reason: String,
    /// The team; null where it is the tenant's own.
    team: Option<String>,
    /// The meter.
    meter: Option<String>,
    /// The card that priced it.
    card: Option<String>,
    /// The version of the card.
    card_version: Option<i32>,
    /// The quantity that it is for.
    quantity: String,
    /// How many lines it sums up.
    events: i64,
    /// When it was posted.
    posted_at: String,
    /// Number of its journal among the team's postings in this currency, from 1 and without a gap.
    /// Null for the tenant's own, and for postings older than these numbers.
    sequence: Option<i64>,
    /// What the team owed before the journal; positive is debt.
    balance_before: Option<String>,
    /// What it owed after the journal.
    balance_after: Option<String>,
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<TransferRow> for Transfer {
    fn from(row: TransferRow) -> Self {
        Self {
            transfer_id: transfer_id(row.journal_id, row.ordinal),
            journal_id: row.journal_id,
            ordinal: row.ordinal,
            debit: row.debit,
            credit: row.credit,
            amount: row.amount,
            currency: row.currency,
            reason: row.reason,
            team: some(row.team),
            meter: some(row.meter),
            card: some(row.card),
            card_version: Some(row.card_version).filter(|version| *version > 0),
            quantity: row.quantity,
            events: row.events,
            posted_at: time::format(row.posted_at_us),
            sequence: row.sequence,
            balance_before: row.balance_before,
            balance_after: row.balance_after,
        }
    }
}

/// How a transfer is named: `GET /v1/explain/{id}` takes it.
pub(super) fn transfer_id(journal: Uuid, ordinal: i32) -> String {
    format!("{journal}:{ordinal}")
}

/// A journal: transfers that belong together.
#[derive(Serialize, ToSchema)]
pub(crate) struct Journal {
    /// Its id.
    journal_id: Uuid,
    /// Why.
    reason: String,
    /// What it is about; unique with the reason.
    reference: String,
    /// Of usage: the partition.
    partition: Option<i32>,
    /// Of usage: the first position covered.
    position_from: Option<i64>,
    /// Of usage: the last position covered.
    position_to: Option<i64>,
    /// When it was posted.
    posted_at: String,
}

impl From<JournalRow> for Journal {
    fn from(row: JournalRow) -> Self {
        Self {
            journal_id: row.journal_id,
            reason: row.reason,
            reference: row.reference,
            partition: row.partition,
            position_from: row.position_from,
            position_to: row.position_to,
            posted_at: time::format(row.posted_at_us),
        }
    }
}

/// A journal with a page of its transfers.
#[derive(Serialize, ToSchema)]
pub(crate) struct JournalWithTransfers {
    /// The journal.
    #[serde(flatten)]
    journal: Journal,
    /// Its transfers in their order.
    transfers: Page<Transfer>,
}

fn transfer_cursor(asked: &Asked) -> Result<Option<(Uuid, i32)>, Problem> {
    let ordinal = asked.after_number(1)?.and_then(|ordinal| i32::try_from(ordinal).ok());
    Ok(uuid_cursor(asked)?.zip(ordinal))
}

fn uuid_cursor(asked: &Asked) -> Result<Option<Uuid>, Problem> {
    let parsed = asked.after(0).map(|text| text.parse().map_err(|_| crate::page::cursor_invalid()));
    parsed.transpose()
}

/// List a team's transfers
///
/// Newest first.
#[utoipa::path(get, path = "/v1/teams/{team}/transfers", tag = "balances", params(PageQuery, ("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = Page<Transfer>), NotFound, Refusals))]
pub(crate) async fn list_transfers(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Transfer>>, ApiError> {
    let tenant = caller.may_of(Scope::BalancesRead, &team)?;
    let asked = query.asked(2)?;
    let cursor = transfer_cursor(&asked)?;
    let (team, limit) = (&team, asked.limit + 1);
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await?.ok_or_else(|| no_team(team))?;
        statement::transfers_of_team(&mut transaction, tenant, team, cursor, limit).await
    })
    .await?;
    let items = rows.into_iter().map(Transfer::from).collect();
    Ok(Json(page(&asked, items, |item: &Transfer| {
        vec![item.journal_id.to_string(), item.ordinal.to_string()]
    })))
}

/// List a team's journals
///
/// Journals that hold a transfer of the team, newest first.
#[utoipa::path(get, path = "/v1/teams/{team}/journals", tag = "balances", params(PageQuery, ("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = Page<Journal>), NotFound, Refusals))]
pub(crate) async fn list_journals(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Journal>>, ApiError> {
    let tenant = caller.may_of(Scope::BalancesRead, &team)?;
    let asked = query.asked(1)?;
    let cursor = uuid_cursor(&asked)?;
    let (team, rows) = (&team, asked.rows());
    let rows = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, team).await?.ok_or_else(|| no_team(team))?;
        statement::journals_of_team(&mut transaction, tenant, team, cursor, rows).await
    })
    .await?;
    let items = rows.into_iter().map(Journal::from).collect();
    Ok(Json(page(&asked, items, |item: &Journal| vec![item.journal_id.to_string()])))
}

/// Read a journal and its transfers
#[utoipa::path(get, path = "/v1/journals/{journal_id}", tag = "balances", params(PageQuery, ("journal_id" = Uuid, Path, description = "Id of the journal")),
    responses((status = 200, body = JournalWithTransfers), NotFound, Refusals))]
pub(crate) async fn read_journal(
    State(api): State<Api>,
    caller: Caller,
    Path(journal_id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<JournalWithTransfers>, ApiError> {
    let tenant = caller.may(Scope::BalancesRead)?;
    let asked = query.asked(1)?;
    let after =
        asked.after_number(0)?.and_then(|ordinal| i32::try_from(ordinal).ok()).unwrap_or(-1);
    let limit = asked.limit + 1;
    let unknown = || {
        Problem::not_found(
            "journal_unknown",
            "there is no such journal",
            "list the team's journals",
        )
    };
    let id: Uuid = journal_id.parse().map_err(|_| unknown())?;
    let (journal, rows) = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        let journal =
            statement::journal(&mut transaction, tenant, id).await?.ok_or_else(unknown)?;
        let rows =
            statement::transfers_of_journal(&mut transaction, tenant, id, after, limit).await?;
        Ok::<_, ApiError>((journal, rows))
    })
    .await?;
    let items = rows.into_iter().map(Transfer::from).collect();
    let transfers = page(&asked, items, |item: &Transfer| vec![item.ordinal.to_string()]);
    Ok(Json(JournalWithTransfers { journal: journal.into(), transfers }))
}
