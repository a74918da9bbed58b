//! `weir bench rate`: one stage after the other, in one thread and in memory, by processor time.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use benches::account::Account;
use runtime::task::now_us;
use serde_json::json;

use super::LoadArguments;
use crate::{
    bench::{
        blocks::Desk,
        rate::{check, one_by_one, rate as rate_blocks},
    },
    output::sayln,
};

/// What `weir bench rate` is started with.
#[derive(Debug, clap::Args)]
pub struct RateArguments {
    /// Events
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: u64,
    #[command(flatten)]
    load: LoadArguments,
    /// Requests of one block of the log
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=100))]
    requests: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it; the sums of both ways must be the account's.
pub fn rate(arguments: &RateArguments) -> Result<ExitCode> {
    let now_us = now_us();
    let generator = arguments.load.generator(now_us)?;
    let (events, sizes) = (arguments.events, (arguments.load.batch, arguments.requests));
    let account = Account::of(&generator, events);
    let blocks = Desk::new(now_us)?.blocks(&generator, 0..events, sizes, now_us)?;
    let rated = rate_blocks(&blocks.messages, now_us)?;
    check(&rated.messages, &account)?;
    let (plain, books) = one_by_one(&generator, events, arguments.load.batch)?;
    let difference = account.first_difference(&books);
    ensure!(difference.is_none(), "the sums of the plain loop are wrong: {difference:?}");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / events.max(1) as f64;
    let bytes = |messages: &[bytes::Bytes]| {
        messages.iter().map(bytes::Bytes::len).sum::<usize>() as f64 / events.max(1) as f64
    };
    let lines = [
        ("parse", each(blocks.parsing)),
        ("pack", each(blocks.packing)),
        ("open", each(rated.opening)),
        ("rate", each(rated.rating)),
        ("cut", each(rated.cutting)),
        ("rater", each(rated.total())),
        ("one_by_one", each(plain)),
    ];
    if arguments.json {
        let us: serde_json::Map<String, serde_json::Value> =
            lines.iter().map(|(name, us)| ((*name).to_owned(), json!(us))).collect();
        sayln!(
            "{:#}",
            json!({ "events": events, "us_per_event": us, "usage_bytes_per_event": bytes(&blocks.messages), "rated_bytes_per_event": bytes(&rated.messages), "oracle": "ok" })
        );
    } else {
        for (name, us) in lines {
            sayln!("{name:<12}{us:>8.3} µs of processor time per event");
        }
        sayln!(
            "{:.0} bytes per event in [usage], {:.0} in [rated]; the sums are right",
            bytes(&blocks.messages),
            bytes(&rated.messages)
        );
    }
    Ok(ExitCode::SUCCESS)
}
