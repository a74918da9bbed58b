//! Which events were corrected lately: a correction is carried out once, and only on what its sender saw.
//! Pure, as [`crate::state`].
//!
//! What is remembered are the corrections from `S` on, as the duplicates table remembers identities: an
//! older one is in the archive below `S`, and whoever sends a correction says up to where he has
//! looked.

use domain::{
    planted::{self, Bug},
    rating::Rejection,
    wire::{correction::Correction, row::Corrected},
};
use hashbrown::HashMap;

/// The place of an event: position and index.
type Target = (i64, u32);

/// The newest correction of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    run: u32,
    /// Position of the command.
    position: i64,
}

/// Events with a correction at or after `S`.
#[derive(Clone, Debug, Default)]
pub struct Corrections(HashMap<Target, Newest>);

/// What a batch changed, with what was there before.
#[derive(Clone, Debug, Default)]
pub struct Corrects(Vec<(Target, Option<Newest>)>);

impl Corrects {
    /// Whether it carried out any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Corrections {
    /// Why a correction is not carried out: something else has happened to the event, or may have.
    #[must_use]
    pub fn refuse(&self, correction: &Correction<'_>, table_from: i64) -> Option<Rejection> {
        if planted::is(Bug::CorrectedTwice) {
            return None;
        }
        let refused = |reason, detail: String| Some(Rejection { reason, detail });
        match self.0.get(&(correction.position, correction.index)) {
            Some(newest) if newest.run.checked_add(1) == Some(correction.run) => None,
            Some(newest) => refused(
                "correction_superseded",
                format!(
                    "correction {} of the event stands at position {}; this is {}",
                    newest.run, newest.position, correction.run
                ),
            ),
            None if correction.checked_to.saturating_add(1) < table_from => refused(
                "correction_outdated",
                format!(
                    "it was made from what the archive had up to {}, and this was read when corrections from {table_from} on were \
                     remembered",
                    correction.checked_to
                ),
            ),
            None => None,
        }
    }

    /// Takes one, for the batch in the making.
    pub fn take(&mut self, changes: &mut Corrects, correction: &Correction<'_>, position: i64) {
        let target = (correction.position, correction.index);
        let before = self.0.insert(target, Newest { run: correction.run, position });
        changes.0.push((target, before));
    }

    /// Takes back what a batch changed; of several, the newest first.
    pub fn undo(&mut self, changes: Corrects) {
        for (target, before) in changes.0.into_iter().rev() {
            match before {
                Some(newest) => self.0.insert(target, newest),
                None => self.0.remove(&target),
            };
        }
    }

    /// Takes over a correction of an accepted batch that was read from `[rated]`.
    pub fn read(&mut self, position: i64, corrected: &Corrected) {
        let target = (corrected.position, corrected.index);
        self.0.insert(target, Newest { run: corrected.run, position });
    }

    /// Forgets what lies below `S`.
    pub fn forget_below(&mut self, table_from: i64) {
        self.0.retain(|_, newest| newest.position >= table_from);
    }

    /// How many are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use domain::rating::Outcome;

    use super::*;

    fn correction(run: u32, checked_to: i64) -> Correction<'static> {
        Correction {
            position: 7,
            index: 1,
            run,
            checked_to,
            time_us: 0,
            outcome: Outcome::Rated,
            lines: Vec::new(),
            again: None,
            block: &[],
        }
    }

    fn reason(of: &Corrections, correction: &Correction<'_>, table_from: i64) -> &'static str {
        of.refuse(correction, table_from).map_or("", |refused| refused.reason)
    }

    #[test]
    fn a_correction_is_carried_out_once_and_in_order() {
        let (mut all, mut first, mut second) =
            (Corrections::default(), Corrects::default(), Corrects::default());
        assert_eq!(reason(&all, &correction(1, 9), 10), "");
        assert_eq!(reason(&all, &correction(1, 8), 10), "correction_outdated");
        all.take(&mut first, &correction(1, 9), 12);
        assert_eq!(reason(&all, &correction(1, 9), 10), "correction_superseded");
        assert_eq!(reason(&all, &correction(3, 9), 10), "correction_superseded");
        // Whoever has seen the first may have seen it anywhere.
        assert_eq!(reason(&all, &correction(2, 0), 10), "");
        all.take(&mut second, &correction(2, 9), 13);
        all.undo(second);
        assert_eq!(reason(&all, &correction(2, 9), 10), "");
        all.undo(first);
        assert_eq!((reason(&all, &correction(1, 9), 10), all.count()), ("", 0));
    }

    #[test]
    fn what_lies_below_the_table_is_in_the_archive() {
        let mut all = Corrections::default();
        all.read(12, &Corrected { position: 7, index: 1, run: 4, checked_to: 0 });
        all.forget_below(12);
        assert_eq!(reason(&all, &correction(1, 11), 12), "correction_superseded");
        all.forget_below(13);
        assert_eq!(reason(&all, &correction(1, 11), 13), "correction_outdated");
        assert_eq!(reason(&all, &correction(5, 12), 13), "");
    }
}
