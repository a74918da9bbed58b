//! Handlers, by resource. Each is flat: authenticate, load, decide, store, answer.

pub(crate) mod analytics;
pub(crate) mod api_keys;
pub(crate) mod app_secrets;
pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod backfills;
pub(crate) mod balances;
pub(crate) mod burn_tables;
pub(crate) mod cards;
pub(crate) mod catalog;
pub(crate) mod catalog_drafts;
pub(crate) mod catalog_preview;
pub(crate) mod conservation;
pub(crate) mod corrections;
pub(crate) mod credits;
pub(crate) mod event_corrections;
pub(crate) mod events;
pub(crate) mod exchange_rates;
pub(crate) mod explain;
pub(crate) mod exports;
pub(crate) mod grants;
pub(crate) mod holds;
pub(crate) mod limits;
pub(crate) mod meter_periods;
pub(crate) mod meters;
pub(crate) mod page;
pub(crate) mod provider_invoices;
pub(crate) mod provider_prices;
pub(crate) mod quotas;
pub(crate) mod rating;
pub(crate) mod rejected_events;
pub(crate) mod team_aliases;
pub(crate) mod teams;
pub(crate) mod timelines;
pub(crate) mod transfers;
pub(crate) mod twins;
pub(crate) mod usage;
pub(crate) mod usage_report;
pub(crate) mod wallets;

use domain::time;
use runtime::http::Problem;

/// Bytes of a key of an app, a team or an alias: what an event's subject may have.
const KEY_BYTES_MAX: usize = 256;
/// Characters of a name.
const NAME_LENGTH_MAX: usize = 256;

/// Checks a key that a client chose.
fn check_key(field: &str, key: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
        return Err(Problem::unprocessable(
            "key_invalid",
            format!(
                "{field} is empty, longer than {KEY_BYTES_MAX} bytes or has control characters"
            ),
            "choose another",
        )
        .with("field", field));
    }
    Ok(())
}

/// Checks a name for people.
fn check_name(name: &str) -> Result<(), Problem> {
    if name.chars().count() > NAME_LENGTH_MAX || name.contains('\0') {
        return Err(Problem::unprocessable(
            "name_invalid",
            format!("the name has more than {NAME_LENGTH_MAX} characters, or the character U+0000"),
            "choose another",
        ));
    }
    Ok(())
}

/// RFC 3339, where there is a time.
fn format_optional(time_us: Option<i64>) -> Option<String> {
    time_us.map(time::format)
}

/// The answer for a team that the caller's tenant has not.
fn no_team(team: &str) -> Problem {
    Problem::not_found(
        "team_unknown",
        format!("there is no team `{team}`"),
        "check the key; a team exists once it is registered or has usage",
    )
}
