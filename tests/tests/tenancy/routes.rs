//! The routes: which scope each needs, and what its places name.

use runtime::task::now_us;

/// An operation of the document, and what stands in it.
pub struct Route {
    /// `GET /v1/teams`.
    pub operation: &'static str,
    /// The scope that it needs.
    pub scope: &'static str,
    /// Kinds of what its path names, in order; `|` between several that may stand there.
    pub ids: &'static [&'static str],
    /// What its query must have besides.
    pub query: String,
    /// Bodies; a kind in `<>` names something of it.
    pub bodies: Vec<String>,
}

/// Filters: as the document has them, as they are sent, and the kind of what they name; empty for
/// those that name nothing.
pub const FILTERS: [(&str, &str, &str); 38] = [
    ("limit", "limit", ""),
    // It has a place of its own.
    ("cursor", "cursor", ""),
    ("team", "team", "team"),
    ("user", "user", "user"),
    ("user_id", "user_id", "user"),
    ("app", "app", "app"),
    ("type", "type", "event_type"),
    ("source", "source", "source"),
    ("id", "id", "event_id"),
    ("meter", "meter", "meter"),
    ("feature", "feature", "feature"),
    ("actor", "actor", "key"),
    ("target", "target", "team"),
    ("provider", "provider", "provider"),
    ("model", "model", "model"),
    ("filter[dimension]", "filter[model]", "model"),
    ("outcome", "outcome", ""),
    ("reason", "reason", ""),
    ("action", "action", ""),
    ("from", "from", ""),
    ("to", "to", ""),
    ("at", "at", ""),
    ("history", "history", ""),
    ("window", "window", ""),
    ("time_zone", "time_zone", ""),
    ("group_by", "group_by", ""),
    ("period", "period", ""),
    ("format", "format", ""),
    ("preview", "preview", ""),
    ("posted", "posted", ""),
    ("archived", "archived", ""),
    ("revision", "revision", ""),
    ("snapshots", "snapshots", ""),
    ("tolerance_amount", "tolerance_amount", ""),
    ("tolerance_percent", "tolerance_percent", ""),
    ("display_currency", "display_currency", ""),
    ("from_currency", "from_currency", ""),
    ("to_currency", "to_currency", ""),
];

/// A report is of a period; this one has all that is reported while the test runs.
const REPORT: &str = "from=2026-01-01T00:00:00Z&to=2100-01-01T00:00:00Z";

/// A price is of a meter; this one is the other tenant's own.
const RESOLVED: &str = "meter=bravo7-tokens&at=2026-03-01T00:00:00Z";

/// The days around now, of which analytics and exports take a year at most.
fn days_around_now() -> String {
    let day = 24 * 3_600 * 1_000_000;
    let [from, to] = [now_us() - day, now_us() + day].map(domain::time::format);
    format!("from={from}&to={to}")
}

