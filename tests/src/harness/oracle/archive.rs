//! Event by event, in the archive: one effect, the right one, of everything that was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result};
use benches::{account::Sums, generator::team_name};
use serde_json::Value;

use super::{Differences, Oracle};
use crate::{
    harness::expected::{Event, Expected},
    system::{amount, integer},
};

/// Events of a page, about.
const PAGE_EVENTS: usize = 50_000;
const EFFECTS: &str = "SELECT event_id, toString(any(tenant_id)) AS tenant, any(team) AS team, \
    uniqExact((partition, position, `index`)) AS places, toString(min(card_version)) AS version, toString(max(card_version)) AS last_version, \
    toString(sumIf(sign, meter = 'llm_input_tokens')) AS events_0, toString(sumIf(sign, meter = 'llm_output_tokens')) AS events_1, \
    toString(sumIf(quantity * sign, meter = 'llm_input_tokens')) AS quantity_0, toString(sumIf(quantity * sign, meter = 'llm_output_tokens')) AS quantity_1, \
    toString(sumIf(charge * sign, meter = 'llm_input_tokens')) AS charge_0, toString(sumIf(charge * sign, meter = 'llm_output_tokens')) AS charge_1, \
    toString(sumIf(cost * sign, meter = 'llm_input_tokens')) AS cost_0, toString(sumIf(cost * sign, meter = 'llm_output_tokens')) AS cost_1 \
    FROM usage_lines WHERE startsWith(event_id, 'call-') AND cityHash64(event_id) % {pages:UInt64} = {page:UInt64} GROUP BY event_id";
/// First and last places of each version of a tenant's prices, in each partition.
const VERSIONS: &str = "SELECT toString(tenant_id) AS tenant, partition, card_version, \
    tupleElement(min((position, `index`)) AS first, 1) AS first_position, tupleElement(first, 2) AS first_index, \
    tupleElement(max((position, `index`)) AS last, 1) AS last_position, tupleElement(last, 2) AS last_index \
    FROM usage_lines WHERE startsWith(event_id, 'call-') GROUP BY tenant_id, partition, card_version \
    ORDER BY tenant_id, partition, card_version";
const OTHERS: &str = "SELECT event_id, toString(outcome) AS outcome FROM rejected_events \
    WHERE startsWith(event_id, 'call-') AND outcome != 'duplicate' GROUP BY event_id, outcome";

impl Oracle<'_> {
    /// INV-01, INV-02, INV-03, INV-08, INV-12 and INV-18: every event has its one effect, to the last
    /// decimal. Answers the version of the prices that each was charged by.
    pub(super) async fn archived_events(
        &self,
        expected: &Expected,
        differences: &mut Differences,
    ) -> Result<HashMap<String, u32>> {
        let pages = expected.rated.len() / PAGE_EVENTS + 1;
        let mut found = HashMap::new();
        for page in 0..pages {
            let (pages, page) = (pages.to_string(), page.to_string());
            let parameters = [("pages", pages.as_str()), ("page", page.as_str())];
            for row in self.system.clickhouse().query_json_rows(EFFECTS, &parameters).await? {
                let id = row["event_id"].as_str().context("an event without an id")?;
                match expected.rated.get(id) {
                    Some(event) => self.effect(event, &row, differences)?,
                    None => differences.other("INV-03", || format!("nobody sent {row}")),
                }
                found.insert(id.to_owned(), u32::try_from(integer(&row["version"])?)?);
            }
        }
        for (id, event) in expected.rated.iter().filter(|(id, _)| !found.contains_key(*id)) {
            differences.lost += 1;
            differences.tell(|| format!("INV-01: {id} is lost: {}", self.history_of(event)));
        }
        self.other_outcomes(expected, differences).await?;
        self.versions(differences).await?;
        Ok(found)
    }

    /// INV-18: each version of the prices is used, and none after a newer one, in the order of the log.
    async fn versions(&self, differences: &mut Differences) -> Result<()> {
        let (mut used, mut last) = (BTreeSet::new(), BTreeMap::new());
        for row in self.system.clickhouse().query_json_rows(VERSIONS, &[]).await? {
            let place = |of: &str| {
                let position = integer(&row[format!("{of}_position")])?;
                Ok::<_, anyhow::Error>((position, integer(&row[format!("{of}_index")])?))
            };
            let partition = (row["tenant"].to_string(), row["partition"].to_string());
            let older = last.insert(partition, place("last")?);
            if older.is_some_and(|older| Some(older) >= place("first").ok()) {
                differences.other("INV-18", || format!("an older price after {older:?}: {row}"));
            }
            used.insert(integer(&row["card_version"])?);
        }
        if used != (1..=i128::from(self.prices)).collect() {
            differences.other("INV-18", || format!("{} prices, used: {used:?}", self.prices));
        }
        Ok(())
    }

    fn effect(&self, event: &Event, row: &Value, differences: &mut Differences) -> Result<()> {
        let line = |number: u32| {
            let field = |name: &str| &row[format!("{name}_{number}")];
            Ok::<_, anyhow::Error>(Sums {
                events: i64::try_from(integer(field("events"))?)?,
                quantity: amount(field("quantity"))?,
                charge: amount(field("charge"))?,
                cost: amount(field("cost"))?,
            })
        };
        let lines = [line(0)?, line(1)?];
        if integer(&row["places"])? != 1 || lines.iter().any(|line| line.events > 1) {
            differences.doubled += 1;
            differences.tell(|| format!("INV-02: two effects: {row}: {}", self.history_of(event)));
            return Ok(());
        }
        let owner = (self.tenants[event.tenant].id.to_string(), team_name(event.call.team));
        if (row["tenant"].as_str(), row["team"].as_str()) != (Some(&owner.0), Some(&owner.1)) {
            differences.other("INV-03", || {
                format!("{row} is not of {owner:?}: {}", self.history_of(event))
            });
        }
        let version = u32::try_from(integer(&row["version"])?)?;
        if row["version"] != row["last_version"] || !(1..=self.prices).contains(&version) {
            differences.other("INV-18", || format!("{row} has other prices than were published"));
        } else if lines != event.lines(version) {
            differences.other("INV-08", || {
                format!("{row}, expected {:?}: {}", event.lines(version), self.history_of(event))
            });
        }
        Ok(())
    }

    /// Events that must be rejected are, and other content under the same id is a conflict.
    async fn other_outcomes(
        &self,
        expected: &Expected,
        differences: &mut Differences,
    ) -> Result<()> {
        let mut outcomes = BTreeMap::<String, BTreeSet<String>>::new();
        for row in self.system.clickhouse().query_json_rows(OTHERS, &[]).await? {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            outcomes.entry(text("outcome")).or_default().insert(text("event_id"));
        }
        let rejected = outcomes.remove("rejected").unwrap_or_default();
        for id in rejected.symmetric_difference(&expected.rejected) {
            differences.other("INV-15", || format!("{id} is rejected, or is not, wrongly"));
        }
        let conflicts = outcomes.remove("conflict").unwrap_or_default();
        for id in conflicts.symmetric_difference(&expected.conflicts) {
            differences.other("INV-03", || format!("{id} is a conflict, or is not, wrongly"));
        }
        Ok(())
    }
}
