//! Carries out a command that corrects one event: what it came to is taken back, line by line, and what it
//! is from now on stands beside it in the same batch.

use std::sync::Arc;

use super::{
    Batch, Known,
    desk::{Desk, batch_tenant, row_place},
};
use crate::{
    catalogs::Catalogs,
    state::StateError,
    sums::Account,
    totals::{OfTeam, TeamName},
};
use domain::{
    planted::{self, Bug},
    rating::{
        self, Binding, Lines, Outcome, Rating, Rejection, Scratch, TotalName, Totals as _, rate,
    },
    time::bucket_of,
    wire::{
        block::{Block, BlockHeader},
        codec::{DecodeError, Dictionary},
        correction::{Again, Correction, StoredLine, fingerprint},
        record::{Command, CommandKind, Entry, EventRecord},
        row::{Corrected, OtherOutcome, RowPlace, put_other, put_reversal, put_usage_event},
    },
};

/// A command's correction, and the block that it carries, opened.
pub(crate) struct Unpacked<'a> {
    correction: Correction<'a>,
    header: BlockHeader,
    body: Vec<u8>,
}

impl<'a> Unpacked<'a> {
    /// Reads the body of a command.
    pub(crate) fn of(command: &Command<'a>) -> Result<Unpacked<'a>, DecodeError> {
        let correction = Correction::decode(command.body)?;
        let header = BlockHeader::decode(correction.block)?;
        let body = header.body(correction.block)?;
        Ok(Unpacked { correction, header, body })
    }

    /// The block with the event, as it was and as it is to be.
    fn block(&self) -> Result<Block<'_>, DecodeError> {
        Block::decode(&self.header, &self.body)
    }

    /// Whose event it is.
    pub(crate) fn team(&self) -> Result<TeamName, DecodeError> {
        let block = self.block()?;
        let (event, _) = events(&block)?;
        self.team_of(event, &block.dictionary)
    }

    fn team_of(
        &self,
        event: &EventRecord<'_>,
        dictionary: &Dictionary<'_>,
    ) -> Result<TeamName, DecodeError> {
        let tenant = self.header.tenant(event.tenant).unwrap_or_default();
        Ok((tenant, Arc::from(dictionary.get(event.team)?)))
    }
}

/// The event as it is so far, and as it is from now on.
fn events<'b, 'a>(
    block: &'b Block<'a>,
) -> Result<(&'b EventRecord<'a>, &'b EventRecord<'a>), DecodeError> {
    match block.entries.as_slice() {
        [Entry::Event(event)] => Ok((event, event)),
        [Entry::Event(before), Entry::Event(after)] if before.team == after.team => {
            Ok((before, after))
        }
        _ => Err(DecodeError::Field("corrected event")),
    }
}

/// Running totals as the command names them, and else as they are.
struct Given<'a>(&'a [(TotalName, i128)], OfTeam<'a>);

impl rating::Totals for Given<'_> {
    fn before(&self, name: &TotalName) -> i128 {
        let given = self.0.iter().find(|(given, _)| given == name);
        given.map_or_else(|| self.1.before(name), |(_, quantity)| *quantity)
    }
}

