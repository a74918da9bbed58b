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
mod credentials;
mod events;
mod json;
mod local_log;
#[path = "../../cli/src/replay/mapping.rs"]
mod mapping;
pub mod memory;
mod numbers;
mod rated;
mod rows;
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
    /// Bytes of memory that it may take for each byte of its input.
    factor: usize,
    /// Bytes of memory that it may take besides.
    room: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// A compressed section grows by at most this much.
const LZ4: usize = 256;

/// All targets.
pub const TARGETS: [Target; 26] = [
    target("api_key", credentials::api_key, 16, 4 * KIB),
    target("archive_block", archive::block, 64, 64 * KIB),
    target("archive_row", archive::row, 0, 4 * KIB),
    target("block", blocks::message, 2 * LZ4 * 64, 64 * KIB),
    target("block_body", blocks::body, 256, 64 * KIB),
    target("catalog", catalogs::catalog, 2048, 256 * KIB),
    target("cloudevents_binary", events::binary, 512, MIB),
    target("compressed_body", bodies::compressed, 8, 32 * MIB),
    target("csv_mapping", rows::csv_mapping, 1024, 256 * KIB),
    target("cursor", credentials::cursor, 64, 4 * KIB),
    target("door_message", events::door, 1024, MIB),
    target("events", events::body, 1024, MIB),
    target("filter_file", archive::filter, 8, 16 * KIB),
    target("json", json::scan, 64, 4 * KIB),
    target("lago", events::lago, 1024, MIB),
    target("llm_usage", catalogs::llm_usage, 1024, 16 * KIB),
    target("local_log", local_log::folder, 64, 8 * MIB),
    target("meter_field", catalogs::field, 64, 4 * KIB),
    target("number", numbers::number, 16, 4 * KIB),
    target("price_list", catalogs::price_list, 2048, 256 * KIB),
    target("rated_batch", rated::message, 4 * LZ4 * 64, 64 * KIB),
    target("rated_sections", rated::sections, 4 * LZ4 * 64, 64 * KIB),
    target("record", blocks::record, 256, 16 * KIB),
    target("time", numbers::time, 16, 4 * KIB),
    target("token", credentials::token, 256, 64 * KIB),
    target("token_signed", credentials::signed_token, 512, 64 * KIB),
];

const fn target(name: &'static str, decode: fn(&[u8]), factor: usize, room: usize) -> Target {
    Target { name, decode, factor, room }
}

impl Target {
    /// Runs it on an input and looks at the memory that it took.
    pub fn run(&self, input: &[u8]) {
        let taken = memory::peak(|| (self.decode)(input));
        let allowed = input.len() * self.factor + self.room;
        assert!(
            taken <= allowed,
            "{} took {taken} bytes for an input of {}, at most {allowed}",
            self.name,
            input.len()
        );
    }
}

/// Runs a target by its name.
pub fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.expect("a program has the name of a target").run(input);
}
