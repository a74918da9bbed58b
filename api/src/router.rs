//! The table of contents.

use axum::routing::get;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    routes::{
        api_keys, apps, balances, cards, catalog, conservation, events, meters, page, team_aliases,
        teams, transfers, usage,
    },
    state::Api,
};

/// All routes of the api.
pub(crate) fn router(api: Api) -> OpenApiRouter {
    OpenApiRouter::with_openapi(crate::openapi())
        // What is sold, and for what.
        .routes(routes!(catalog::read, catalog::replace))
        .routes(routes!(catalog::set_defaults))
        .routes(routes!(meters::list, meters::create))
        .routes(routes!(meters::read))
        .routes(routes!(cards::list_rate_cards, cards::create_rate_card))
        .routes(routes!(cards::read_rate_card))
        .routes(routes!(cards::create_rate_card_version))
        .routes(routes!(cards::list_cost_cards, cards::create_cost_card))
        .routes(routes!(cards::read_cost_card))
        .routes(routes!(cards::create_cost_card_version))
        // Who.
        .routes(routes!(apps::list, apps::create))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::revoke, api_keys::change))
        .routes(routes!(teams::list, teams::create))
        .routes(routes!(teams::read))
        .routes(routes!(team_aliases::list, team_aliases::create))
        // What it came to.
        .routes(routes!(balances::read))
        .routes(routes!(transfers::list_transfers))
        .routes(routes!(transfers::list_journals))
        .routes(routes!(transfers::read_journal))
        .routes(routes!(usage::read))
        .routes(routes!(events::list))
        .routes(routes!(events::read))
        .routes(routes!(events::list_rejected))
        .routes(routes!(conservation::read))
        .route("/", get(page::show))
        .with_state(api)
}
