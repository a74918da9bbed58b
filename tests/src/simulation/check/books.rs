//! What the ledger must hold, from what took effect.

use std::collections::BTreeMap;

use domain::{time::bucket_of, wire::sums::Sum};
use ledger::account::{AccountName, Kind as Account};

use super::{
    super::{
        stores::{Database, RunningKey, TotalKey},
        traffic::{DAY_US, Event, Line, ONE, TENANTS, TIERED},
    },
    At, Day, Sent,
    corrections::Change,
};

/// What the ledger must hold.
#[derive(Default)]
pub(super) struct Books {
    totals: BTreeMap<TotalKey, Sum>,
    running_totals: BTreeMap<RunningKey, i128>,
    balances: BTreeMap<AccountName, i128>,
}

impl Books {
    /// What is counted of the days.
    pub fn count(&mut self, days: BTreeMap<Day, i128>) {
        for ((tenant, team, day), units) in days {
            let key = (TENANTS[tenant], team.to_owned(), TIERED.to_owned(), day * DAY_US);
            self.running_totals.insert(key, units * ONE);
        }
    }

    /// What an event that took effect is worth.
    pub fn add(&mut self, sent: &Sent<'_>, at: At) {
        let (event, _, append_time_us) = sent.event(at).unwrap();
        let time_us = event.time_us.unwrap_or(append_time_us);
        self.book(&event, time_us, &sent.worth(at).unwrap(), 1);
    }

    /// What a correction changes.
    pub fn change(&mut self, change: &Change) {
        self.book(&change.event, change.time_us, &change.back, -1);
        self.book(&change.event, change.time_us, change.now.as_deref().unwrap_or_default(), 1);
    }

    fn book(&mut self, event: &Event, time_us: i64, lines: &[Line], sign: i64) {
        let (tenant, team) = (TENANTS[event.tenant()], event.team());
        let (bucket, signed) = (bucket_of(time_us), i128::from(sign));
        // What is observed is in no book.
        for line in lines.iter().filter(|line| line.status() != 4) {
            let currency = line.charge.map_or("", |charge| charge.2).to_owned();
            let cost_currency = line.cost.map_or("", |cost| cost.2).to_owned();
            let key = (tenant, team.into(), line.meter.into(), bucket, currency, cost_currency);
            let (charge, cost) =
                (line.charge.map_or(0, |charge| charge.3), line.cost.map_or(0, |cost| cost.3));
            let (charge, cost) = (signed * charge, signed * cost);
            let sum = self.totals.entry(key).or_default();
            sum.quantity += signed * line.quantity;
            sum.charge += charge;
            sum.cost += cost;
            sum.events += sign;
            let mut book = |kind, team: &str, currency: &str, amount: i128| {
                let name =
                    AccountName { tenant, kind, team: team.into(), currency: currency.into() };
                *self.balances.entry(name).or_default() += amount;
            };
            if charge != 0 {
                book(Account::Receivable, team, "EUR", charge);
                book(Account::Revenue, "", "EUR", -charge);
            }
            if cost != 0 {
                book(Account::CostOfSales, "", "USD", cost);
                book(Account::ProviderPayable, "", "USD", -cost);
            }
        }
    }

    /// The ledger holds just this.
    pub fn compare(mut self, database: &Database) {
        assert!(
            database.totals == self.totals,
            "the ledger's sums are {:?}, what took effect is {:?}",
            database.totals,
            self.totals
        );
        assert!(
            database.running_totals == self.running_totals,
            "the running totals are {:?}, what took effect is {:?}",
            database.running_totals,
            self.running_totals
        );
        let mut balances = database.balances.clone();
        balances.retain(|_, balance| *balance != 0);
        self.balances.retain(|_, balance| *balance != 0);
        assert!(
            balances == self.balances,
            "the balances are {balances:?}, what took effect is {:?}",
            self.balances
        );
    }
}
