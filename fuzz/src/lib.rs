//! Fuzz targets: every decoder of bytes that come from outside or from the log.
//!
//! A target takes any bytes and says what is wrong by a panic. It must end, must not take more
//! memory than its input warrants, and where there is an encoder, what was read is written and read
//! back. `make fuzz` runs them under libFuzzer (`targets/`); `tests/corpus.rs` replays the kept
//! inputs of `corpus/` in `make test`, and needs no libFuzzer for it.

mod archive;
mod blocks;
mod bodies;
mod catalogs;
mod clickhouse;
mod credentials;
pub mod events;
mod json;
mod local_log;
#[path = "../../cli/src/replay/mapping.rs"]
mod mapping;
pub mod memory;
mod numbers;
mod questions;
mod rated;
mod readers;
#[path = "../../cli/src/replay/rows.rs"]
mod replay_rows;
mod rows;
#[path = "../../cli/src/verify/row.rs"]
mod verify_row;
mod world;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// One decoder, or a few that belong together.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of its program and of its folder in `corpus/`.
    pub name: &'static str,
    /// Takes any bytes.
    decode: fn(&[u8]),
    /// Bytes of memory that it may take for each byte of its input, of what was decompressed and of what
    /// a budget counted.
    factor: usize,
    /// Bytes of memory that it may take besides.
    room: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What a compressed section says of its plain size is believed up to this factor, until it turns out
/// to be wrong.
const LZ4: usize = 256;

/// All targets. Their limits are about twice what the corpus and runs of random changes to it have
/// taken: per byte, where inputs are large, and besides, what any input takes or what is taken once.
/// An entry of six bytes becomes a struct of some 200, and a line of a catalog several texts.
pub const TARGETS: [Target; 39] = [
    target("api_key", credentials::api_key, 4, 4 * KIB),
    target("archive_block", archive::block, 32, 64 * KIB),
    target("archive_row", archive::row, 0, KIB),
    target("block", blocks::message, LZ4 + 512, 64 * KIB),
    target("block_body", blocks::body, 512, 64 * KIB),
    target("catalog", catalogs::catalog, 64, 64 * KIB),
    target("catalog_change", catalogs::change, 64, 64 * KIB),
    target("clickhouse_blocks", clickhouse::blocks, LZ4 + 64, 32 * KIB),
    target("clickhouse_request", clickhouse::front, LZ4 + 64, 16 * KIB),
    target("clickhouse_statement", clickhouse::statement, 64, 16 * KIB),
    target("cloudevents_binary", events::binary, 64, 64 * KIB),
    target("compressed_body", bodies::compressed, 4, 16 * MIB),
    target("csv_file", rows::csv_file, 16, 24 * MIB),
    target("csv_mapping", rows::csv_mapping, 64, 64 * KIB),
    target("cursor", credentials::cursor, 16, 4 * KIB),
    target("door_message", events::door, 64, 64 * KIB),
    target("events", events::body, 64, 64 * KIB),
    target("filter_file", archive::filter, 16, 4 * KIB),
    target("formula", catalogs::formula, 4 * KIB, 8 * MIB),
    target("json", json::scan, 8, 4 * KIB),
    target("lago", events::lago, 64, 64 * KIB),
    target("llm_usage", catalogs::llm_usage, 64, 32 * KIB),
    target("local_log", local_log::folder, 64, 2 * MIB),
    target("meter_field", catalogs::field, 32, 4 * KIB),
    target("number", numbers::number, 8, 4 * KIB),
    target("price_list", catalogs::price_list, 64, 64 * KIB),
    target("rated_batch", rated::message, LZ4 + 64, 64 * KIB),
    target("rated_readers", readers::batch, LZ4 + 128, 64 * KIB),
    target("rated_sections", rated::sections, LZ4 + 64, 64 * KIB),
    target("rating", readers::block, LZ4 + 512, 64 * KIB),
    target("receipt", questions::receipt, 8, 4 * KIB),
    target("record", blocks::record, 32, 4 * KIB),
    target("sent_again", questions::sent_again, 64, 64 * KIB),
    target("time", numbers::time, 8, 4 * KIB),
    target("token", credentials::token, 64, 16 * KIB),
    target("token_signed", credentials::signed_token, 64, 16 * KIB),
    target("traceparent", numbers::traceparent, 8, 4 * KIB),
    target("usage_question", questions::usage, 64, 256 * KIB),
    target("verified_row", archive::verified_row, 64, 64 * KIB),
];

const fn target(name: &'static str, decode: fn(&[u8]), factor: usize, room: usize) -> Target {
    Target { name, decode, factor, room }
}

impl Target {
    /// Runs it on an input and looks at the memory that it took. Answers that, and the bytes that
    /// warranted it: those of the input and those that it said are [`memory::plain`].
    pub fn run(&self, input: &[u8]) -> (usize, usize) {
        let (taken, plain) = memory::peak(|| (self.decode)(input));
        let bytes = input.len() + plain;
        let allowed = bytes * self.factor + self.room;
        assert!(
            taken <= allowed,
            "{} took {taken} bytes for an input of {} and {plain} decompressed or counted, at most {allowed}",
            self.name,
            input.len()
        );
        (taken, bytes)
    }
}

/// Runs a target by its name.
pub fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.expect("a program has the name of a target").run(input);
}