/// All of them.
pub fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    let around_now = days_around_now();
    let mut add = |operation: &'static str,
                   scope: &'static str,
                   ids: &'static [&'static str],
                   bodies: &[&str]| {
        let bodies = bodies.iter().map(|body| (*body).to_owned()).collect();
        let query = match operation {
            "GET /v1/usage-report" => REPORT.to_owned(),
            "GET /v1/rating/resolve" => RESOLVED.to_owned(),
            "GET /v1/analytics/usage"
            | "GET /v1/analytics/revenue"
            | "GET /v1/analytics/cost"
            | "GET /v1/analytics/margin" => format!("{around_now}&group_by=team"),
            path if path.starts_with("GET /v1/analytics/") => around_now.clone(),
            path if path.starts_with("GET /v1/exports/") => around_now.clone(),
            _ => String::new(),
        };
        all.push(Route { operation, scope, ids, query, bodies });
    };
    let expiry = [r#"{"expires_at": "2100-01-01T00:00:00Z"}"#];
    add("GET /v1/api-keys", "keys:write", &[], &[]);
    add("POST /v1/api-keys", "keys:write", &[], &[r#"{"scopes": ["teams:read"], "app": "<app>"}"#]);
    add("PATCH /v1/api-keys/{key_id}", "keys:write", &["key"], &expiry);
    add("DELETE /v1/api-keys/{key_id}", "keys:write", &["key"], &[]);
    add("GET /v1/apps", "keys:write", &[], &[]);
    add("POST /v1/apps", "keys:write", &[], &[r#"{"app": "<new_app>"}"#]);
    add("GET /v1/apps/{app}/secrets", "keys:write", &["app"], &[]);
    add("POST /v1/apps/{app}/secrets", "keys:write", &["app"], &[r#"{"scopes": ["teams:read"]}"#]);
    add("PATCH /v1/apps/{app}/secrets/{secret_id}", "keys:write", &["app", "secret"], &expiry);
    add("DELETE /v1/apps/{app}/secrets/{secret_id}", "keys:write", &["app", "secret"], &[]);
    add("GET /v1/audit", "audit:read", &[], &[]);
    add("GET /v1/limits", "limits:write", &[], &[]);
    let limit = [r#"{"credential": "<key>", "events_per_second": 1000000}"#];
    add("PUT /v1/limits", "limits:write", &[], &limit);
    add("GET /v1/quotas", "limits:write", &[], &[]);
    add("PUT /v1/quotas", "limits:write", &[], &[r#"{"period": "month", "events": 1000000}"#]);

    add("GET /v1/catalog", "catalog:read", &[], &[]);
    let catalog = super::objects::catalog("bravo7").to_string();
    let meter =
        r#"{"key": "<new_meter>", "event_types": ["<event_type>"], "aggregation": "count"}"#;
    let catalog = catalog.replacen(r#""meters":["#, &format!(r#""meters":[{meter},"#), 1);
    // It has a fault of its own, whatever it names: a card that is published stays.
    let faulty = format!(
        r#"{{"meters": [{meter}], "credit_units": [{{"key": "<new_card>"}}], "cards": [{{"key": "<newer_card>",
        "kind": "rate", "currency": "none", "versions": [{{"rates": [{{"meter": "<meter>", "price": "1"}}]}}]}}],
        "default_rate_card": "<rate_card>", "default_cost_card": "<cost_card>",
        "offers": [{{"key": "<new_card>", "source": "team", "card": "<rate_card>", "meters": ["<meter>"],
        "overriding_key": "<newer_card>"}}], "team_zones": [{{"team": "<team>", "zone": "Asia/Tokyo"}}], "holders": [{{"team": "<team>", "offer": "none", "from": "2026-01-01T00:00:00Z"}}]}}"#
    );
    add("PUT /v1/catalog", "catalog:write", &[], &[catalog.as_str(), faulty.as_str()]);
    add("POST /v1/catalog/preview", "catalog:read", &[], &[catalog.as_str(), faulty.as_str()]);
    let draft = [
        format!(r#"{{"catalog": {faulty}, "note": "n"}}"#),
        r#"{"version": {"card": "<rate_card>", "rates": [{"meter": "<meter>", "price": "1"}]}}"#
            .to_owned(),
    ];
    add("GET /v1/catalog/drafts", "catalog:read", &[], &[]);
    add("GET /v1/catalog/drafts/{draft}", "catalog:read", &["draft"], &[]);
    add("GET /v1/catalog/drafts/{draft}/preview", "catalog:read", &["draft"], &[]);
    let bodies = draft.each_ref().map(String::as_str);
    add("PUT /v1/catalog/drafts/{draft}", "catalog:write", &["draft"], &bodies);
    add("POST /v1/catalog/drafts/{draft}/publish", "catalog:write", &["draft"], &[]);
    // Saving has made drafts of these very names, so what is deleted has times of its own.
    add("DELETE /v1/catalog/drafts/{draft}", "catalog:write", &["draft"], &["{}"]);
    let defaults = r#"{"default_rate_card": "<rate_card>", "default_cost_card": "<cost_card>"}"#;
    add("PUT /v1/catalog/defaults", "catalog:write", &[], &[defaults]);
    let calculation = r#"{"type": "<event_type>", "team": "<team>", "source": "<source>", "user": "<user>",
        "feature": "<feature>", "offers": [], "data": {"n": "1"}}"#;
    add("POST /v1/rating/calculate", "catalog:read", &[], &[calculation]);
    add("GET /v1/meters", "catalog:read", &[], &[]);
    add("GET /v1/meters/{key}", "catalog:read", &["meter"], &[]);
    add(
        "POST /v1/meters",
        "catalog:write",
        &[],
        &[meter.replace("new_meter", "newer_meter").as_str()],
    );
    let card = r#"{"key": "<new_card>", "currency": "EUR", "rates": [{"meter": "<meter>", "price": "1"}]}"#;
    let version = r#"{"effective_from": "2040-01-01T00:00:00Z", "rates": [{"meter": "<meter>", "price": "1"}]}"#;
    add("GET /v1/rate-cards", "catalog:read", &[], &[]);
    add("POST /v1/rate-cards", "catalog:write", &[], &[card]);
    add("GET /v1/rate-cards/{key}", "catalog:read", &["rate_card"], &[]);
    add("POST /v1/rate-cards/{key}/versions", "catalog:write", &["rate_card"], &[version]);
    add("POST /v1/rate-cards/{key}/archive", "catalog:write", &["rate_card"], &[]);
    add("POST /v1/rate-cards/{key}/unarchive", "catalog:write", &["rate_card"], &[]);
    add("GET /v1/cost-cards", "catalog:read", &[], &[]);
    add(
        "POST /v1/cost-cards",
        "catalog:write",
        &[],
        &[card.replace("new_card", "newer_card").as_str()],
    );
    add("GET /v1/cost-cards/{key}", "catalog:read", &["cost_card"], &[]);
    add("POST /v1/cost-cards/{key}/versions", "catalog:write", &["cost_card"], &[version]);
    add("POST /v1/cost-cards/{key}/archive", "catalog:write", &["cost_card"], &[]);
    add("POST /v1/cost-cards/{key}/unarchive", "catalog:write", &["cost_card"], &[]);
    // The default card of each is in a currency, so a table is refused; a faulty one is before that.
    let table =
        r#"{"name": "<rate_card>", "rules": {"<model>": {"input_tokens": 1.5, "per_unit": 1000}}}"#;
    add("GET /v1/burn-tables", "catalog:read", &[], &[]);
    add(
        "POST /v1/burn-tables",
        "catalog:write",
        &[],
        &[table, table.replace("input_tokens", "tokens").as_str()],
    );
    add("GET /v1/providers/pricing", "catalog:read", &[], &[]);
    let import = r#"{"list": {"source": "<source>", "date": "2026-01-01", "currency": "USD", "per": 1,
        "models": [{"provider": "<provider>", "model": "<model>", "prices": {"input": "7"}}]}, "partial": true, "dry_run": true}"#;
    add("POST /v1/providers/pricing/imports", "catalog:write", &[], &[import]);
    let made = r#"{"card": "<cost_card>", "dry_run": true, "meters": {"input": "<meter>"}}"#;
    add("POST /v1/providers/pricing/cost-card", "catalog:write", &[], &[made]);

    add("GET /v1/rating/resolve", "catalog:read", &[], &[]);

    add("GET /v1/teams", "teams:read", &[], &[]);
    add("POST /v1/teams", "teams:write", &[], &[r#"{"team": "<new_team>", "name": "n"}"#]);
    add("GET /v1/teams/{team}", "teams:read", &["team|alias"], &[]);
    add("GET /v1/teams/{team}/aliases", "teams:read", &["team"], &[]);
    add(
        "POST /v1/teams/{team}/aliases",
        "teams:write",
        &["team"],
        &[r#"{"alias": "<new_alias>"}"#],
    );
    add("GET /v1/teams/{team}/wallets", "wallets:read", &["team"], &[]);
    let wallet = [r#"{"currency": "EUR"}"#];
    add("POST /v1/teams/{team}/wallets", "wallets:write", &["team"], &wallet);
    add("GET /v1/wallets/{wallet}", "wallets:read", &["wallet"], &[]);
    let limit = [r#"{"credit_limit": "0"}"#];
    add("PATCH /v1/wallets/{wallet}", "wallets:write", &["wallet"], &limit);
    add("GET /v1/wallets/{wallet}/entries", "wallets:read", &["wallet"], &[]);
    add("GET /v1/wallets/{wallet}/balance", "wallets:read", &["wallet"], &[]);
    add("GET /v1/wallets/{wallet}/grants", "wallets:read", &["wallet"], &[]);
    let grant = [
        r#"{"amount": "1", "kind": "promotional", "meters": ["<meter>"]}"#,
        r#"{"amount": "1", "kind": "promotional", "source_id": "<event_id>"}"#,
    ];
    add("POST /v1/wallets/{wallet}/grants", "wallets:write", &["wallet"], &grant);
    add("GET /v1/grants/{grant}", "wallets:read", &["grant"], &[]);
    add("GET /v1/grants/{grant}/allocations", "wallets:read", &["grant"], &[]);
    add("POST /v1/grants/{grant}/void", "wallets:write", &["grant"], &[]);
    add("POST /v1/grants/{grant}/refund", "wallets:write", &["grant"], &[]);
    let hold =
        r#"{"team": "<team>", "currency": "USD", "amount": "0.000001", "meters": ["<meter>"]}"#;
    let by_wallet = r#"{"wallet": "<wallet>", "amount": "0.000001"}"#;
    add("POST /v1/holds", "holds:write", &[], &[hold, by_wallet]);
    add("GET /v1/holds/{hold}", "wallets:read", &["hold"], &[]);
    add("POST /v1/holds/{hold}/release", "holds:write", &["hold"], &[]);
    add("POST /v1/holds/{hold}/capture", "holds:write", &["hold"], &[r#"{"amount": "1"}"#]);
    let credits = [
        r#"{"customer_id": "<team>", "user_id": "<user>", "amount": "0.000001", "currency": "USD"}"#,
    ];
    add("GET /v1/customers/{customer}/credits", "wallets:read", &["team|alias"], &[]);
    add("POST /v1/credits/consume", "holds:write", &[], &credits);
    add("POST /v1/credits/purchase", "wallets:write", &[], &credits);
    add("GET /v1/teams/{team}/balance", "balances:read", &["team"], &[]);
    let rate = r#"{"rates": [{"from_currency": "USD", "to_currency": "EUR", "effective_on": "2026-01-01", "rate": "0.9",
        "source": "<source>"}], "replace": true}"#;
    add("GET /v1/exchange-rates", "catalog:read", &[], &[]);
    add("PUT /v1/exchange-rates", "catalog:write", &[], &[rate]);
    add("GET /v1/teams/{team}/transfers", "balances:read", &["team"], &[]);
    add("GET /v1/teams/{team}/journals", "balances:read", &["team"], &[]);
    add("GET /v1/teams/{team}/timeline", "usage:read", &["team"], &[]);
    add("GET /v1/users/{user}/timeline", "usage:read", &["user"], &[]);
    add("GET /v1/journals/{journal_id}", "balances:read", &["journal"], &[]);
    // Two scopes are needed, so no key with one of them is let in.
    add("GET /v1/explain/{id}", "balances:read and usage:read", &["journal|transfer"], &[]);
    add("GET /v1/usage", "usage:read", &[], &[]);
    add("GET /v1/usage-report", "usage:read", &[], &[]);
    add("GET /v1/analytics/usage", "usage:read", &[], &[]);
    add("GET /v1/analytics/unpriced", "usage:read", &[], &[]);
    for operation in [
        "GET /v1/analytics/revenue",
        "GET /v1/analytics/cost",
        "GET /v1/analytics/margin",
        "GET /v1/analytics/overview",
        "GET /v1/exports/usage_lines.csv",
        "GET /v1/exports/usage_lines.parquet",
    ] {
        add(operation, "balances:read and usage:read", &[], &[]);
    }
    for operation in [
        "GET /v1/provider-invoices/{invoice}",
        "GET /v1/provider-invoices/{invoice}/lines",
        "GET /v1/provider-invoices/{invoice}/reconciliation",
    ] {
        add(operation, "balances:read and usage:read", &["invoice"], &[]);
    }
    add("GET /v1/provider-invoices", "balances:read and usage:read", &[], &[]);
    // After those that read, which would see what a caller stores under another's name; one of the
    // caller's own is there with other content.
    let invoice = r#"{"invoice": "<invoice>", "provider": "<provider>", "csv": "date,model,cost_usd\n2026-03-01,<model>,1\n",
        "models": {"m": "<model>"}, "classes": {"c": "<meter>"}}"#;
    add("POST /v1/provider-invoices", "catalog:write", &[], &[invoice]);
    add("GET /v1/exports/events.csv", "usage:read", &[], &[]);
    add("GET /v1/exports/events.parquet", "usage:read", &[], &[]);
    add("GET /v1/events", "usage:read", &[], &[]);
    add("GET /v1/events/{receipt}", "usage:read", &["receipt|rejected"], &[]);
    add("GET /v1/rejected-events", "usage:read", &[], &[]);
    add("GET /v1/rejected-events/{receipt}", "usage:read", &["rejected"], &[]);
    // They read with this scope; what they send, ingest refuses without `events:write`. A corrected
    // event of the caller's own is sent once, so two answers to it always differ.
    add("POST /v1/rejected-events/{receipt}/reinject", "usage:read", &["rejected"], &[]);
    let selection = r#"{"team": "<team>", "app": "<app>", "source": "<source>", "type": "<event_type>", "dry_run": true}"#;
    add("POST /v1/rejected-events/reinject", "usage:read", &[], &[selection]);
    add("POST /v1/events/{receipt}/void", "corrections:write", &["receipt|rejected"], &[]);
    let amended = [r#"{"type": "<event_type>", "user": "<user>", "feature": "<feature>"}"#];
    add("POST /v1/events/{receipt}/amend", "corrections:write", &["receipt|rejected"], &amended);
    let selected = r#"{"kind": "rate", "reason": "r", "filter": {"team": "<team>", "user": "<user>", "type": "<event_type>",
        "source": "<source>", "app": "<app>", "meter": "<meter>"}}"#;
    let backfill = r#"{"backfill": "<new_app>", "reason": "r"}"#;
    add("GET /v1/twins", "usage:read", &[], &[]);
    add("GET /v1/backfills", "usage:read", &[], &[]);
    add("POST /v1/backfills", "corrections:write", &[], &[backfill]);
    add("GET /v1/backfills/{backfill}", "usage:read", &["backfill"], &[]);
    add("POST /v1/backfills/{backfill}/close", "corrections:write", &["backfill"], &[]);
    add("POST /v1/backfills/{backfill}/revert", "corrections:write", &["backfill"], &[]);
    add("GET /v1/corrections", "usage:read", &[], &[]);
    add("POST /v1/corrections", "corrections:write", &[], &[selected]);
    let simulated = format!(
        r#"{{"catalog": {faulty}, "filter": {{"team": "<team>", "user": "<user>", "type": "<event_type>",
        "source": "<source>", "app": "<app>", "meter": "<meter>"}}}}"#
    );
    let drafted = r#"{"draft": "<draft>", "filter": {"team": "<team>"}}"#;
    add("POST /v1/rating/simulate", "corrections:write", &[], &[simulated.as_str(), drafted]);
    add("GET /v1/corrections/{correction}", "usage:read", &["correction"], &[]);
    add("POST /v1/corrections/{correction}/post", "corrections:write", &["correction"], &[]);
    add("POST /v1/corrections/{correction}/cancel", "corrections:write", &["correction"], &[]);
    add("GET /v1/corrections/{correction}/deltas", "usage:read", &["correction"], &[]);
    add("GET /v1/corrections/{correction}/blocks", "usage:read", &["correction"], &[]);
    add("GET /v1/meters/{key}/periods", "usage:read", &["meter"], &[]);
    add("GET /v1/teams/{team}/meters/{key}/estimate", "usage:read", &["team", "meter"], &[]);
    add("GET /v1/conservation", "status:read", &[], &[]);

    let event = r#"{"id": "<event_id>", "source": "<source>", "type": "<event_type>", "subject": "<team>", "user": "<user>",
        "feature": "<feature>", "data": {"tokens": 1, "model": "<model>"}}"#;
    let bulk = format!(r#"[{{"id": "bulk-1", "type": "t", "subject": "t"}}, {event}]"#);
    add("POST /v1/events", "events:write", &[], &[event, bulk.as_str()]);
    add("POST /v1/events/ingest", "events:write", &[], &[event]);
    add("POST /v1/apps/{app}/events", "events:write", &["app"], &[event, bulk.as_str()]);
    let lago = r#"{"transaction_id": "<event_id>", "external_subscription_id": "<team>", "code": "<event_type>"}"#;
    let (one, several) = (format!(r#"{{"event": {lago}}}"#), format!(r#"{{"events": [{lago}]}}"#));
    add("POST /api/v1/events", "events:write", &[], &[event, one.as_str()]);
    add("POST /api/v1/events/batch", "events:write", &[], &[several.as_str()]);
    all
}
