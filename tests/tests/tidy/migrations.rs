//! Released migrations stay as they are: whoever has run one has run just these bytes.

use std::{collections::BTreeMap, fs};

use ring::digest;

use crate::{check_none, files, root};

/// Every file of `migrations/` with the SHA-256 of its bytes. Lines are added here, never changed.
const RELEASED: &[(&str, &str)] = &[
    (
        "migrations/clickhouse/0001_spine.sql",
        "c64af68140dadf1cfe70b008c385e84f00a15c9323bd877629d836972bc785ee",
    ),
    (
        "migrations/clickhouse/0002_look_ups.sql",
        "6d1d02175836d4b32113936c1c2bc79288697ab3c9f206e30f1f61f03ab2858c",
    ),
    (
        "migrations/clickhouse/0003_compact_parts.sql",
        "4247b463b230aafbd5c1cb2a31a77035e3f444fa038c1b2c22dc306577f939aa",
    ),
    (
        "migrations/clickhouse/0004_audit_heads.sql",
        "497535a43104b90f491abf3f2bd4762f287faecd5f636b70aebf96617d242eeb",
    ),
    (
        "migrations/clickhouse/0005_origins.sql",
        "acd4ea7f58f72761778b31d9dfaecc6718f9daca3649d40e620f0cceea401dd8",
    ),
    (
        "migrations/clickhouse/0006_fewer_merges.sql",
        "3f5960f2b80c42f4a18a872885aa42988c796687f9b4c7047d73586d103237df",
    ),
    (
        "migrations/clickhouse/0007_plain_words.sql",
        "265baf839c95b47b8b049f8e143737d023edadd34273132b21ba720d128c33b7",
    ),
    (
        "migrations/clickhouse/0008_uncorrected.sql",
        "5d2cb7a635806bd466341c86164de0e5b466cc1e2ce1afbe24f946dfed12235b",
    ),
    (
        "migrations/clickhouse/0009_observed.sql",
        "06b01b6b7a524c91b295d97662c57fd99f7b10787d43dcb2603c1bf3913700a0",
    ),
    (
        "migrations/postgres/0001_spine.sql",
        "60db733ef53c51eb7c2bf357ad795ab0f354b7d6fb2459c447ac37a1538f381c",
    ),
    (
        "migrations/postgres/0002_provider_prices.sql",
        "f92292f56495dd8f57950750014c7e1a0e09e6dbeb753c821e5ac3c468adc0f0",
    ),
    (
        "migrations/postgres/0003_app_secrets.sql",
        "156ceb4c6609a62879a8d0cedc5e0ca5e3ba7629d233238a4af6a1c1398c2343",
    ),
    (
        "migrations/postgres/0004_entries_and_reinjections.sql",
        "703fec5424b72ddd5128ac835bc6b4c9c71c989b0c9e46a6ae3e7d4e43171c74",
    ),
    (
        "migrations/postgres/0005_audit_log.sql",
        "2c7260974f6331936eb09b083b1c6396e35d667a7e593cd1c891b90829929c01",
    ),
    (
        "migrations/postgres/0006_late.sql",
        "d124b1e1c8896215012f4d77a1b6f9fa8b3815843993a6debfc3cc7ac62b2914",
    ),
    (
        "migrations/postgres/0007_flushes.sql",
        "c1f67afae5f4b6140a0629d2c0d05c1c069142b4a9c6d77ab4777105d53d732e",
    ),
    (
        "migrations/postgres/0008_heads.sql",
        "04dbcad7dd4e8f6b767550dee08da4c5bf71f490a9474e6b09622bb37858ccb8",
    ),
    (
        "migrations/postgres/0009_quotas_and_disabled_tenants.sql",
        "c491572ff37fa6cc15682996204637a86d026f72ddf51638f7f3637def87e94d",
    ),
    (
        "migrations/postgres/0010_append_time_of_what_is_posted.sql",
        "8db79defdd75f60a13ecb3ddbcf7b5cc037c011562c745b6cdeb95e4e868b7d3",
    ),
    (
        "migrations/postgres/0011_cheaper_check_of_transfers.sql",
        "1a05af9eab44a090025848d050ed4f8a7edfc61e878038371f451427eff2f158",
    ),
    (
        "migrations/postgres/0012_waiting_aliases.sql",
        "4e179a6295c89f70e2eb28a831d4efa7f7d3fe22ed74344dad54879c708cf9a7",
    ),
    (
        "migrations/postgres/0013_data_keys.sql",
        "f1ea6127071000f3564aeacb81cf6170695b61f7111efb178bd6ee7bebbeabfb",
    ),
    (
        "migrations/postgres/0014_wallets.sql",
        "02e2226dea934bbb1d58c669d70970fe3d1c40f9f0f18ffee4ec6c87bb1acc14",
    ),
    (
        "migrations/postgres/0015_running_totals.sql",
        "eb57446c6dcc296b990d9fe48d6afd4185c39bbeb17d21f11338c4262f9bd757",
    ),
    (
        "migrations/postgres/0016_corrections.sql",
        "3f66f42cb77508c254796b4bf8d5508bb35a82b9174d4163067c92e149f5e09f",
    ),
    (
        "migrations/postgres/0017_meter_periods.sql",
        "8b6dd570bc5429dfc7d361a64b16ad25379569f285594136cf7bff9ceffc6e9d",
    ),
    (
        "migrations/postgres/0018_backfills.sql",
        "b8219f5b09fec8adde6be6dd085459b87469dc5277c6e369dd944e6b72c0bfad",
    ),
    (
        "migrations/postgres/0019_twins.sql",
        "6ddc5a6b3dc1a4e83b4963956461eb2a33c554e6156f6b08d50e2397587a5e7f",
    ),
    (
        "migrations/postgres/0020_provider_invoices.sql",
        "e37ca9994b44c18207d04a456043a2d4477170ae8f0e849720d0d9f7ed4ef026",
    ),
    (
        "migrations/postgres/0021_drafts_and_exchange_rates.sql",
        "fbefec0e37ad41781a13592b5fa4560d7a4b9715c53e873e18e9dde8d4837d26",
    ),
    (
        "migrations/postgres/0022_merges.sql",
        "fda5b5e629b0a79dc69c96bc6afc0ea42167a97239ea641b9f3966f1f494259e",
    ),
    (
        "migrations/postgres/0023_zones_of_periods.sql",
        "82c08a684097de25084c547a0de9b65840d4deecd5f65cd87869cb17f8a169ca",
    ),
];

