//! Event by event, in the archive: one effect, the right one, of everything that was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;
use benches::{account::Sums, generator::team_name};
use serde::Deserialize;

use super::{Differences, Oracle};
use crate::{
    harness::expected::{Event, Expected},
    oracle::parse,
    system::integer,
};

/// Events of a page, about. Each page reads the ids of all.
const PAGE_EVENTS: usize = 200_000;
/// What each event did, as [`Effect`]s.
const EFFECTS: &str = "SELECT event_id, toString(any(tenant_id)) AS tenant, any(team) AS team, \
    toUInt32(uniqExact((partition, position, `index`))) AS places, min(card_version) AS version, max(card_version) AS last_version, \
    [toInt32(sumIf(sign, meter = 'llm_input_tokens')), toInt32(sumIf(sign, meter = 'llm_output_tokens'))] AS events, \
    arrayMap(sum -> toString(ifNull(sum, 0)), [sumIf(quantity * sign, meter = 'llm_input_tokens'), sumIf(quantity * sign, meter = 'llm_output_tokens'), \
    sumIf(charge * sign, meter = 'llm_input_tokens'), sumIf(charge * sign, meter = 'llm_output_tokens'), \
    sumIf(cost * sign, meter = 'llm_input_tokens'), sumIf(cost * sign, meter = 'llm_output_tokens')]) AS amounts \
    FROM usage_lines WHERE startsWith(event_id, 'call-') AND ";
/// First and last places of each version of a tenant's prices, in each partition.
const VERSIONS: &str = "SELECT toString(tenant_id) AS tenant, partition, card_version, \
    tupleElement(min((position, `index`)) AS first, 1) AS first_position, tupleElement(first, 2) AS first_index, \
    tupleElement(max((position, `index`)) AS last, 1) AS last_position, tupleElement(last, 2) AS last_index \
    FROM usage_lines WHERE startsWith(event_id, 'call-') GROUP BY tenant_id, partition, card_version \
    ORDER BY tenant_id, partition, card_version";
const OTHERS: &str = "SELECT event_id, toString(outcome) AS outcome FROM rejected_events \
    WHERE startsWith(event_id, 'call-') AND outcome != 'duplicate' GROUP BY event_id, outcome";

/// What an event did.
#[derive(Debug, Deserialize)]
struct Effect<'a> {
    event_id: &'a str,
    tenant: &'a str,
    team: &'a str,
    /// In how many places of the log it took effect.
    places: u32,
    version: u32,
    last_version: u32,
    /// Of each of the two meters.
    events: [i32; 2],
    /// Quantity, charge and cost, each of the two meters.
    #[serde(borrow)]
    amounts: [&'a str; 6],
}

impl Effect<'_> {
    fn lines(&self) -> Result<[Sums; 2]> {
        let line = |number: usize| {
            let amount = |of: usize| parse(self.amounts[2 * of + number]);
            Ok::<_, anyhow::Error>(Sums {
                events: self.events[number].into(),
                quantity: amount(0)?,
                charge: amount(1)?,
                cost: amount(2)?,
            })
        };
        Ok([line(0)?, line(1)?])
    }
}

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
            let sql = format!("{EFFECTS}cityHash64(event_id) % {pages} = {page} GROUP BY event_id");
            let rows = self.system.clickhouse().query_bytes(&sql, "JSONEachRow").await?;
            for effect in serde_json::Deserializer::from_slice(&rows).into_iter::<Effect>() {
                let effect = effect?;
                match expected.rated.get(effect.event_id) {
                    Some(event) => self.effect(event, &effect, differences)?,
                    None => differences.other("INV-03", || format!("nobody sent {effect:?}")),
                }
                found.insert(effect.event_id.to_owned(), effect.version);
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

    fn effect(
        &self,
        event: &Event,
        effect: &Effect<'_>,
        differences: &mut Differences,
    ) -> Result<()> {
        if effect.places != 1 || effect.events.iter().any(|events| *events > 1) {
            differences.doubled += 1;
            differences
                .tell(|| format!("INV-02: two effects: {effect:?}: {}", self.history_of(event)));
            return Ok(());
        }
        let owner = (self.tenants[event.tenant].id.to_string(), team_name(event.call.team));
        if (effect.tenant, effect.team) != (&owner.0, &owner.1) {
            differences.other("INV-03", || {
                format!("{effect:?} is not of {owner:?}: {}", self.history_of(event))
            });
        }
        let version = effect.version;
        if version != effect.last_version || !(1..=self.prices).contains(&version) {
            differences
                .other("INV-18", || format!("{effect:?} has other prices than were published"));
        } else if effect.lines()? != event.lines(version) {
            differences.other("INV-08", || {
                format!(
                    "{effect:?}, expected {:?}: {}",
                    event.lines(version),
                    self.history_of(event)
                )
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
