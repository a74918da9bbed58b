//! Balances: from memory, so that no check waits for a database.

use axum::{Json, extract::State};
use domain::{money::Amount, time};
use runtime::{
    http::{Path, Problem},
    postgres::scoped,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::no_team;
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
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
/// after it.
#[utoipa::path(get, path = "/v1/teams/{team}/balance", tag = "balances", params(("team" = String, Path, description = "Key of the team")),
    responses((status = 200, body = TeamBalance), NotFound, Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(team): Path<String>,
) -> Result<Json<TeamBalance>, ApiError> {
    let tenant = caller.may_of(Scope::BalancesRead, &team)?;
    if let Some((reach, owed)) = api.live.owed(tenant, &team) {
        return Ok(Json(answer(team, vec![reach], &owed)));
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

/// A balance is minus what is owed.
fn balance(owed: &Owed) -> Balance {
    let text = |owed: i128| Amount::of_sum(owed).negated().to_string();
    let stored = |raw: i128| Amount::of_sum(raw).to_string();
    let wallet = owed
        .stored
        .map(|wallet| BalanceWallet { balance: stored(wallet.balance), held: stored(wallet.held) });
    Balance {
        currency: owed.currency.to_string(),
        posted: text(owed.posted),
        live: text(owed.live),
        wallet,
    }
}
