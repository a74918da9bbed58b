//! Corrections in the archive: each takes back exactly what the event came to before it, line by line, and
//! none does so twice. What it books instead stands beside what it takes back.

use runtime::clickhouse::ClickHouse;

use super::{
    Check, VerifyError,
    compare::{number, text},
};

/// What a reversal must repeat of the row that it takes back.
const LINES: &str = "sipHash64(toString(lines.meter), toString(lines.unit), toString(lines.quantity), toString(lines.status), toString(lines.card),
    toString(lines.card_version), toString(lines.currency), toString(lines.charge), toString(lines.cost_card),
    toString(lines.cost_card_version), toString(lines.cost_currency), toString(lines.cost), toString(lines.total_before))";

/// Looks at every correction.
pub async fn check(clickhouse: &ClickHouse) -> Result<Check, VerifyError> {
    let mut check = Check::new("corrections");
    let all = format!(
        "SELECT DISTINCT partition, origin_position AS of_position, origin_index AS of_index, rating_run AS run, sign, position, `index` AS place,
             {LINES} AS said
         FROM usage_events WHERE rating_run > 0"
    );
    let first = format!(
        "SELECT DISTINCT partition, position AS of_position, `index` AS of_index, toUInt32(0) AS run, {LINES} AS said FROM usage_events
         WHERE rating_run = 0 AND sign = 1 AND (partition, position, `index`) IN (
             SELECT partition, origin_position, origin_index FROM usage_events WHERE rating_run > 0)"
    );
    let faults = [
        (
            "takes back something else than the event came to",
            format!(
                "SELECT back.partition AS partition, back.position AS position, back.place AS place FROM ({all}) AS back
                 LEFT ANTI JOIN (
                     SELECT partition, of_position, of_index, run + 1 AS next, said FROM (
                         SELECT partition, of_position, of_index, run, said FROM ({all}) WHERE sign = 1 UNION ALL {first})) AS came
                 ON back.partition = came.partition AND back.of_position = came.of_position AND back.of_index = came.of_index
                     AND back.run = came.next AND back.said = came.said
                 WHERE back.sign = -1"
            ),
        ),
        (
            "takes back what another takes back as well",
            format!(
                "SELECT partition, newest.1 AS position, newest.2 AS place FROM (
                     SELECT partition, max((position, place)) AS newest FROM ({all}) WHERE sign = -1
                     GROUP BY partition, of_position, of_index, run HAVING count() > 1)"
            ),
        ),
        (
            "takes nothing back",
            format!(
                "SELECT partition, position, place FROM ({all}) WHERE sign = 1 AND (partition, position, place, run) NOT IN (
                     SELECT partition, position, place, run FROM ({all}) WHERE sign = -1)"
            ),
        ),
    ];
    let sql = format!("SELECT toString(count()) AS corrections FROM ({all}) WHERE sign = -1");
    for row in clickhouse.query_json_rows(&sql, &[]).await? {
        check.rows = number(&row, "corrections")?;
    }
    for (what, sql) in faults {
        let sql = format!(
            "WITH min((partition, position, place)) AS first
             SELECT toString(count()) AS faults, concat(toString(first.1), ':', toString(first.2), ':', toString(first.3)) AS first_place
             FROM ({sql})"
        );
        for row in clickhouse.query_json_rows(&sql, &[]).await? {
            let place = text(&row, "first_place")?;
            check.blame_all(number(&row, "faults")?, || format!("the correction {place} {what}"));
        }
    }
    Ok(check)
}
