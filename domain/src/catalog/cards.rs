//! Cards: their checks, and the tables that rating looks into.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    CardVersionName, CatalogDocument, Compiler, EffectiveRates, KEY_RULE, ROWS_MAX, is_key,
};
use crate::{
    pricing,
    rate_card::{Card, CardKind, CardVersion, MeterRow, Rate, RateRow, RateTable, faults_together},
};

/// Rows of a version, by the number of their meter.
type Tables = BTreeMap<usize, RateTable>;

/// Where a meter has the tables of a card.
#[derive(Clone, Copy)]
enum Place {
    Rates,
    Costs,
    /// The number of a card that offers name.
    Offered(usize),
}

impl Compiler {
    /// Checks all cards, and makes tables of those that price anything.
    pub(super) fn cards(&mut self, document: &CatalogDocument) {
        let mut keys = HashSet::new();
        let rows: usize = document
            .cards
            .iter()
            .flat_map(|card| &card.versions)
            .map(|version| version.rates.len())
            .sum();
        if rows > ROWS_MAX {
            self.fault(
                "cards".into(),
                format!("they have {rows} rows together; at most {ROWS_MAX}"),
            );
        }
        for card in &document.cards {
            let place = format!("cards[{}]", card.key);
            if !is_key(&card.key) {
                self.fault(place.clone(), KEY_RULE);
            }
            if !keys.insert(card.key.as_str()) {
                self.fault(place.clone(), "there are two cards of this key");
            }
            if !document.knows_currency(&card.currency) {
                let reason = format!(
                    "`{}` is neither a currency code of three capitals nor a credit unit of the catalog",
                    card.currency
                );
                self.fault(format!("{place}.currency"), reason);
            }
            let mut tables = Vec::with_capacity(card.versions.len());
            for (index, version) in card.versions.iter().enumerate() {
                let place = format!("{place}.versions[{}]", version.version);
                if usize::try_from(version.version) != Ok(index.saturating_add(1)) {
                    self.fault(place.clone(), "versions are numbered from 1 without a gap");
                }
                tables.push(self.card_version(&place, document, card, version));
            }
            self.use_card(document, card, tables);
        }
    }

    /// The rows of a version by meter.
    fn card_version(
        &mut self,
        place: &str,
        document: &CatalogDocument,
        card: &Card,
        version: &CardVersion,
    ) -> Tables {
        let mut tables = Tables::new();
        let mut rows: BTreeMap<usize, Vec<MeterRow<'_>>> = BTreeMap::new();
        for (index, row) in version.rates.iter().enumerate() {
            let place = format!("{place}.rates[{index}]");
            let rate = match row.rate() {
                Ok(rate) => rate,
                Err(reason) => {
                    self.fault(place, reason);
                    continue;
                }
            };
            self.model_fits(&place, document, card, row, &rate);
            let Some(number) = self.meter_numbers.get(&row.meter).copied() else {
                self.fault(place, format!("there is no meter `{}`", row.meter));
                continue;
            };
            let values = self.dimension_values(&place, number, row);
            if !tables.entry(number).or_default().insert(&values, rate.clone()) {
                self.fault(place, "an earlier row has the same meter and dimensions");
            }
            if let Rate::Terms(terms) = rate {
                rows.entry(number).or_default().push(MeterRow { index, row, terms });
            }
        }
        for (index, reason) in rows.values().flat_map(|rows| faults_together(rows)) {
            self.fault(format!("{place}.rates[{index}]"), reason);
        }
        tables
    }

