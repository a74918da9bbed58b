//! All SQL of the api, by resource.
//!
//! Every function that reads or writes a tenant's rows takes the [`TenantScope`] and filters by it
//! (wall 1), on a connection whose transaction row-level security limits to that tenant (wall 2): INV-22.
//! Those that cannot know a tenant yet say so: [`api_keys::find`], [`app_secrets::find`], and [`outbox`] for the task
//! that appends the markers of all tenants.
//!
//! [`TenantScope`]: crate::auth::TenantScope

pub(crate) mod analytics;
pub(crate) mod api_keys;
pub(crate) mod app_secrets;
pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod backfills;
pub(crate) mod balances;
pub(crate) mod catalog;
pub(crate) mod catalog_drafts;
pub(crate) mod catalog_preview;
pub(crate) mod conservation;
pub(crate) mod corrected;
pub(crate) mod corrections;
pub(crate) mod events;
pub(crate) mod exchange_rates;
pub(crate) mod explain;
pub(crate) mod exports;
pub(crate) mod grants;
pub(crate) mod holds;
pub(crate) mod idempotency;
pub(crate) mod limits;
pub(crate) mod meter_periods;
pub(crate) mod observations;
pub(crate) mod outbox;
pub(crate) mod provider_invoices;
pub(crate) mod provider_prices;
pub(crate) mod quotas;
pub(crate) mod rejected_events;
pub(crate) mod running_totals;
pub(crate) mod statement;
pub(crate) mod team_aliases;
pub(crate) mod teams;
pub(crate) mod timeline;
pub(crate) mod twins;
pub(crate) mod usage;
pub(crate) mod wallets;
