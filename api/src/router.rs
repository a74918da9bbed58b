//! The table of contents.

use axum::{middleware::from_fn, routing::get};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    parameters::WithoutParameters,
    routes::{
        analytics, api_keys, app_secrets, apps, audit, backfills, balances, burn_tables, cards,
        catalog, catalog_drafts, catalog_preview, conservation, corrections, credits,
        event_corrections, events, exchange_rates, explain, exports, grants, holds, limits,
        meter_periods, meters, page, provider_invoices, provider_prices, quotas, rating,
        rejected_events, team_aliases, teams, timelines, transfers, twins, usage, usage_report,
        wallets,
    },
    state::Api,
};

/// All routes of the api.
pub(crate) fn router(api: Api) -> OpenApiRouter {
    let router: OpenApiRouter<Api> = OpenApiRouter::with_openapi(crate::openapi())
        // What is sold, and for what.
        .routes(routes!(catalog::read, catalog::replace))
        .routes(routes!(catalog::set_defaults))
        .routes(routes!(catalog_preview::preview))
        .routes(routes!(catalog_drafts::list))
        .routes(routes!(catalog_drafts::read, catalog_drafts::save, catalog_drafts::delete))
        .routes(routes!(catalog_drafts::preview))
        .routes(routes!(catalog_drafts::publish))
        .routes(routes!(meters::list, meters::create))
        .routes(routes!(meters::read))
        .routes(routes!(cards::list_rate_cards, cards::create_rate_card))
        .routes(routes!(cards::read_rate_card))
        .routes(routes!(cards::create_rate_card_version))
        .routes(routes!(cards::archive::archive_rate_card))
        .routes(routes!(cards::archive::unarchive_rate_card))
        .routes(routes!(cards::list_cost_cards, cards::create_cost_card))
        .routes(routes!(cards::read_cost_card))
        .routes(routes!(cards::create_cost_card_version))
        .routes(routes!(cards::archive::archive_cost_card))
        .routes(routes!(cards::archive::unarchive_cost_card))
        .routes(routes!(burn_tables::list, burn_tables::create))
        .routes(routes!(provider_prices::list))
        .routes(routes!(provider_prices::import))
        .routes(routes!(provider_prices::make_cost_card))
        .routes(routes!(rating::calculate))
        .routes(routes!(rating::resolve::read))
        // Who.
        .routes(routes!(apps::list, apps::create))
        .routes(routes!(app_secrets::list, app_secrets::create))
        .routes(routes!(app_secrets::revoke, app_secrets::change))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::revoke, api_keys::change))
        .routes(routes!(limits::list, limits::set))
        .routes(routes!(quotas::list, quotas::set))
        .routes(routes!(audit::list))
        .routes(routes!(teams::list, teams::create))
        .routes(routes!(teams::read))
        .routes(routes!(team_aliases::list, team_aliases::create))
        // What is stored, and spent.
        .routes(routes!(wallets::list, wallets::create))
        .routes(routes!(wallets::read, wallets::change))
        .routes(routes!(wallets::list_entries))
        .routes(routes!(wallets::read_balance))
        .routes(routes!(grants::list, grants::create))
        .routes(routes!(grants::read))
        .routes(routes!(grants::void))
        .routes(routes!(grants::refund))
        .routes(routes!(grants::list_allocations))
        .routes(routes!(holds::create))
        .routes(routes!(holds::read))
        .routes(routes!(holds::release))
        .routes(routes!(holds::capture))
        .routes(routes!(credits::read))
        .routes(routes!(credits::purchase))
        .routes(routes!(credits::consume))
        // What it came to.
        .routes(routes!(balances::read))
        .routes(routes!(exchange_rates::list, exchange_rates::store))
        .routes(routes!(transfers::list_transfers))
        .routes(routes!(transfers::list_journals))
        .routes(routes!(transfers::read_journal))
        .routes(routes!(explain::read))
        .routes(routes!(usage::read))
        .routes(routes!(usage_report::read))
        .routes(routes!(meter_periods::list))
        .routes(routes!(meter_periods::estimate))
        .routes(routes!(analytics::usage))
        .routes(routes!(analytics::revenue))
        .routes(routes!(analytics::cost))
        .routes(routes!(analytics::margin))
        .routes(routes!(analytics::overview::read))
        .routes(routes!(analytics::unpriced::list))
        .routes(routes!(provider_invoices::list, provider_invoices::import))
        .routes(routes!(provider_invoices::read))
        .routes(routes!(provider_invoices::list_lines))
        .routes(routes!(provider_invoices::reconciliation::read))
        .routes(routes!(exports::usage_lines_csv))
        .routes(routes!(exports::usage_lines_parquet))
        .routes(routes!(exports::events_csv))
        .routes(routes!(exports::events_parquet))
        .routes(routes!(timelines::of_user))
        .routes(routes!(timelines::of_team))
        .routes(routes!(events::list))
        .routes(routes!(events::read))
        // What is put right.
        .routes(routes!(event_corrections::void))
        .routes(routes!(event_corrections::amend))
        .routes(routes!(corrections::list, corrections::create))
        .routes(routes!(corrections::read))
        .routes(routes!(corrections::post))
        .routes(routes!(corrections::cancel))
        .routes(routes!(corrections::list_deltas))
        .routes(routes!(corrections::list_blocks))
        .routes(routes!(corrections::simulate))
        .routes(routes!(backfills::list, backfills::open))
        .routes(routes!(backfills::read))
        .routes(routes!(backfills::close))
        .routes(routes!(backfills::revert))
        .routes(routes!(twins::list))
        .routes(routes!(rejected_events::list))
        .routes(routes!(rejected_events::read))
        .routes(routes!(rejected_events::reinject))
        .routes(routes!(rejected_events::reinject_all))
        .routes(routes!(conservation::read));
    let bare = WithoutParameters::of(router.get_openapi());
    router
        .route_layer(from_fn(move |request, next| bare.clone().check(request, next)))
        .route("/", get(page::show))
        .route("/v1/exports/{file}", get(exports::unknown))
        .with_state(api)
}
