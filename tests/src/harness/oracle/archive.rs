//! Event by event, in the archive: one effect, the right one, of everything that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

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
    uniqExact((partition, position, `index`)) AS places, \
    toString(sumIf(sign, meter = 'llm_input_tokens')) AS events_0, toString(sumIf(sign, meter = 'llm_output_tokens')) AS events_1, \
    toString(sumIf(quantity * sign, meter = 'llm_input_tokens')) AS quantity_0, toString(sumIf(quantity * sign, meter = 'llm_output_tokens')) AS quantity_1, \
    toString(sumIf(charge * sign, meter = 'llm_input_tokens')) AS charge_0, toString(sumIf(charge * sign, meter = 'llm_output_tokens')) AS charge_1, \
    toString(sumIf(cost * sign, meter = 'llm_input_tokens')) AS cost_0, toString(sumIf(cost * sign, meter = 'llm_output_tokens')) AS cost_1 \
    FROM usage_lines WHERE startsWith(event_id, 'call-') AND cityHash64(event_id) % {pages:UInt64} = {page:UInt64} GROUP BY event_id";
const OTHERS: &str = "SELECT event_id, toString(outcome) AS outcome FROM rejected_events \
    WHERE startsWith(event_id, 'call-') AND outcome != 'duplicate' GROUP BY event_id, outcome";

impl Oracle<'_> {
    /// INV-01, INV-02, INV-03, INV-08, INV-12 and INV-18: every event has its one effect, to the last
    /// decimal.
    pub(super) async fn archived_events(
        &self,
        expected: &Expected,
        differences: &mut Differences,
    ) -> Result<()> {
        let pages = expected.rated.len() / PAGE_EVENTS + 1;
        let mut found = BTreeSet::new();
        for page in 0..pages {
            let (pages, page) = (pages.to_string(), page.to_string());
            let parameters = [("pages", pages.as_str()), ("page", page.as_str())];
            for row in self.system.clickhouse().query_json_rows(EFFECTS, &parameters).await? {
                let id = row["event_id"].as_str().context("an event without an id")?;
                match expected.rated.get(id) {
                    Some(event) => self.effect(event, &row, differences)?,
                    None => differences.other("INV-03", || format!("nobody sent {row}")),
                }
                found.insert(id.to_owned());
            }
        }
        for (id, event) in expected.rated.iter().filter(|(id, _)| !found.contains(*id)) {
            differences.lost += 1;
            differences.tell(|| format!("INV-01: {id} is lost: {}", self.history_of(event)));
        }
        self.other_outcomes(expected, differences).await
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
        let owner = (self.tenants[event.tenant].id.to_string(), team_name(event.team));
        if (row["tenant"].as_str(), row["team"].as_str()) != (Some(&owner.0), Some(&owner.1)) {
            differences.other("INV-03", || {
                format!("{row} is not of {owner:?}: {}", self.history_of(event))
            });
        }
        if lines != event.lines {
            differences.other("INV-08", || {
                format!("{row}, expected {:?}: {}", event.lines, self.history_of(event))
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
