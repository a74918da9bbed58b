//! How each line came about: its row, what the row makes of it, and the sum of its transfer so far.

use std::collections::BTreeMap;

use domain::{
    catalog::CatalogDocument,
    money::Amount,
    pricing::{Terms, Usage},
    quantity::Quantity,
    rate_card::{CardKind, Rate},
    time,
};

use super::{ExplainedEvent, ExplainedLine, Step, add, catalogs::Catalogs, number};
use crate::{
    catalog::RateForm,
    error::ApiError,
    routes::events::{Line, receipt, some},
    store::{
        events::{EventRow, LineRow},
        explain::{Scope, SumKey},
    },
};

/// Goes from line to line.
pub(super) struct Steps<'a> {
    pub scope: &'a Scope,
    /// The newest one, in which every published card stands as it is.
    pub catalog: &'a CatalogDocument,
    /// Those that rated the events.
    pub catalogs: Catalogs,
    /// Ids of the transfers.
    pub ids: BTreeMap<SumKey, String>,
    pub running: BTreeMap<SumKey, Amount>,
}

/// Whose event a line is of, when it happened, and the catalog that rated it.
#[derive(Clone, Copy)]
pub(super) struct Rated<'a> {
    pub team: &'a str,
    pub catalog_version: i64,
    pub time_us: i64,
    /// Whether it takes back a line as it was booked, whatever prices are now.
    pub reversal: bool,
}

impl Steps<'_> {
    pub fn event(&mut self, row: EventRow) -> Result<ExplainedEvent, ApiError> {
        let (place, corrects) = (row.place(), row.corrects());
        let reversal = row.sign < 0;
        let mut lines = Vec::new();
        for line in row.lines {
            let line = if reversal { taken_back(line)? } else { line };
            let of = Rated {
                team: &row.team,
                catalog_version: row.catalog_version,
                time_us: row.order_us,
                reversal,
            };
            lines.extend(self.line(of, line)?);
        }
        Ok(ExplainedEvent {
            receipt: receipt(place),
            id: row.event_id,
            source: row.source,
            r#type: row.event_type,
            team: row.team,
            user: some(row.user),
            time: time::format(row.order_us),
            accepted_at: time::format(row.append_us),
            catalog_version: row.catalog_version,
            corrects: corrects.map(receipt),
            reversal,
            lines,
        })
    }

    /// The line, unless it is not in the scope.
    fn line(&mut self, of: Rated<'_>, row: LineRow) -> Result<Option<ExplainedLine>, ApiError> {
        let only = self.scope.only.as_ref();
        let wanted = |key: &SumKey| only.is_none_or(|only| only == key);
        let (charged, costed) = (row.charged(of.team), row.costed());
        let id = |key: &Option<SumKey>| self.ids.get(key.as_ref()?).cloned();
        let (transfer_id, cost_transfer_id) = (id(&charged), id(&costed));
        let (charged, costed) = (charged.filter(wanted), costed.filter(wanted));
        if charged.is_none() && costed.is_none() && only.is_some() {
            return Ok(None);
        }
        let charge_step = match charged {
            Some(key) => {
                let card = (CardKind::Rate, row.card.as_str(), row.card_version);
                let multiplier = self.catalogs.multiplier(of, &row);
                let amount = row.charge.as_deref();
                Some(self.step(key, card, (&row, of), (amount, multiplier))?)
            }
            None => None,
        };
        let cost_step = match costed {
            Some(key) => {
                let card = (CardKind::Cost, row.cost_card.as_str(), row.cost_card_version);
                Some(self.step(key, card, (&row, of), (row.cost.as_deref(), None))?)
            }
            None => None,
        };
        let line = Line::from(row).of_transfers(transfer_id, cost_transfer_id);
        Ok(Some(ExplainedLine { line, charge_step, cost_step }))
    }

    /// The charge by terms that depend on more than the quantity.
    fn by_terms(
        &self,
        terms: &Terms,
        line: &LineRow,
        of: Rated<'_>,
    ) -> Result<Option<Amount>, ApiError> {
        let quantity = Quantity::from_raw(number(&line.quantity)?.raw());
        let Some(quantity) = quantity.and_then(|quantity| terms.priced(quantity)) else {
            return Ok(None);
        };
        let usage = Usage {
            quantity,
            before: number(&line.total_before)?.raw(),
            local: if terms.needs_local_time() { self.catalogs.local(of) } else { None },
            cost: line.cost.as_deref().map(number).transpose()?,
        };
        Ok(terms.charge(&usage).ok())
    }

    fn step(
        &mut self,
        key: SumKey,
        (kind, card, version): (CardKind, &str, u32),
        (line, of): (&LineRow, Rated<'_>),
        (amount, multiplier): (Option<&str>, Option<Amount>),
    ) -> Result<Step, ApiError> {
        let card = self.catalog.cards.iter().find(|one| one.kind == kind && one.key == card);
        let version = card.and_then(|card| card.versions.iter().find(|one| one.version == version));
        let row = version.and_then(|version| version.row(&line.meter, &line.dimensions));
        let amount = amount.map(number).transpose()?.unwrap_or(Amount::ZERO);
        let computed = match row.map(|row| row.rate()) {
            _ if of.reversal => Some(amount),
            Some(Ok(Rate::Price(price))) => price.charge(number(&line.quantity)?.raw()),
            Some(Ok(Rate::Unlimited)) => Some(Amount::ZERO),
            Some(Ok(Rate::Terms(terms))) => self.by_terms(&terms, line, of)?,
            Some(Err(_)) | None => None,
        };
        let computed = match multiplier {
            _ if of.reversal => computed,
            None => computed,
            Some(multiplier) => computed.and_then(|charge| charge.checked_mul(multiplier)),
        };
        let transfer_id = self.ids.get(&key).cloned();
        let running = self.running.entry(key).or_insert(Amount::ZERO);
        *running = add(*running, amount)?;
        Ok(Step {
            transfer_id,
            rate: row.map(RateForm::outside),
            multiplier: multiplier.map(|multiplier| multiplier.to_string()),
            computed: computed.map(|amount| amount.to_string()),
            matches: computed == Some(amount),
            running_total: running.to_string(),
        })
    }
}

/// The line with what it says negated.
fn taken_back(line: LineRow) -> Result<LineRow, ApiError> {
    let negated = |text: String| Ok::<_, ApiError>(number(&text)?.negated().to_string());
    Ok(LineRow {
        quantity: negated(line.quantity)?,
        charge: line.charge.map(negated).transpose()?,
        cost: line.cost.map(negated).transpose()?,
        ..line
    })
}
