//! What the lines of a batch add up to, while it is made.

use domain::{
    catalog::{CardVersionName, Catalog},
    money::Amount,
    rating::{Charge, Line},
    wire::{
        codec::DictionaryWriter,
        correction::{OBSERVED, StoredLine},
        sums::{self, RunningTotal, Sum, SumKey},
    },
};
use hashbrown::HashMap;
use uuid::Uuid;

use crate::names::{Names, number_of};

/// The meter and the numbers of the rate card's and of the cost card's version.
pub type ClassOf = (usize, Option<u32>, Option<u32>);

/// Sums by team, time and what else tells them apart.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    dictionary: DictionaryWriter,
    /// What the sums' keys have in common, and the number of each.
    classes: Vec<SumKey>,
    class_numbers: HashMap<SumKey, u32>,
    sums: HashMap<ShortKey, Sum>,
}

/// A [`SumKey`] by the number of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ShortKey {
    class: u32,
    team: u32,
    bucket: i64,
    hold: Option<Uuid>,
}

/// Whose lines are added, and when.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// Number of the tenant in the batch's counts.
    pub tenant: u32,
    /// The team's number.
    pub team: u32,
    /// Number of the 15-minute bucket of the event time.
    pub bucket: i64,
    /// The hold that the usage belongs to.
    pub hold: Option<Uuid>,
}

impl Sums {
    /// The number of a team.
    pub fn intern(&mut self, team: &str) -> u32 {
        self.dictionary.intern(team)
    }

    /// Adds a line that was rated by a catalog. What is observed is in no sum: it does not add up.
    pub fn add(&mut self, account: Account, catalog: &Catalog, names: &mut Names, line: &Line<'_>) {
        if line.charge == Charge::Observed {
            return;
        }
        let cost_version = line.cost.map(|(_, number)| number);
        let of = (line.meter, line.charge.card_version(), cost_version);
        let class = match names.class(of) {
            Some(class) => class,
            None => {
                let class = self.class(account.tenant, catalog, names, of);
                names.classes.push((of, class));
                class
            }
        };
        let Account { team, bucket, hold, .. } = account;
        let key = ShortKey { class, team, bucket, hold };
        self.sums.entry(key).or_default().add(&Sum {
            quantity: line.quantity.raw(),
            charge: line.charge.amount().map_or(0, Amount::raw),
            cost: line.cost.map_or(0, |(amount, _)| amount.raw()),
            events: 1,
        });
    }

    /// Adds a line that the archive has, or takes it out again where the sign is −1.
    pub fn add_stored(&mut self, account: Account, line: &StoredLine<'_>, sign: i64) {
        if line.status == OBSERVED {
            return;
        }
        let dictionary = &mut self.dictionary;
        let key = SumKey {
            tenant: account.tenant,
            team: 0,
            meter: dictionary.intern(&line.meter),
            card: line.charge.has_card().then(|| dictionary.intern(&line.charge.card)),
            card_version: line.charge.version,
            currency: line.charge.has_card().then(|| dictionary.intern(&line.charge.currency)),
            cost_currency: line.cost.has_card().then(|| dictionary.intern(&line.cost.currency)),
            hold: None,
            bucket: 0,
            user: None,
            app: None,
            key: None,
            feature: None,
        };
        let class = self.number(key);
        let Account { team, bucket, hold, .. } = account;
        let signed = |amount: i128| amount.saturating_mul(i128::from(sign));
        self.sums.entry(ShortKey { class, team, bucket, hold }).or_default().add(&Sum {
            quantity: signed(line.quantity),
            charge: signed(line.charge.amount.unwrap_or(0)),
            cost: signed(line.cost.amount.unwrap_or(0)),
            events: sign,
        });
    }

    /// The number of what a line of a meter with these versions of cards is summed up under, team and
    /// time left out.
    fn class(
        &mut self,
        tenant: u32,
        catalog: &Catalog,
        names: &mut Names,
        (meter, card, cost_card): ClassOf,
    ) -> u32 {
        let dictionary = &mut self.dictionary;
        let name = catalog.meters.get(meter).map_or("", |meter| &meter.key);
        let meter = number_of(&mut names.meters, meter, dictionary, name);
        let version = |number: u32| {
            let number = usize::try_from(number).ok()?;
            catalog.card_versions.get(number).map(|name| (number, name))
        };
        let (card, cost_card) = (card.and_then(version), cost_card.and_then(version));
        let mut currency = |(number, name): (usize, &CardVersionName), dictionary: &mut _| {
            number_of(&mut names.currencies, number, dictionary, &name.currency)
        };
        let key = SumKey {
            tenant,
            team: 0,
            meter,
            card: card
                .map(|(number, name)| number_of(&mut names.cards, number, dictionary, &name.card)),
            card_version: card.map_or(0, |(_, name)| name.version),
            currency: card.map(|card| currency(card, dictionary)),
            cost_currency: cost_card.map(|card| currency(card, dictionary)),
            hold: None,
            bucket: 0,
            user: None,
            app: None,
            key: None,
            feature: None,
        };
        self.number(key)
    }

    /// The number of a class.
    fn number(&mut self, key: SumKey) -> u32 {
        let next = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        *self.class_numbers.entry(key).or_insert_with(|| {
            self.classes.push(key);
            next
        })
    }

    /// The strings of the section.
    pub fn dictionary(&mut self) -> &mut DictionaryWriter {
        &mut self.dictionary
    }

    /// The section of a rated batch, with the running totals that it changed where its version has them.
    pub fn encode(&self, totals: Option<&Vec<RunningTotal>>) -> Vec<u8> {
        let mut entries: Vec<(SumKey, Sum)> = Vec::with_capacity(self.sums.len());
        for (key, sum) in &self.sums {
            let ShortKey { class, team, bucket, hold } = *key;
            let class = usize::try_from(class).ok().and_then(|class| self.classes.get(class));
            entries.extend(class.map(|class| (SumKey { team, bucket, hold, ..*class }, *sum)));
        }
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut section = Vec::new();
        let totals = totals.map(Vec::as_slice);
        sums::encode(&self.dictionary, &entries, totals, &mut section);
        section
    }

    /// Forgets all and keeps the memory.
    pub fn clear(&mut self) {
        self.dictionary.clear();
        self.classes.clear();
        self.class_numbers.clear();
        self.sums.clear();
    }
}
