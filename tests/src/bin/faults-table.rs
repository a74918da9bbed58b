//! Makes the table of totals in `docs/RELIABILITY.md` from the runs that are kept in
//! `tests/data/faults.jsonl`.

use std::io::Write as _;

use anyhow::Result;
use tests::harness::table::{document, renew};

fn main() -> Result<()> {
    let what = if renew()? { "has another table" } else { "is as it must be" };
    writeln!(std::io::stdout(), "{} {what}", document().display())?;
    Ok(())
}
