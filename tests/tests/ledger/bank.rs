//! A wallet with a ledger-writer behind it, and what the tests of wallets do with both.

use anyhow::{Context as _, Result};
use domain::wallet::GrantKind;
use ledger::{
    hold::{self, Decided, NewHold, SettleBy},
    wallet::{self, NewGrant, NewWallet, Wallet},
};
use runtime::{
    log::Topic,
    postgres::{Pool, PostgresError, scoped},
};
use sqlx::{AssertSqlSafe, Executor as _, raw_sql};
use tests::wait::eventually;
use uuid::Uuid;

use crate::world::{Line, ONE, Outcomes, Rater, TENANT, World, Writer, config};

/// A wallet of team `a` in EUR, and what is needed to move money.
pub(crate) struct Bank {
    pub world: World,
    pub api: Pool,
    pub writer: Option<Writer>,
    pub rater: Rater,
    pub wallet: Uuid,
}

impl Bank {
    pub(crate) async fn start() -> Result<Bank> {
        Bank::with_limit(0).await
    }

    pub(crate) async fn with_limit(credit_limit: i128) -> Result<Bank> {
        let world = World::start().await?;
        let api = world.pool("weir_api").await?;
        let writer = Some(world.writer(config(20)));
        let mut bank = Bank { world, api, writer, rater: Rater::new(0), wallet: Uuid::nil() };
        bank.wallet = bank.create("a", credit_limit).await?;
        Ok(bank)
    }

    pub(crate) async fn create(&self, team: &str, credit_limit: i128) -> Result<Uuid> {
        let made = scoped(&self.api, TENANT, |mut connection| async move {
            sqlx::query("INSERT INTO teams (tenant_id, team, origin) VALUES ($1, $2, 'registered') ON CONFLICT DO NOTHING")
                .bind(TENANT)
                .bind(team)
                .execute(&mut *connection)
                .await?;
            let (currency, partition, mode) = ("EUR", 0, "credits_then_invoice");
            let new = NewWallet { tenant: TENANT, team, currency, partition, mode, credit_limit };
            wallet::create(&mut connection, &new).await
        });
        Ok(made.await?)
    }

    /// Runs with the wallet locked.
    pub(crate) async fn locked<T>(
        &self,
        body: impl AsyncFn(&mut sqlx::PgConnection, &mut Wallet) -> Result<T, PostgresError>,
    ) -> Result<T> {
        let mut connection = self.api.acquire().await?;
        let begin = format!("BEGIN; SELECT set_config('app.tenant', '{TENANT}', true)");
        connection.execute(raw_sql(AssertSqlSafe(begin))).await?;
        let wallet = wallet::lock(&mut connection, TENANT, self.wallet).await?;
        let done = body(&mut connection, &mut wallet.context("a wallet")?).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        connection.execute(end).await?;
        Ok(done?)
    }

    pub(crate) async fn grant(&self, new: &NewGrant<'_>) -> Result<Uuid> {
        self.locked(async |connection, wallet| {
            let now_us = wallet::now_us(connection).await?;
            wallet::grant(connection, wallet, new, now_us).await
        })
        .await
    }

    /// A grant that was paid for, of so many EUR.
    pub(crate) async fn paid(&self, amount: i128) -> Result<Uuid> {
        let id = Uuid::now_v7().to_string();
        self.grant(&NewGrant { source_id: &id, ..grant(amount * ONE) }).await
    }

    pub(crate) async fn hold(&self, amount: i128, life_ms: i64) -> Result<Decided> {
        let asked = [new_hold(None, amount * ONE, life_ms)];
        let mut connection = self.api.acquire().await?;
        let decided = hold::place(&mut connection, TENANT, self.wallet, &asked).await?;
        decided.into_iter().next().context("a decision")
    }

    /// Usage of team `a`, appended to both topics: the blocks that it is of, and what was rated.
    pub(crate) async fn usage(&mut self, lines: &[Line]) -> Result<()> {
        for _ in 0..2 {
            let block = vec![0_u8; 8];
            self.world.log.append(Topic("usage"), 0, block.into()).outcome().await?;
        }
        self.rater.append(&self.world.log, lines, &Outcomes::default()).await?;
        Ok(())
    }

    /// Blocks that nobody has rated yet: the log goes on, posting does not.
    pub(crate) async fn unrated(&self) -> Result<()> {
        for _ in 0..2 {
            self.world.log.append(Topic("usage"), 0, vec![0_u8; 8].into()).outcome().await?;
        }
        Ok(())
    }

    /// Rates what [`Bank::unrated`] appended.
    pub(crate) async fn rate(&mut self, lines: &[Line]) -> Result<()> {
        self.rater.append(&self.world.log, lines, &Outcomes::default()).await?;
        Ok(())
    }

    /// Balance, held and debt of the wallet, in EUR.
    pub(crate) async fn stands(&self) -> Result<(String, String, String)> {
        let pool = self.world.pool("weir_reader").await?;
        let row = sqlx::query_as(
            "SELECT trim_scale(balance)::text, trim_scale(held)::text, trim_scale(debt)::text FROM wallets WHERE wallet_id = $1",
        )
        .bind(self.wallet)
        .fetch_one(&pool)
        .await?;
        Ok(row)
    }

    pub(crate) async fn becomes(&self, balance: &str, held: &str, debt: &str) -> Result<()> {
        let wanted = (balance.to_owned(), held.to_owned(), debt.to_owned());
        let waited =
            eventually(&format!("{wanted:?}"), async || Ok(self.stands().await? == wanted)).await;
        waited.with_context(|| format!("wanted {wanted:?}"))
    }

    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let pool = self.world.pool("weir_reader").await?;
        let text: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&pool).await?;
        Ok(text.unwrap_or_default())
    }

    /// Stops the ledger-writer, and everything must add up.
    pub(crate) async fn end(mut self) -> Result<World> {
        if let Some(writer) = self.writer.take() {
            writer.stop().await?;
        }
        self.world.check_books().await?;
        self.world.check_wallets().await?;
        Ok(self.world)
    }
}

pub(crate) fn grant(amount: i128) -> NewGrant<'static> {
    NewGrant {
        kind: GrantKind::Paid,
        priority: 50,
        name: "",
        amount,
        meters: &[],
        starts_us: None,
        expires_us: None,
        source: "test",
        source_id: "1",
    }
}

pub(crate) fn new_hold(key: Option<&str>, amount: i128, life_ms: i64) -> NewHold {
    NewHold {
        hold: Uuid::now_v7(),
        key: key.map(str::to_owned),
        request_hash: [1; 32],
        amount,
        life_ms,
        settle_by: SettleBy::Usage,
        meters: Vec::new(),
    }
}

pub(crate) fn line(amount: i128) -> Line {
    Line::new("a", "tokens", amount * ONE)
}

pub(crate) fn of_hold(amount: i128, hold: Uuid) -> Line {
    Line { hold: Some(hold), ..line(amount) }
}
