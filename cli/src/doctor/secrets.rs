//! The audit key and the master key: set, and the ones that the data were made with.

use anyhow::Result;
use runtime::keys::MasterKeys;

use super::{Report, database::Database, target::Target};
use crate::store::secrets;

/// Secrets of apps that are opened.
const SECRETS_MAX: i64 = 1_000;

/// Checks both.
pub async fn check(target: &Target, database: &Database, report: &mut Report) {
    audit_key(target, database, report);
    if let Err(error) = master_key(target, database, report).await {
        report.wrong("keys.master", format!("{error:#}"), "look at Postgres' log");
    }
}

fn audit_key(target: &Target, database: &Database, report: &mut Report) {
    const CHECK: &str = "keys.audit";
    let Some(key) = target.config.ledger_writer.key() else {
        let action = "nothing, unless a ledger-writer or `weir migrate` runs with these settings";
        report.warning(CHECK, "ledger_writer.audit_key is not set here", action);
        return;
    };
    match database.installation.check_audit_key(&key.id()) {
        Ok(()) => report.ok(CHECK, "it is the key that the books were begun with"),
        Err(error) => report.wrong(CHECK, error.to_string(), "the key cannot be replaced; find it"),
    }
}

async fn master_key(target: &Target, database: &Database, report: &mut Report) -> Result<()> {
    const CHECK: &str = "keys.master";
    let mut connection = database.pool.acquire().await?;
    let stored = secrets::live(&mut connection, SECRETS_MAX).await?;
    let config = &target.config;
    if !config.ingest.master_key.is_empty()
        && config.ingest.master_key.expose() != config.api.master_key.expose()
    {
        let action = "set WEIR_MASTER_KEY alone, the same everywhere";
        report.wrong(CHECK, "ingest.master_key and api.master_key differ", action);
        return Ok(());
    }
    let Ok(keys) = MasterKeys::parse(&config.api.master_key) else {
        // The check of the configuration has said so.
        return Ok(());
    };
    let Some(keys) = keys else {
        let found =
            format!("WEIR_MASTER_KEY is not set here, and {} apps' secrets need it", stored.len());
        if stored.is_empty() {
            report.ok(CHECK, "it is not set, and nothing needs it");
        } else {
            report.warning(
                CHECK,
                found,
                "set it for every ingest and api; the other processes need none",
            );
        }
        return Ok(());
    };
    let fault = stored.iter().find_map(|secret| {
        let context = domain::token::secret_context(secret.tenant_id, &secret.secret_id);
        let opened = keys.open(&secret.master_key_id, &context, &secret.sealed);
        opened.err().map(|error| format!("{}: {error}", secret.secret_id))
    });
    match fault {
        None => report.ok(CHECK, format!("it opens all {} apps' secrets", stored.len())),
        Some(fault) => {
            let action = "add the older key (WEIR_MASTER_KEY=NEW,OLD) and run `weir keys seal`";
            report.wrong(CHECK, fault, action);
        }
    }
    Ok(())
}
