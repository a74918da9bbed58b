//! A process per role on Kafka: the log is counted there as it is beside a `weir up`.

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, Executor as _};
use tests::{broker::Broker, seed::Moments, system::System};

use super::{SETTINGS, SMALL_TABLE, Said, add_books, books::change_count};

#[tokio::test]
async fn on_kafka_a_changed_count_is_found_by_the_log() -> Result<()> {
    let mut moments = Moments::new("verify-kafka");
    let broker = Broker::start()?;
    let settings = [&SETTINGS[1..], &SMALL_TABLE].concat();
    let system = System::kafka_with(&broker, 3, &settings).await?;
    add_books(&system, &mut moments, 3).await?;
    let arguments = ["--sample", "100000"];
    let said = Said::of(&system.folder(), &arguments, system.settings()).await?;
    ensure!(said.holds()?.looked_at("the log")? > 0, "{}", said.document);

    let mut connection = system.postgres().await?;
    connection.execute("CREATE TABLE audit_kept AS TABLE audit").await?;
    let name = change_count(&mut connection).await?;
    let said = Said::of(&system.folder(), &arguments, system.settings()).await?;
    ensure!(said.names(&name)?.check("the log")?["bad"] == 1, "{}", said.document);

    let back = "UPDATE audit a SET counts = k.counts FROM audit_kept k WHERE (a.partition, a.position_to) = (k.partition, k.position_to)";
    connection.execute(AssertSqlSafe(back)).await?;
    // Where the lane says it is, the log has nothing.
    connection
        .execute("UPDATE late_places SET x = x + 1000, r = r + 1000 WHERE partition = 1")
        .await?;
    let said = Said::of(&system.folder(), &arguments, system.settings()).await?;
    let log = said.names("partition 1: the place of the slow lane")?.check("the log")?;
    ensure!(log["bad"] == 1, "{}", said.document);
    Ok(())
}
