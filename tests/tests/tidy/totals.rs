//! The totals in `docs/RELIABILITY.md` are those of the runs that are kept.

use tests::harness::table;

#[test]
fn the_totals_are_those_of_the_kept_runs() {
    let (document, renewed) = table::renewed().unwrap();
    assert_eq!(document, renewed, "run: cargo run --locked --bin faults-table");
}
