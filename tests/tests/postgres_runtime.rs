//! The private server, the pool and the transaction helper on a real Postgres.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use runtime::{
    config::{PostgresConfig, Secret},
    postgres::{
        Pool, PostgresError, connect, scoped,
        server::{KeptServer, Server, ServerError, ServerOptions},
        transaction,
    },
    task,
};
use sqlx::{Executor as _, PgConnection, Row as _, raw_sql};
use tests::{
    nobody::Nobody,
    postgres::{TestFolder, TestPostgres},
};
use uuid::Uuid;

async fn count(pool: &Pool) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(pool).await?)
}

async fn things(postgres: &TestPostgres, name: &str) -> Result<(Secret, Pool)> {
    let url = postgres.database(name).await?;
    let pool = postgres.pool(&url, None, 4).await?;
    pool.execute("CREATE TABLE things (id int PRIMARY KEY, value int NOT NULL CHECK (value >= 0))")
        .await?;
    Ok((url, pool))
}

async fn insert(connection: &mut PgConnection, id: i32) -> Result<(), PostgresError> {
    sqlx::query("INSERT INTO things VALUES ($1, 0)").bind(id).execute(connection).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_and_kill_keep_what_was_committed() -> Result<()> {
    let mut postgres = TestPostgres::start().await?;
    let (_, pool) = things(&postgres, "kept").await?;
    let port = postgres.server()?.port();
    transaction(&pool, |mut tx| async move { insert(&mut tx, 1).await }).await?;
    pool.close().await;

    let started = Instant::now();
    postgres.stop().await?;
    postgres.start_again().await?;
    assert!(started.elapsed() < Duration::from_secs(30), "took {:?}", started.elapsed());
    assert_eq!(postgres.server()?.port(), port, "the port is kept");
    let url = postgres.server()?.superuser_url_of("kept");
    let pool = postgres.pool(&url, None, 2).await?;
    assert_eq!(count(&pool).await?, 1);

    transaction(&pool, |mut tx| async move { insert(&mut tx, 2).await }).await?;
    // A session in the middle of something must not keep the next start from working.
    let mut busy = pool.acquire().await?;
    busy.execute("BEGIN").await?;
    insert(&mut busy, 3).await?;
    let error = {
        postgres.kill_and_restart().await?;
        PostgresError::from(insert_plain(&mut busy).await.unwrap_err())
    };
    assert!(matches!(error, PostgresError::Unavailable(_)), "{error:?}");
    drop(busy);
    let pool = postgres.pool(&url, None, 2).await?;
    assert_eq!(count(&pool).await?, 2);
    let durable: String =
        sqlx::query_scalar("SELECT current_setting('fsync') || current_setting('data_checksums')")
            .fetch_one(&pool)
            .await?;
    assert_eq!(durable, "onon");
    Ok(())
}

async fn insert_plain(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO things VALUES (4, 0)").execute(connection).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_below_one_of_mode_0700_works_and_belongs_to_one_server() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TestFolder::new("parent")?;
    let data = folder.path().join("deep").join("data");
    let options = ServerOptions { shared_buffers_mb: 16, ..ServerOptions::new(&data) };
    let server = Server::start(options.clone()).await?;
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).map(|file| file.permissions().mode() & 0o777)
    };
    assert_eq!(mode(folder.path())?, 0o700);
    assert_eq!(mode(&data.join("password"))?, 0o600);

    let second = Server::start(options.clone()).await;
    assert!(matches!(second, Err(ServerError::InUse(_))), "{second:?}");
    assert!(server.is_running(), "the second start left the first server alone");

    let wrong = server.url("postgres", "wrong", "postgres");
    let refused = connect(&PostgresConfig { url: wrong, connections: 1 }, None, "test").await;
    assert!(
        matches!(refused, Err(PostgresError::Refused { ref code, .. }) if code == "28P01"),
        "{refused:?}"
    );
    let pid = server.pid();
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a dropped server ends");
    Server::start(options).await?.stop().await?;
    Ok(())
}