impl Batch {
    /// Carries out a command, or keeps why not.
    pub(super) fn command(
        &mut self,
        desk: &Desk<'_>,
        (index, command): (u32, &Command<'_>),
        catalogs: &Catalogs,
        known: &mut Known<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), StateError> {
        let position = desk.position;
        if command.kind != CommandKind::Correct {
            return Err(StateError::Command { position, index });
        }
        let damaged = |source| StateError::Block { position, source };
        let unpacked = Unpacked::of(command).map_err(damaged)?;
        let block = unpacked.block().map_err(damaged)?;
        let (before, after) = events(&block).map_err(damaged)?;
        let team = unpacked.team_of(before, &block.dictionary).map_err(damaged)?;
        let tenant = desk.header.tenant(command.tenant);
        if Some(team.0) != tenant || unpacked.correction.position >= position {
            return Err(damaged(DecodeError::Field("corrected event")));
        }
        let correction = &unpacked.correction;
        let original = match planted::is(Bug::WithoutOriginal) {
            true => position,
            false => correction.position,
        };
        let place = RowPlace {
            dictionary: &block.dictionary,
            corrects: Some(Corrected {
                position: original,
                index: correction.index,
                run: correction.run,
                checked_to: correction.checked_to,
            }),
            ..row_place(desk, index, command.tenant, (catalogs.version, 0), None)
        };
        let refused = |batch: &mut Batch, why: Rejection| {
            batch.note(why.reason);
            let outcome = OtherOutcome::Uncorrected(why);
            batch.others.push(|out| put_other(out, &place, before, &outcome));
        };
        if let Some(why) = known.corrections.refuse(correction, known.coverage.table_from) {
            refused(self, why);
            return Ok(());
        }
        let catalog = catalogs.of(team.0).cloned().unwrap_or_default();
        let binding = Binding::new(&catalog, &block.dictionary);
        let mut lines = Lines::new();
        let rated = correction.again.as_ref().map(|again| {
            let rating = Rating {
                catalog: &catalog,
                binding: &binding,
                dictionary: &block.dictionary,
                time_us: after.time_us.unwrap_or(again.time_us),
                append_time_us: desk.append_time_us,
            };
            let totals = Given(&again.totals, known.totals.of(&team));
            let outcome = rate(&rating, after, &totals, scratch, &mut lines)?;
            Ok((outcome, rating.time_us))
        });
        let now: Vec<StoredLine<'_>> =
            lines.iter().map(|line| StoredLine::of(line, &catalog)).collect();
        let again = match rated.transpose().and_then(|rated| {
            as_shown(correction.again.as_ref(), &now)?;
            Ok(rated)
        }) {
            Ok(again) => again,
            Err(why) => {
                refused(self, why);
                return Ok(());
            }
        };
        known.corrections.take(&mut self.corrects, correction, position);
        let account = |batch: &mut Batch, time_us| Account {
            tenant: batch_tenant(desk, command.tenant),
            team: batch.sums.intern(&team.1),
            bucket: bucket_of(time_us),
            // A correction never touches a hold: what it gives back goes where `ledger` says.
            hold: None,
        };
        let was = account(self, correction.time_us);
        self.book(was, &team, known, &correction.lines, -1);
        self.rows.push(|out| {
            put_reversal(
                out,
                &place,
                before,
                correction.time_us,
                correction.outcome,
                &correction.lines,
            );
        });
        if let Some((outcome, time_us)) = again {
            let is = account(self, time_us);
            self.book(is, &team, known, &now, 1);
            self.rows.push(|out| {
                put_usage_event(out, &place, after, time_us, outcome, &catalog, &lines);
            });
            if outcome == Outcome::Unpriced {
                self.note("unpriced");
            }
            if lines.iter().any(|line| catalog.misses_cost(line)) {
                self.note("uncosted");
            }
        }
        Ok(())
    }

    /// Adds lines to the sums and the running totals, or takes them out.
    fn book(
        &mut self,
        account: Account,
        team: &TeamName,
        known: &mut Known<'_>,
        lines: &[StoredLine<'_>],
        sign: i64,
    ) {
        for line in lines {
            self.sums.add_stored(account, line, sign);
            let Some((name, moved)) = &line.moved else { continue };
            let before = known.totals.of(team).before(name);
            let after = before.saturating_add(moved.saturating_mul(i128::from(sign)));
            known.totals.add(&mut self.changes, team, name, after);
        }
    }
}

/// Prices and totals may be other ones by now than those that were shown.
fn as_shown(again: Option<&Again>, now: &[StoredLine<'_>]) -> Result<(), Rejection> {
    if again.is_none_or(|again| fingerprint(now) == again.expected) {
        return Ok(());
    }
    Err(Rejection {
        reason: "correction_outdated",
        detail: "rated now, it comes to something else than was shown".into(),
    })
}
