//! The ledger-writer's work without the log: rated batches in memory become windows in Postgres, whose
//! running totals are compared with the account. Beside it the same usage as one posts it first: a
//! row per line of an event, and its total beside it.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use benches::{
    account::{Account, INPUT_METER, MODELS, OUTPUT_METER, lines},
    generator::{Fate, Generator, team_name},
};
use bytes::Bytes;
use domain::chain::Place;
use ledger::{
    account::Book,
    post::{self, Standing},
    seal::GENESIS,
};
use ledger_writer::window::Window;
use runtime::postgres;
use sqlx::PgConnection;

use super::{database, used::Used};
use crate::{
    config::Config,
    process,
    store::{self, plain::Line},
};

/// Events whose rows are committed together, as a request's.
const ROWS_TOGETHER: u64 = 100;

/// What posting took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Posted {
    /// Teams, meters and windows: rows of running totals that were written.
    pub totals: u64,
    /// Windows, a transaction each.
    pub windows: u64,
    /// Processor time.
    pub used: Used,
}

/// A database of its own on a server.
pub struct Ledger {
    config: Config,
    connection: PgConnection,
    server: u32,
}

impl Ledger {
    /// Makes it on the server behind `url`, whose process is `server`.
    pub async fn make(url: &str, server: u32) -> Result<Ledger> {
        let config = database::make(url, 1).await?;
        let connection = process::sign_in(&config.postgres.url).await?;
        Ok(Ledger { config, connection, server })
    }

    /// Posts rated batches, `together` of them in one window, and compares the totals.
    pub async fn post(
        &mut self,
        messages: &[Bytes],
        together: usize,
        account: &Account,
    ) -> Result<Posted> {
        let key = self.config.ledger_writer.key().context("an audit key")?;
        let pool = postgres::connect(&self.config.postgres, None, "weir-bench").await?;
        let (before, mut posted) = (Used::now(self.server), Posted::default());
        let mut book = Book::default();
        let (place, catalog_version) = (Place::EMPTY, 0);
        let mut standing = Standing { place, catalog_version, head: GENESIS, settle_seq: 0 };
        for (first, group) in (0..).step_by(together).zip(messages.chunks(together)) {
            let mut window = Window::new(0, standing.place, standing.catalog_version);
            for (position, message) in (first..).zip(group) {
                ensure!(window.offer(position, message)?, "batch {position} continues the chain");
            }
            let posting = window.posting();
            posted.totals += u64::try_from(posting.usage.len())?;
            posted.windows += 1;
            standing =
                post::post(&pool, &key, &mut book, (standing.head, standing.settle_seq), &posting)
                    .await?
                    .standing;
        }
        pool.close().await;
        posted.used = before.until_now(self.server);
        let difference =
            account.first_difference(&store::books::totals(&mut self.connection).await?);
        ensure!(difference.is_none(), "the totals are wrong: {difference:?}");
        Ok(posted)
    }

    /// Writes the first `events` of a generator one by one.
    pub async fn one_by_one(&mut self, generator: &Generator, events: u64) -> Result<Posted> {
        store::plain::make(&mut self.connection).await?;
        let (before, mut posted) = (Used::now(self.server), Posted::default());
        let pool = postgres::connect(&self.config.postgres, None, "weir-bench").await?;
        for from in (0..events).step_by(usize::try_from(ROWS_TOGETHER)?) {
            let numbers = from..from.saturating_add(ROWS_TOGETHER).min(events);
            let rows = plain_lines(generator, numbers)?;
            store::plain::add(&pool, &rows).await?;
            posted.totals += u64::try_from(rows.len())?;
            posted.windows += 1;
        }
        pool.close().await;
        posted.used = before.until_now(self.server);
        Ok(posted)
    }
}

/// The lines of the events that are rated.
pub fn plain_lines(generator: &Generator, numbers: Range<u64>) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    for number in numbers.filter(|number| generator.fate(*number) == Fate::Rated) {
        let call = generator.call(number);
        let model = MODELS.get(call.model).context("a model")?;
        let found = lines(model, call.input, call.output);
        all.extend([INPUT_METER, OUTPUT_METER].into_iter().zip(found).map(|(meter, line)| Line {
            number,
            team: team_name(call.team),
            meter,
            amounts: [line.quantity, line.charge, line.cost].map(|raw| raw.to_string()),
        }));
    }
    Ok(all)
}