/// A kept server comes back on the same folder and port, however often it dies, and stops when told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_server_is_started_again() -> Result<()> {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let folder = TestFolder::new("kept")?;
    let options = ServerOptions { shared_buffers_mb: 16, ..ServerOptions::new(folder.path()) };
    let server = KeptServer::start(options.clone()).await?;
    let url = server.superuser_url();
    let pool = connect(&PostgresConfig { url, connections: 2 }, None, "test").await?;
    pool.execute("CREATE TABLE things (id int PRIMARY KEY, value int NOT NULL)").await?;
    let mut running = server.running();
    for round in 1..=3 {
        transaction(&pool, |mut tx| async move { insert(&mut tx, round).await }).await?;
        let pid = running.borrow_and_update().context("it does not run")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        running.wait_for(|now| now.is_some_and(|now| now != pid)).await?;
        let deadline = Instant::now() + Duration::from_secs(30);
        // The pool's connections died with the server; it makes new ones.
        while count(&pool).await.is_err() {
            assert!(Instant::now() < deadline, "no connection after the restart");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count(&pool).await?, i64::from(round));
    }
    server.stop().await;
    assert!(count(&pool).await.is_err(), "it still runs");
    Server::start(options).await?.stop().await?;
    Ok(())
}

/// The process that holds the server is killed: the server goes too, and the next start works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_does_not_outlive_its_killed_parent() -> Result<()> {
    use std::io::{BufRead as _, BufReader};
    let folder = TestFolder::new("orphan")?;
    let mut holder = std::process::Command::new(env!("CARGO_BIN_EXE_postgres_holder"))
        .arg(folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(holder.stdout.take().context("no output")?).lines();
    let pid: u32 = lines.next().context("the holder ended")??.parse()?;
    let url = Secret::new(lines.next().context("the holder ended")??);
    let pool = connect(&PostgresConfig { url, connections: 2 }, None, "test").await?;
    pool.execute("CREATE TABLE things (id int)").await?;
    // A session that holds a transaction open does not keep the server alive either.
    let mut open = pool.acquire().await?;
    open.execute("BEGIN; LOCK TABLE things").await?;
    holder.kill()?;
    holder.wait()?;

    let started = Instant::now();
    let options = ServerOptions { shared_buffers_mb: 16, ..ServerOptions::new(folder.path()) };
    let server = Server::start(options).await?;
    assert!(started.elapsed() < Duration::from_secs(40), "took {:?}", started.elapsed());
    assert!(
        // Nobody may have collected it yet; a zombie has no working folder.
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_err(),
        "the old one still runs"
    );
    let config = PostgresConfig { url: server.superuser_url(), connections: 1 };
    let pool = connect(&config, None, "test").await?;
    assert_eq!(count(&pool).await?, 0);
    server.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions() -> Result<()> {
    let postgres = TestPostgres::start().await?;
    commit_and_rollback(&postgres).await?;
    cancelled_transactions_leave_nothing_open(&postgres).await?;
    contention_is_retried(&postgres).await?;
    roles_and_scopes(&postgres).await?;
    errors_are_classified(&postgres).await?;
    migrations_run_once(&postgres).await?;
    Ok(())
}

async fn commit_and_rollback(postgres: &TestPostgres) -> Result<()> {
    let (_, pool) = things(postgres, "commit").await?;
    let refused: Result<(), PostgresError> = transaction(&pool, |mut tx| async move {
        insert(&mut tx, 1).await?;
        Err(PostgresError::NotFound)
    })
    .await;
    assert_eq!(refused, Err(PostgresError::NotFound));
    assert_eq!(count(&pool).await?, 0);
    // As a handler calls it: from a task that outlives the caller's own future.
    let shared = pool.clone();
    let work = task::to_completion(async move {
        let id = 7;
        transaction(&shared, |mut tx| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            insert(&mut tx, id).await
        })
        .await
    });
    assert!(tokio::time::timeout(Duration::from_millis(10), work).await.is_err());
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&pool).await? == 0 {
        assert!(Instant::now() < deadline, "the transaction did not complete");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The leak of sqlx 0.9.0: `begin` cancelled in the middle leaves the session in a transaction.
async fn cancelled_transactions_leave_nothing_open(postgres: &TestPostgres) -> Result<()> {
    let url = postgres.database("cancelled").await?;
    let pool = postgres.pool(&url, None, 1).await?;
    let (mut cancelled, mut left_open) = (0, 0);
    for round in 0..400_u32 {
        let body = transaction(&pool, |mut tx| async move {
            tx.execute("SELECT 1").await.map_err(PostgresError::from)
        });
        if poll_times(1 + round % 10, body).await.is_some() {
            continue;
        }
        cancelled += 1;
        // The next borrower of the one connection: a transaction that is open began before.
        // (As one simple query, because each step of an extended one has a time of its own.)
        let row = pool
            .fetch_one(raw_sql("SELECT transaction_timestamp() = statement_timestamp()"))
            .await?;
        let fresh: bool = row.try_get(0)?;
        left_open += u32::from(!fresh);
    }
    assert!(cancelled > 50, "only {cancelled} were cancelled");
    assert_eq!(left_open, 0, "of {cancelled} cancelled, sessions left in a transaction");
    Ok(())
}

/// Polls `future` so many times, then drops it, as a server does at any of its awaits.
async fn poll_times<T>(times: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = future.as_mut().poll(context).map(Some);
        if polled.is_pending() && left == 0 {
            context.waker().wake_by_ref();
        }
        polled
    })
    .await
}

