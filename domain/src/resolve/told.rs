//! A resolution with all its candidates, for people.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Able, Ables, Candidate, Choice, Chosen, Resolution, able, effective, rates_of, winner,
};
use crate::{
    catalog::{CardVersionName, Catalog, CompiledOffer, EffectiveRates, Holding, Meter},
    offer::OfferSource,
    time,
};

/// What is asked about a line.
pub(super) struct Asked<'a> {
    pub catalog: &'a Catalog,
    pub team: Option<&'a str>,
    /// The number of the meter.
    pub number: usize,
    pub meter: &'a Meter,
    pub values: &'a [Option<&'a str>],
    pub time_us: i64,
}

impl Asked<'_> {
    pub fn resolution(&self) -> Resolution {
        let meter = (self.number, self.meter);
        let (mut offers, key) = (Vec::new(), &mut Vec::new());
        if let Some(team) = self.team {
            self.catalog.offers.of(team, self.time_us, &mut offers);
        }
        let choice = super::choose(self.catalog, &offers, meter, self.values, self.time_us, key);
        let able = able(self.catalog, &offers, meter, self.values, self.time_us, key);
        let mut candidates = Vec::new();
        let mut rest = able.clone();
        while let Some(next) = winner(&rest) {
            rest.retain(|able| able.number != next.number);
            candidates.push(self.able(&next, &able, choice.as_ref()));
        }
        candidates.extend(self.default_card(choice.as_ref(), key));
        let unable =
            offers.iter().filter(|number| !able.iter().any(|able| able.number == **number));
        candidates.extend(unable.filter_map(|number| {
            let offer = self.offer(*number)?;
            Some(Candidate { reason: self.why_unable(offer), ..candidate(offer) })
        }));
        candidates.extend(self.at_other_times(&offers));
        Resolution { chosen: choice.and_then(|choice| self.chosen(&choice)), candidates }
    }

    fn offer(&self, number: usize) -> Option<&CompiledOffer> {
        self.catalog.offers.list.get(number)
    }

    fn key(&self, number: Option<usize>) -> Option<Arc<str>> {
        Some(Arc::clone(&self.offer(number?)?.key))
    }

    fn version(&self, number: u32) -> Option<&CardVersionName> {
        self.catalog.card_versions.get(usize::try_from(number).ok()?)
    }

    fn chosen(&self, choice: &Choice<'_>) -> Option<Chosen> {
        Some(Chosen {
            offer: self.key(choice.offer),
            card: self.version(choice.row.card_version)?.clone(),
            rate: choice.row.rate.clone(),
            multiplier: choice.multiplier,
        })
    }

    /// An offer that could price the line.
    fn able(&self, one: &Able<'_>, all: &Ables<'_>, choice: Option<&Choice<'_>>) -> Candidate {
        let version = one.row.and_then(|row| self.version(row.card_version));
        let (survivor, base) = choice.map_or((None, None), |choice| (choice.offer, choice.base));
        let chosen = survivor == Some(one.number);
        let reason = match survivor.and_then(|survivor| self.offer(survivor)) {
            None => "there is no price that it could multiply".to_owned(),
            Some(_) if chosen && one.row.is_some() => "it comes first".to_owned(),
            Some(_) if chosen => format!(
                "it comes first, and multiplies what {} charges",
                self.key(base).map_or("the default card".to_owned(), |key| format!("`{key}`"))
            ),
            Some(survivor) if base == Some(one.number) => {
                format!("its charge is what `{}` multiplies", survivor.key)
            }
            Some(survivor) => {
                let newer = all.iter().find(|other| other.is_newer_than(one));
                overridden(newer.map_or(survivor, |newer| newer.offer), one.offer, newer.is_some())
            }
        };
        Candidate {
            version: version.map(|name| name.version),
            chosen,
            reason,
            ..candidate(one.offer)
        }
    }

    fn default_card(&self, choice: Option<&Choice<'_>>, key: &mut Vec<u8>) -> Option<Candidate> {
        let rates = &self.meter.rates;
        let card = &self.version(rates.first()?.card_version)?.card;
        let row = super::find(rates, self.values, self.time_us, key);
        let survivor = choice.and_then(|choice| choice.offer);
        let is_base = choice.is_some_and(|choice| choice.base.is_none());
        let reason = match (row, self.key(survivor)) {
            (None, _) => self.why_no_row(rates),
            (Some(_), None) => "no offer of the team prices this usage".to_owned(),
            (Some(_), Some(key)) if is_base => format!("its charge is what `{key}` multiplies"),
            (Some(_), Some(key)) => {
                format!("overridden by `{key}`: the default card comes last")
            }
        };
        Some(Candidate {
            source: None,
            offer: None,
            card: Some(Arc::clone(card)),
            version: row.and_then(|row| self.version(row.card_version)).map(|name| name.version),
            multiplier: None,
            weight: 0,
            overriding_key: None,
            chosen: row.is_some() && survivor.is_none(),
            reason,
        })
    }

    /// Why an offer that the team has cannot price the line.
    fn why_unable(&self, offer: &CompiledOffer) -> String {
        match offer.card {
            Some(card) if offer.is_for(self.number) => self.why_no_row(rates_of(self.meter, card)),
            _ => "it is not for this meter".to_owned(),
        }
    }

    fn why_no_row(&self, rates: &[EffectiveRates]) -> String {
        let Some(oldest) = rates.last() else {
            return "its card has no row for this meter".to_owned();
        };
        let version =
            effective(rates, self.time_us).and_then(|rates| self.version(rates.card_version));
        match version {
            Some(name) => format!("version {} of its card has no row for this usage", name.version),
            None => format!(
                "not yet effective: its card begins at {}",
                time::format(oldest.effective_from_us)
            ),
        }
    }

    /// Offers that the team has, but not at the time that is asked about.
    fn at_other_times(&self, now: &[usize]) -> Vec<Candidate> {
        let mut last: BTreeMap<usize, Holding> = BTreeMap::new();
        for holding in self.team.map(|team| self.catalog.offers.holdings(team)).unwrap_or_default()
        {
            for number in self.catalog.offers.given(holding.offer) {
                let known = last.entry(*number).or_insert(*holding);
                if known.from_us < holding.from_us {
                    *known = *holding;
                }
            }
        }
        let others = last.into_iter().filter(|(number, _)| now.binary_search(number).is_err());
        let of = |(number, holding): (usize, Holding)| {
            let from = time::format(holding.from_us);
            let until = if holding.until_us == i64::MAX {
                "on".to_owned()
            } else {
                format!("until {}", time::format(holding.until_us))
            };
            let reason = format!("the team has it at another time: from {from} {until}");
            Some(Candidate { reason, ..candidate(self.offer(number)?) })
        };
        others.filter_map(of).collect()
    }
}

/// What is known of an offer without a question.
fn candidate(offer: &CompiledOffer) -> Candidate {
    Candidate {
        source: Some(offer.source),
        offer: Some(Arc::clone(&offer.key)),
        card: offer.card_key.clone(),
        version: None,
        multiplier: offer.multiplier,
        weight: offer.weight,
        overriding_key: offer.overriding_key.clone(),
        chosen: false,
        reason: String::new(),
    }
}

/// Why one offer stands behind another.
fn overridden(first: &CompiledOffer, behind: &CompiledOffer, newer: bool) -> String {
    let group = if first.group.is_some() && first.group == behind.group {
        " of the same overriding key"
    } else {
        ""
    };
    let why = if first.source != behind.source {
        format!("{} comes before {}", article(first.source), article(behind.source))
    } else if first.weight != behind.weight {
        "it has more weight".to_owned()
    } else if newer {
        "the version of its card is newer".to_owned()
    } else {
        "its key comes first".to_owned()
    };
    format!("overridden by `{}`{group}: {why}", first.key)
}

fn article(source: OfferSource) -> &'static str {
    match source {
        OfferSource::Contract => "a contract",
        OfferSource::Subscription => "a subscription",
        OfferSource::Team => "a team override",
    }
}
