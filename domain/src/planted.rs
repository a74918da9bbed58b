//! Mistakes that a build with the feature `planted` can make on purpose, one at a time, so that it is
//! seen which test catches each (`make test-planted`). Any other build makes none of them and knows
//! nothing of the variable that chooses one.

/// A mistake, by the number that `WEIR_PLANT` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// 1: the ledger's place moves in a transaction of its own.
    PlaceMovesApart,
    /// 2: the table of duplicates is rebuilt with events that did not take their id.
    OthersTakeIds,
    /// 3: an event's time is part of what identifies it.
    TimeIdentifies,
    /// 4: a batch is accepted whose `from` is at or before `X + 1`.
    EarlierFrom,
    /// 4b: the hash of the batch before is not compared.
    PrevIgnored,
    /// 5: a request is answered before the log has its events.
    AnswerBeforeAck,
    /// 6: the slow lane's place is stored before its append is acknowledged.
    LanePlaceFirst,
    /// 7: what a batch that was not accepted took stays taken.
    OverlayKept,
    /// 8: an amount is rounded twice.
    RoundedTwice,
    /// 9: rejected events of a group without rated ones are not archived.
    RejectsDropped,
    /// 10: a question to the archive has no tenant.
    TenantForgotten,
    /// 11: an archiver that starts again cuts its groups anew.
    BordersForgotten,
    /// 12: catalogs change when their version is first read of, not at its marker.
    CatalogByClock,
    /// 13: a verdict is believed however far the archive was.
    CheckedToIgnored,
    /// 15: what a hold reserves is freed without waiting for what was in the log when it ended.
    EndNotAwaited,
    /// 16: a settlement does not compare its number, and locks no partition.
    SettledWithoutFence,
    /// 17: a hold takes an item on again at each settlement.
    CapturedAgain,
    /// 18: a rater that starts takes running totals for zero.
    TotalsNotRecovered,
    /// 19: a correction is carried out however often it comes.
    CorrectedTwice,
    /// 20: what closes a period has another id each time.
    ClosedAnew,
    /// 21: what is observed after the close of a period does not amend it.
    NotAmended,
    /// 22: a reversal does not name the event that it takes back.
    WithoutOriginal,
}

#[cfg(feature = "planted")]
impl Bug {
    const fn number(self) -> &'static str {
        match self {
            Self::PlaceMovesApart => "1",
            Self::OthersTakeIds => "2",
            Self::TimeIdentifies => "3",
            Self::EarlierFrom => "4",
            Self::PrevIgnored => "4b",
            Self::AnswerBeforeAck => "5",
            Self::LanePlaceFirst => "6",
            Self::OverlayKept => "7",
            Self::RoundedTwice => "8",
            Self::RejectsDropped => "9",
            Self::TenantForgotten => "10",
            Self::BordersForgotten => "11",
            Self::CatalogByClock => "12",
            Self::CheckedToIgnored => "13",
            Self::EndNotAwaited => "15",
            Self::SettledWithoutFence => "16",
            Self::CapturedAgain => "17",
            Self::TotalsNotRecovered => "18",
            Self::CorrectedTwice => "19",
            Self::ClosedAnew => "20",
            Self::NotAmended => "21",
            Self::WithoutOriginal => "22",
        }
    }
}

/// Whether this process makes the mistake.
#[cfg(feature = "planted")]
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a build for one test, which chooses by it")]
pub fn is(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("WEIR_PLANT").unwrap_or_default()) == *bug.number()
}

/// No.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}