async fn contention_is_retried(postgres: &TestPostgres) -> Result<()> {
    let (_, pool) = things(postgres, "contended").await?;
    pool.execute("INSERT INTO things VALUES (1, 0)").await?;
    let runs = Arc::new(AtomicU32::new(0));
    let mut adders = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (pool, runs) = (pool.clone(), Arc::clone(&runs));
        adders.spawn(task::to_completion(async move {
            for _ in 0..5 {
                let runs = &runs;
                transaction(&pool, |mut tx| async move {
                    runs.fetch_add(1, Ordering::Relaxed);
                    tx.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
                    let read: i32 = sqlx::query_scalar("SELECT value FROM things WHERE id = 1")
                        .fetch_one(&mut *tx)
                        .await?;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    sqlx::query("UPDATE things SET value = $1 WHERE id = 1")
                        .bind(read + 1)
                        .execute(&mut *tx)
                        .await?;
                    Ok::<_, PostgresError>(())
                })
                .await?;
            }
            Ok::<_, PostgresError>(())
        }));
    }
    while let Some(ended) = adders.join_next().await {
        ended???;
    }
    let value: i32 = sqlx::query_scalar("SELECT value FROM things").fetch_one(&pool).await?;
    assert_eq!(value, 15, "no update was lost");
    assert!(runs.load(Ordering::Relaxed) > 15, "nothing was in the way of anything");

    // What never stops failing is given up after a bounded number of runs.
    runs.store(0, Ordering::Relaxed);
    let runs = &runs;
    let hopeless: Result<(), PostgresError> = transaction(&pool, |mut tx| async move {
        runs.fetch_add(1, Ordering::Relaxed);
        tx.execute("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$").await?;
        Ok(())
    })
    .await;
    assert!(matches!(hopeless, Err(PostgresError::Contended(_))), "{hopeless:?}");
    assert_eq!(runs.load(Ordering::Relaxed), 6);
    Ok(())
}

async fn roles_and_scopes(postgres: &TestPostgres) -> Result<()> {
    let (url, owner) = things(postgres, "scopes").await?;
    owner
        .execute(raw_sql(
            "CREATE ROLE reader_of_things; \
             CREATE TABLE owned (tenant_id uuid NOT NULL, name text NOT NULL); \
             ALTER TABLE owned ENABLE ROW LEVEL SECURITY; ALTER TABLE owned FORCE ROW LEVEL SECURITY; \
             CREATE POLICY own ON owned \
               USING (tenant_id = nullif(current_setting('app.tenant', true), '')::uuid); \
             GRANT SELECT, INSERT ON owned TO reader_of_things;",
        ))
        .await?;
    let pool = postgres.pool(&url, Some("reader_of_things"), 1).await?;
    let user: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&pool).await?;
    assert_eq!(user, "reader_of_things");
    let session: (String, String, String, String) = sqlx::query_as(
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), \
                current_setting('idle_in_transaction_session_timeout'), current_setting('timezone')",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(session, ("20s".into(), "5s".into(), "5s".into(), "UTC".into()));
    let refused = pool.execute("INSERT INTO things VALUES (1, 0)").await.unwrap_err();
    assert!(matches!(refused.into(), PostgresError::Refused { ref code, .. } if code == "42501"));

    let (ours, theirs) = (Uuid::now_v7(), Uuid::now_v7());
    for tenant in [ours, theirs] {
        scoped(&pool, tenant, |mut tx| async move {
            sqlx::query("INSERT INTO owned VALUES ($1, 'a')")
                .bind(tenant)
                .execute(&mut *tx)
                .await?;
            Ok::<_, PostgresError>(())
        })
        .await?;
    }
    let seen = scoped(&pool, ours, |mut tx| async move {
        Ok::<_, PostgresError>(
            sqlx::query_scalar::<_, Uuid>("SELECT tenant_id FROM owned")
                .fetch_all(&mut *tx)
                .await?,
        )
    })
    .await?;
    assert_eq!(seen, [ours]);
    // One connection in the pool: the same session, after the scope, sees nothing.
    let after: i64 = sqlx::query_scalar("SELECT count(*) FROM owned").fetch_one(&pool).await?;
    assert_eq!(after, 0, "the scope outlived its transaction");
    let config = PostgresConfig { url, connections: 1 };
    let injected = connect(&config, Some("x\"; DROP TABLE things; --"), "test").await;
    assert!(matches!(injected, Err(PostgresError::Broken(_))), "{injected:?}");
    Ok(())
}

