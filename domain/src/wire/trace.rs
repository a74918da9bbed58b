//! Where a request stands in a distributed trace, carried beside its events: W3C Trace Context
//! without its flags, since only what is sampled is carried. See `docs/FORMATS.md`, "Traces".
//!
//! A trace explains and decides nothing: rating and posting are the same with and without it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::codec::{DecodeError, Input, Output};

/// Traces that one message carries, at most; of more than that many sampled requests the rest are
/// not followed beyond ingest.
pub const TRACES_MAX: usize = 64;
/// The stage of ingest that hands events to the log.
pub const APPEND: &str = "append";
/// The stage of the rater, below the request's span.
pub const RATE: &str = "rate";
/// The stage of the ledger-writer, below [`RATE`].
pub const POST: &str = "post";
/// The stage of the archiver, below [`RATE`].
pub const ARCHIVE: &str = "archive";
/// Bytes of one: trace and span.
const BYTES: usize = 24;

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
}

impl TraceContext {
    /// The span that a stage adds below this one. It follows from this one, so that a stage that
    /// does its work again after a crash names the same span, and the stage after it need not be told.
    #[must_use]
    pub fn below(&self, stage: &str, partition: u32) -> TraceContext {
        let mut bytes = Vec::with_capacity(64);
        bytes.raw(&self.trace.to_le_bytes());
        bytes.raw(&partition.to_le_bytes());
        bytes.raw(stage.as_bytes());
        TraceContext { trace: self.trace, span: xxh3_64_with_seed(&bytes, self.span).max(1) }
    }

    /// The span of a stage below this one, and that of the stage after it.
    #[must_use]
    pub fn after(&self, first: &str, then: &str, partition: u32) -> (TraceContext, TraceContext) {
        let first = self.below(first, partition);
        (first, first.below(then, partition))
    }
}

/// Adds traces to those of a message, as long as there is room.
pub fn add(traces: &mut Vec<TraceContext>, more: &[TraceContext]) {
    let room = TRACES_MAX.saturating_sub(traces.len());
    traces.extend(more.iter().take(room));
}

pub(super) fn encode(traces: &[TraceContext], out: &mut Vec<u8>) {
    out.length(traces.len());
    for context in traces {
        out.raw(&context.trace.to_le_bytes());
        out.raw(&context.span.to_le_bytes());
    }
}

pub(super) fn decode(input: &mut Input<'_>) -> Result<Vec<TraceContext>, DecodeError> {
    let count = input.count(BYTES)?;
    if count == 0 || count > TRACES_MAX {
        return Err(DecodeError::Field("traces"));
    }
    (0..count).map(|_| Ok(TraceContext { trace: input.u128()?, span: input.u64()? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_and_partition_has_a_span_of_its_own_and_the_same_each_time() {
        let root = TraceContext { trace: 7, span: 9 };
        let rate = root.below("rate", 3);
        assert_eq!(rate, root.below("rate", 3));
        assert_eq!(rate.trace, 7);
        let others = [root, root.below("post", 3), root.below("rate", 4), rate.below("rate", 3)];
        assert!(others.iter().all(|other| other.span != rate.span));
    }

    #[test]
    fn a_message_has_room_for_so_many() {
        let mut traces = vec![TraceContext { trace: 1, span: 1 }; TRACES_MAX - 1];
        add(&mut traces, &[TraceContext { trace: 2, span: 2 }, TraceContext { trace: 3, span: 3 }]);
        assert_eq!(traces.len(), TRACES_MAX);
        assert_eq!(traces.last(), Some(&TraceContext { trace: 2, span: 2 }));
    }

    #[test]
    fn a_list_has_one_up_to_so_many() {
        let list = |count| vec![TraceContext { trace: 1, span: 2 }; count];
        let read = |count| {
            let mut bytes = Vec::new();
            encode(&list(count), &mut bytes);
            decode(&mut Input::new(&bytes))
        };
        for count in [1, TRACES_MAX - 1, TRACES_MAX] {
            assert_eq!(read(count), Ok(list(count)));
        }
        for count in [0, TRACES_MAX + 1] {
            assert_eq!(read(count), Err(DecodeError::Field("traces")), "{count}");
        }
    }
}
