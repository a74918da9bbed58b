//! Balances: from memory, so that no check waits for a database.

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
    task,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::no_team;
use crate::{
    auth::{Caller, Scope},
    display::{Display, DisplayQuery, Rates, Wanted},
    error::ApiError,
    extract::Query,
    live::{Owed, Reach},
    openapi::{NotFound, Refusals},
    state::Api,
    store::teams,
};

/// A team's balance.
#[derive(Serialize, ToSchema)]
pub(crate) struct TeamBalance {
    /// The team.
    team: String,
    /// Everything accepted before this instant is in the live balances.
    as_of: String,
    /// One per currency that the team has usage or a wallet in; negative is what it owes.
    balances: Vec<Balance>,
    /// How far the partition of the team's usage is; all of them while the team has none.
    partitions: Vec<PartitionReach>,
}

/// A balance in one currency.
#[derive(Serialize, ToSchema)]
pub(crate) struct Balance {
    /// The currency.
    currency: String,
    /// As posted to the ledger: what the team's wallet has there, minus what the team owes.
    posted: String,
    /// Posted, and what was rated after it.
    live: String,
    /// `posted` in the currency that `display_currency` asks for, by the rate of today.
    #[serde(skip_serializing_if = "Option::is_none")]
    posted_display: Option<Display>,
    /// `live` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    live_display: Option<Display>,
    /// The team's wallet in the currency; null without one.
    wallet: Option<BalanceWallet>,
}

/// What a wallet has, as of the same moment as `posted`.
#[derive(Serialize, ToSchema)]
pub(crate) struct BalanceWallet {
    /// What is stored: the sum of its running grants.
    balance: String,
    /// What of it, and of its credit limit, is held.
    held: String,
    /// `balance` in the currency that `display_currency` asks for, by the rate of today.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance_display: Option<Display>,
    /// `held` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_display: Option<Display>,
}

/// How far a partition is.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartitionReach {
    /// The partition.
    partition: u32,
    /// Last position of `[usage]` that is in `posted`; −1 for none.
    posted_position: i64,
    /// Last position of `[usage]` that is in `live`; −1 for none.
    live_position: i64,
    /// Positions of `[usage]` that `live` has not yet, as last seen.
    lag: i64,
    /// Everything accepted before this instant is in `live`.
    as_of: String,
}

impl From<Reach> for PartitionReach {
    fn from(reach: Reach) -> Self {
        Self {
            partition: reach.partition,
            posted_position: reach.posted,
            live_position: reach.live,
            lag: reach.lag,
            as_of: time::format(reach.as_of_us),
        }
    }
}

/// Read a team's balance
///
/// From memory: what is posted, wallets as they changed at most about a second ago, and what was rated
/// after it. With `display_currency` each amount is shown in that currency too, by the stored rate of exchange of today,
/// which is read from the database.
#[utoipa::path(get, path = "/v1/teams/{team}/balance", tag = "balances", params(("team" = String, Path, description = "Key of the team"), DisplayQuery),
    responses((status = 200, body = TeamBalance), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
    Query(query): Query<DisplayQuery>,
) -> Result<Json<TeamBalance>, ApiError> {
    let tenant = caller.may_of(Scope::BalancesRead, &team)?;
    let wanted = query.display_currency.map(Wanted::read).transpose()?;
    if let Some((reach, owed)) = api.live.owed(tenant, &team) {
        let mut found = answer(team, vec![reach], &owed);
        if let Some(wanted) = wanted {
            let currencies = found.balances.iter().map(|one| one.currency.as_str());
            let rates = wanted.rates(&api, tenant, currencies, task::now_us()).await?;
            found.balances.iter_mut().for_each(|balance| balance.show(&rates));
        }
        return Ok(Json(found));
    }
    // Not in memory: without usage and wallet, or unknown.
    let name = &team;
    let known = scoped(&api.pool, tenant.id(), |mut transaction| async move {
        teams::find(&mut transaction, tenant, name).await
    })
    .await?;
    known.ok_or_else(|| no_team(&team))?;
    let reach = api.live.reach();
    if u32::try_from(reach.len()) != Ok(api.log.partitions()) {
        let problem = Problem::unavailable(
            1,
            "balances_loading",
            "balances are still being loaded",
            "ask again",
        );
        return Err(problem.into());
    }
    Ok(Json(answer(team, reach, &[])))
}

fn answer(team: String, reach: Vec<Reach>, owed: &[Owed]) -> TeamBalance {
    let as_of_us = reach.iter().map(|reach| reach.as_of_us).min().unwrap_or_default();
    let mut balances: Vec<Balance> = owed.iter().map(balance).collect();
    balances.sort_by(|left, right| left.currency.cmp(&right.currency));
    let partitions = reach.into_iter().map(PartitionReach::from).collect();
    TeamBalance { team, as_of: time::format(as_of_us), balances, partitions }
}

impl Balance {
    /// Shows its amounts in another currency too.
    fn show(&mut self, rates: &Rates) {
        let shown = |amount: &str| Some(rates.show(Some(&self.currency), Some(amount)));
        self.posted_display = shown(&self.posted);
        self.live_display = shown(&self.live);
        if let Some(wallet) = &mut self.wallet {
            wallet.balance_display = shown(&wallet.balance);
            wallet.held_display = shown(&wallet.held);
        }
    }
}

/// A balance is minus what is owed.
fn balance(owed: &Owed) -> Balance {
    let text = |owed: i128| Amount::of_sum(owed).negated().to_string();
    let stored = |raw: i128| Amount::of_sum(raw).to_string();
    let wallet = owed.stored.map(|wallet| BalanceWallet {
        balance: stored(wallet.balance),
        held: stored(wallet.held),
        balance_display: None,
        held_display: None,
    });
    Balance {
        currency: owed.currency.to_string(),
        posted: text(owed.posted),
        live: text(owed.live),
        posted_display: None,
        live_display: None,
        wallet,
    }
}
