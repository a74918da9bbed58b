//! What the books must say after a replay: plain arithmetic over the CSV files, none of `domain`.

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use anyhow::{Context as _, Result};
use benches::spread::Spread;

/// A unit of the last of twelve decimals.
const ONE: i128 = 1_000_000_000_000;

/// The two traces, beside this crate's sources.
pub fn traces() -> [PathBuf; 2] {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/azure-llm-2023");
    [folder.join("code.csv.zst"), folder.join("conv.csv.zst")]
}

/// One row of a trace.
#[derive(Clone, Debug)]
pub struct Row {
    /// The id of its event.
    pub id: String,
    /// Its team.
    pub team: String,
    /// Tokens of the prompt.
    pub prompt: i128,
    /// Tokens generated.
    pub generated: i128,
}

/// All rows as `weir replay` names and spreads them.
pub fn rows(spread: &Spread) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for path in traces() {
        let name =
            path.file_stem().context("a file without a name")?.to_string_lossy().into_owned();
        let mut reader = csv::Reader::from_reader(zstd::Decoder::new(File::open(&path)?)?);
        for (number, record) in reader.records().enumerate() {
            let record = record?;
            let number = number as u64 + 1;
            rows.push(Row {
                id: format!("{name}:{number}"),
                team: spread.team(number),
                prompt: record[1].trim().parse()?,
                generated: record[2].trim().parse()?,
            });
        }
    }
    Ok(rows)
}

/// What `per` tokens cost, in units of the last decimal.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// The amount.
    pub amount: i128,
    /// For how many tokens.
    pub per: i128,
}

impl Price {
    /// The price of a number of tokens, rounded once, half to even.
    pub fn of(self, tokens: i128) -> i128 {
        let (whole, rest) = (tokens * self.amount / self.per, tokens * self.amount % self.per);
        match (rest * 2).cmp(&self.per) {
            std::cmp::Ordering::Less => whole,
            std::cmp::Ordering::Greater => whole + 1,
            std::cmp::Ordering::Equal => whole + whole % 2,
        }
    }
}

/// Prices of the two meters in one version of a card.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    /// Of `llm_input_tokens`.
    pub input: Price,
    /// Of `llm_output_tokens`.
    pub output: Price,
}

/// The demo's rate card: 0.00004 for 3 tokens, 0.04 for 1,000.
pub const CHARGE: Prices = Prices {
    input: Price { amount: ONE / 25_000, per: 3 },
    output: Price { amount: ONE / 25, per: 1_000 },
};
/// The demo's cost card: 10 and 30 for 1,000,000.
pub const COST: Prices = Prices {
    input: Price { amount: 10 * ONE, per: 1_000_000 },
    output: Price { amount: 30 * ONE, per: 1_000_000 },
};

/// Sums of one meter of one team.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events.
    pub events: i128,
    /// Tokens, in units of the last decimal like the amounts.
    pub quantity: i128,
    /// What the team owes.
    pub charge: i128,
    /// What providers charge.
    pub cost: i128,
}

impl Sums {
    /// Adds other sums.
    pub fn add(&mut self, other: Sums) {
        self.events += other.events;
        self.quantity += other.quantity;
        self.charge += other.charge;
        self.cost += other.cost;
    }
}

/// Sums per (team, meter).
pub type Books = BTreeMap<(String, String), Sums>;

/// The books after every row took effect once, each at the prices that `charge` gives it.
pub fn books(rows: &[Row], charge: impl Fn(&Row) -> Prices) -> Books {
    let mut books = Books::new();
    for row in rows {
        let charge = charge(row);
        let meters = [
            ("llm_input_tokens", row.prompt, charge.input, COST.input),
            ("llm_output_tokens", row.generated, charge.output, COST.output),
        ];
        for (meter, tokens, price, cost) in meters {
            let sums = Sums {
                events: 1,
                quantity: tokens * ONE,
                charge: price.of(tokens),
                cost: cost.of(tokens),
            };
            books.entry((row.team.clone(), meter.to_owned())).or_default().add(sums);
        }
    }
    books
}

/// Reads a decimal number of at most twelve decimals.
pub fn parse(text: &str) -> Result<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    anyhow::ensure!(part.len() <= 12 && !digits.is_empty(), "{text:?} is no amount");
    Ok(sign * (whole.parse::<i128>()? * ONE + format!("{part:0<12}").parse::<i128>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_traces_are_whole() {
        let rows = rows(&Spread::new(20, 1, 1.0)).unwrap();
        let (prompt, generated) =
            rows.iter().fold((0, 0), |sum, row| (sum.0 + row.prompt, sum.1 + row.generated));
        assert_eq!((rows.len(), prompt, generated), (28_185, 40_421_844, 4_334_561));
    }

    #[test]
    fn prices_by_hand() {
        // 1 token: 0.0000133333333333; 2: 0.0000266666666667; 3: 0.00004
        let charges = [1, 2, 3].map(|tokens| CHARGE.input.of(tokens));
        assert_eq!(charges, [13_333_333, 26_666_667, 40_000_000]);
        let ties = [1, 3, 5].map(|tokens| Price { amount: 1, per: 2 }.of(tokens));
        assert_eq!(ties, [0, 2, 2]);
        assert_eq!(parse("-12.5").unwrap(), -12_500_000_000_000);
        assert_eq!(parse("0.000000000001").unwrap(), 1);
    }
}