/// The SHA-256 of a file's bytes, in hexadecimal digits.
fn hash(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with `migrations`, given by path and bytes, and what to do about it.
fn faults(migrations: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    faults_of(RELEASED, migrations)
}

/// [`faults`], with the list of what is released given.
fn faults_of(released: &[(&str, &str)], migrations: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, (file, expected)) in released.iter().enumerate() {
        match migrations.get(*file).map(|bytes| hash(bytes)) {
            None => faults.push(format!("{file} is gone: bring it back")),
            Some(found) if found != *expected => faults.push(format!(
                "{file} has changed: take the change back, and add a new migration that makes it"
            )),
            Some(_) => {}
        }
        if released.iter().take(place).any(|(before, _)| before == file) {
            faults.push(format!("{file} is listed twice: leave its first line alone"));
        }
    }
    for (file, bytes) in migrations {
        if !released.iter().any(|(listed, _)| listed == file) {
            let line = format!("(\"{file}\", \"{}\"),", hash(bytes));
            faults.push(format!("{file} is new: append its hash to tidy/migrations.rs: {line}"));
        }
    }
    faults
}

#[test]
fn released_migrations_stay_as_they_are() {
    let migrations: BTreeMap<String, Vec<u8>> = files()
        .into_iter()
        .filter(|file| file.starts_with("migrations/"))
        .filter_map(|file| fs::read(root().join(&file)).ok().map(|bytes| (file, bytes)))
        .collect();
    assert!(migrations.len() >= 16, "{:?}", migrations.keys());
    check_none("migrations", &faults(&migrations));
}

#[test]
fn a_migration_that_changes_goes_or_comes_is_seen() {
    // SHA-256 of nothing.
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let released = [("same", empty), ("changed", empty), ("gone", empty), ("same", empty)];
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let migrations = BTreeMap::from([file("same", b""), file("changed", b"x"), file("new", b"")]);
    let faults = faults_of(&released, &migrations);
    let told = ["changed has changed", "gone is gone", "same is listed twice", "new is new"];
    assert_eq!(faults.len(), told.len(), "{faults:?}");
    for (fault, told) in faults.iter().zip(told) {
        assert!(fault.starts_with(told), "{faults:?}");
    }
    assert!(faults[3].contains(empty), "{faults:?}");
}