    /// Values of a row's dimensions by their numbers in the meter, ascending.
    fn dimension_values<'r>(
        &mut self,
        place: &str,
        number: usize,
        row: &'r RateRow,
    ) -> Vec<(usize, &'r str)> {
        let mut values = Vec::new();
        for (name, value) in &row.dimensions {
            let meter = self.catalog.meters.get(number);
            let known =
                meter.and_then(|meter| meter.dimensions.iter().position(|known| **known == **name));
            match known {
                Some(dimension) => values.push((dimension, value.as_str())),
                None => self.fault(
                    place.to_owned(),
                    format!("the meter `{}` has no dimension `{name}`", row.meter),
                ),
            }
        }
        values.sort_unstable();
        values
    }

    /// Whether the card may have such a row, and whether what it follows is there.
    fn model_fits(
        &mut self,
        place: &str,
        document: &CatalogDocument,
        card: &Card,
        row: &RateRow,
        rate: &Rate,
    ) {
        if card.kind == CardKind::Cost && rate.terms().is_some() {
            let names = pricing::models(row).join("`, `");
            let reason = format!("a cost card has plain prices only; leave out `{names}`");
            return self.fault(place.to_owned(), reason);
        }
        if !rate.terms().is_some_and(pricing::Terms::needs_cost) {
            return;
        }
        let cost_card = document.cards.iter().find(|other| {
            other.kind == CardKind::Cost
                && Some(other.key.as_str()) == document.default_cost_card.as_deref()
        });
        match cost_card {
            None => self.fault(
                place.to_owned(),
                "the model `cost_plus` follows the default cost card, and there is none",
            ),
            Some(cost_card) if cost_card.currency != card.currency => self.fault(
                place.to_owned(),
                format!(
                    "the model `cost_plus` follows the default cost card, which is in {} and this card in {}",
                    cost_card.currency, card.currency
                ),
            ),
            Some(_) => {}
        }
    }

    /// Puts the tables of a default card, and of a card that offers name, where rating finds them.
    fn use_card(&mut self, document: &CatalogDocument, card: &Card, tables: Vec<Tables>) {
        let default = match card.kind {
            CardKind::Rate => &document.default_rate_card,
            CardKind::Cost => &document.default_cost_card,
        };
        let place = if default.as_deref() != Some(card.key.as_str()) {
            match self.offered_cards.get(&card.key) {
                Some(number) if card.kind == CardKind::Rate => Place::Offered(*number),
                _ => return,
            }
        } else if card.kind == CardKind::Rate {
            Place::Rates
        } else {
            Place::Costs
        };
        // An offered card says nothing of a meter that none of its versions has rows for.
        let priced: BTreeSet<usize> = tables.iter().flat_map(BTreeMap::keys).copied().collect();
        for (version, tables) in card.versions.iter().zip(tables) {
            self.use_version(card, version, (place, &priced), tables);
        }
    }

    fn use_version(
        &mut self,
        card: &Card,
        version: &CardVersion,
        (place, priced): (Place, &BTreeSet<usize>),
        mut tables: Tables,
    ) {
        let card_version = u32::try_from(self.catalog.card_versions.len()).unwrap_or(u32::MAX);
        self.catalog.card_versions.push(CardVersionName {
            card: Arc::from(card.key.as_str()),
            version: version.version,
            currency: Arc::from(card.currency.as_str()),
        });
        for (number, meter) in self.catalog.meters.iter_mut().enumerate() {
            let list = match place {
                Place::Rates => &mut meter.rates,
                Place::Costs => &mut meter.costs,
                Place::Offered(card) if priced.contains(&number) => {
                    meter.offered.entry(card).or_default()
                }
                Place::Offered(_) => continue,
            };
            // A version without rows for a meter still ends the one before it: absence is unpriced.
            let table = tables.remove(&number).unwrap_or_default();
            self.catalog.counts |= table.counts();
            let effective_from_us = version.effective_from_us;
            // Newest effective first; of equals the higher version, which comes later in the card.
            let at = list
                .iter()
                .position(|other| other.effective_from_us <= effective_from_us)
                .unwrap_or(list.len());
            list.insert(at, EffectiveRates { effective_from_us, card_version, table });
        }
    }

    /// Checks that a default card is there and may be used.
    pub(super) fn default_card(
        &mut self,
        document: &CatalogDocument,
        key: Option<&str>,
        kind: CardKind,
        place: &str,
    ) {
        let Some(key) = key else { return };
        let card = document.cards.iter().find(|card| card.key == key && card.kind == kind);
        let reason = match card {
            Some(card) if card.archived => {
                format!("the card `{key}` is archived; name another one, or unarchive it")
            }
            Some(_) => return,
            None => format!(
                "there is no {} card `{key}`",
                match kind {
                    CardKind::Rate => "rate",
                    CardKind::Cost => "cost",
                }
            ),
        };
        self.fault(place.to_owned(), reason);
    }
}
