//! Running totals of a partition, which prices depend on. Pure, as [`crate::state`].
//!
//! A rated batch carries each total that it changed, as it leaves it, and the ledger-writer posts
//! them with it. So a total that is not in memory is what Postgres has: whatever was not yet posted when
//! an owner began, it has read from `[rated]`.

use std::sync::Arc;

use domain::{
    planted::{self, Bug},
    rating::{self, TotalName},
    wire::{
        codec::{DecodeError, DictionaryWriter},
        rated::Header,
        sums::{RunningTotal, Sums},
    },
};
use hashbrown::HashMap;
use uuid::Uuid;

/// A tenant's team.
pub type TeamName = (Uuid, Arc<str>);

/// Every total that this owner knows.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    teams: HashMap<TeamName, Team>,
    /// Numbers batches, so that each keeps what it changed once.
    batch: u64,
    /// How many totals there are.
    count: usize,
}

/// What is known of a team.
#[derive(Clone, Debug, Default)]
struct Team {
    /// Whether Postgres was asked: what is not here is zero.
    loaded: bool,
    totals: HashMap<TotalName, Total>,
}

#[derive(Clone, Copy, Debug)]
struct Total {
    quantity: i128,
    /// The batch that changed it last.
    batch: u64,
}

/// Totals that a batch changed, with what they were before it.
#[derive(Clone, Debug, Default)]
pub struct Changes(Vec<(TeamName, TotalName, Option<Total>)>);

/// The totals of one team, for rating.
pub struct OfTeam<'a>(Option<&'a Team>);

impl rating::Totals for OfTeam<'_> {
    fn before(&self, name: &TotalName) -> i128 {
        self.0.and_then(|team| team.totals.get(name)).map_or(0, |total| total.quantity)
    }
}

impl Totals {
    /// Whether everything of the team that Postgres has is known.
    #[must_use]
    pub fn is_loaded(&self, team: &TeamName) -> bool {
        self.teams.get(team).is_some_and(|team| team.loaded)
    }

    /// How many totals are in memory.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// What Postgres has of a team. A total that was rated or read from `[rated]` is newer.
    pub fn load(&mut self, team: TeamName, stored: Vec<(TotalName, i128)>) {
        let team = self.teams.entry(team).or_default();
        team.loaded = true;
        if planted::is(Bug::TotalsNotRecovered) {
            return;
        }
        let before = team.totals.len();
        for (name, quantity) in stored {
            team.totals.entry(name).or_insert(Total { quantity, batch: 0 });
        }
        self.count += team.totals.len() - before;
    }

    /// The next batch begins.
    pub fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// What rating may ask about a team.
    #[must_use]
    pub fn of(&self, team: &TeamName) -> OfTeam<'_> {
        OfTeam(self.teams.get(team))
    }

    /// Moves a total on, for the batch in the making.
    pub fn add(&mut self, changes: &mut Changes, team: &TeamName, name: &TotalName, after: i128) {
        let batch = self.batch;
        let of_team = match self.teams.get_mut(team) {
            Some(of_team) => of_team,
            None => self.teams.entry(team.clone()).or_default(),
        };
        let now = Total { quantity: after, batch };
        match of_team.totals.get_mut(name) {
            Some(total) if total.batch == batch => *total = now,
            Some(total) => {
                changes.0.push((team.clone(), name.clone(), Some(*total)));
                *total = now;
            }
            None => {
                changes.0.push((team.clone(), name.clone(), None));
                of_team.totals.insert(name.clone(), now);
                self.count += 1;
            }
        }
    }

    /// Takes back what a batch changed; of several, the newest first.
    pub fn undo(&mut self, changes: Changes) {
        for (team, name, before) in changes.0 {
            let Some(team) = self.teams.get_mut(&team) else { continue };
            match before {
                Some(total) => drop(team.totals.insert(name, total)),
                None => self.count -= usize::from(team.totals.remove(&name).is_some()),
            }
        }
    }

    /// What the batch in the making carries: each total that it changed, as it is now. `tenant` numbers
    /// tenants in the batch's counts.
    #[must_use]
    pub fn carried(
        &self,
        changes: &Changes,
        dictionary: &mut DictionaryWriter,
        tenant: impl Fn(Uuid) -> u32,
    ) -> Vec<RunningTotal> {
        let mut carried: Vec<RunningTotal> = changes
            .0
            .iter()
            .filter_map(|(team, name, _)| {
                let total = self.teams.get(team)?.totals.get(name)?;
                Some(RunningTotal {
                    tenant: tenant(team.0),
                    team: dictionary.intern(&team.1),
                    meter: dictionary.intern(&name.meter),
                    scope: dictionary.intern(&name.scope),
                    period: name.period,
                    start_us: name.start_us,
                    quantity: total.quantity,
                })
            })
            .collect();
        carried.sort_unstable();
        carried
    }

    /// Takes over the totals of an accepted batch that was read from `[rated]`.
    pub fn read(&mut self, header: &Header, sums: &Sums<'_>) -> Result<(), DecodeError> {
        for total in &sums.totals {
            let tenant = usize::try_from(total.tenant).ok().and_then(|at| header.counts.get(at));
            let (tenant, _) = tenant.ok_or(DecodeError::Field("tenant"))?;
            let text = |number| sums.dictionary.get(number).map(Arc::<str>::from);
            let name = TotalName {
                meter: text(total.meter)?,
                scope: text(total.scope)?,
                period: total.period,
                start_us: total.start_us,
            };
            let team = self.teams.entry((*tenant, text(total.team)?)).or_default();
            let now = Total { quantity: total.quantity, batch: 0 };
            self.count += usize::from(team.totals.insert(name, now).is_none());
        }
        Ok(())
    }
}