async fn errors_are_classified(postgres: &TestPostgres) -> Result<()> {
    let (url, pool) = things(postgres, "errors").await?;
    pool.execute("INSERT INTO things VALUES (1, 0)").await?;
    let failure =
        async |sql: &'static str| -> PostgresError { pool.execute(sql).await.unwrap_err().into() };
    assert_eq!(
        failure("INSERT INTO things VALUES (1, 0)").await,
        PostgresError::Conflict("things_pkey".into())
    );
    assert_eq!(
        failure("INSERT INTO things VALUES (2, -1)").await,
        PostgresError::Violation("things_value_check".into())
    );
    assert_eq!(
        failure("INSERT INTO things VALUES (2, NULL)").await,
        PostgresError::Violation("value".into())
    );
    let unknown = failure("SELECT * FROM nothing").await;
    assert!(
        matches!(unknown, PostgresError::Refused { ref code, .. } if code == "42P01"),
        "{unknown:?}"
    );
    let none = sqlx::query("SELECT 1 WHERE false").fetch_one(&pool).await.unwrap_err();
    assert_eq!(PostgresError::from(none), PostgresError::NotFound);
    // Ended by an administrator.
    let ended = failure("SELECT pg_terminate_backend(pg_backend_pid())").await;
    assert!(matches!(ended, PostgresError::Unavailable(_)), "{ended:?}");
    let nobody = Nobody::new()?;
    let port = nobody.port()?;
    let nowhere = Secret::new(format!("postgres://a:b@127.0.0.1:{port}/c"));
    let away = connect(&PostgresConfig { url: nowhere, connections: 1 }, None, "test").await;
    assert!(matches!(away, Err(PostgresError::Unavailable(_))), "{away:?}");
    // Lost during COMMIT: nobody knows.
    let lost = transaction(&pool, |mut tx| async move {
        tx.execute(raw_sql(
            "CREATE TABLE late (id int PRIMARY KEY); \
                 CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS \
                   $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; \
                 CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION die(); \
                 INSERT INTO late VALUES (1);",
        ))
        .await?;
        Ok::<_, PostgresError>(())
    })
    .await;
    assert!(matches!(lost, Err(PostgresError::OutcomeUnknown(_))), "{lost:?}");
    // A statement failed and the body went on: that is no commit.
    let swallowed = transaction(&pool, |mut tx| async move {
        insert(&mut tx, 9).await?;
        let _ = tx.execute("SELECT 1 / 0").await;
        Ok::<_, PostgresError>(())
    })
    .await;
    assert!(
        matches!(swallowed, Err(PostgresError::Refused { ref code, .. }) if code == "25P02"),
        "{swallowed:?}"
    );
    assert_eq!(count(&pool).await?, 1);
    // Every connection taken: the pool says so instead of waiting for ever.
    let small = postgres.pool(&url, None, 1).await?;
    let _held = small.acquire().await?;
    let full = transaction(&small, |_| async { Ok::<_, PostgresError>(()) }).await;
    assert!(matches!(full, Err(PostgresError::Unavailable(_))), "{full:?}");
    Ok(())
}

async fn migrations_run_once(postgres: &TestPostgres) -> Result<()> {
    let url = postgres.database("migrated").await?;
    let folder = TestFolder::new("migrations")?;
    std::fs::write(folder.path().join("0001_one.sql"), "CREATE TABLE one (id int);")?;
    let migrator = sqlx::migrate::Migrator::new(folder.path()).await?;
    let (first, second) = tokio::join!(
        runtime::postgres::migrate(&url, &migrator),
        runtime::postgres::migrate(&url, &migrator)
    );
    first?;
    second?;
    std::fs::write(folder.path().join("0002_two.sql"), "CREATE TABLE two (id int); SELECT 1 / 0;")?;
    let migrator = sqlx::migrate::Migrator::new(folder.path()).await?;
    let failed = runtime::postgres::migrate(&url, &migrator).await;
    assert!(
        matches!(failed, Err(PostgresError::Broken(ref text)) if text.contains("migration 2")),
        "{failed:?}"
    );
    let pool = postgres.pool(&url, None, 1).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relname IN ('one', 'two') ORDER BY 1",
    )
    .fetch_all(&pool)
    .await?;
    assert_eq!(tables, ["one"], "a failed migration leaves nothing");
    Ok(())
}
