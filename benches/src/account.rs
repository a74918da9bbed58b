//! What the books must say after a load: plain arithmetic, with nothing of what is tested.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::generator::{Fate, Generator, team_name};

/// One, in units of the last of twelve decimals.
pub const ONE: i128 = 1_000_000_000_000;
/// Meter of prompt tokens.
pub const INPUT_METER: &str = "llm_input_tokens";
/// Meter of generated tokens.
pub const OUTPUT_METER: &str = "llm_output_tokens";
/// The currency of both cards.
pub const CURRENCY: &str = "USD";

/// An amount for every `per` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The amount in units of 10⁻⁶.
    pub micros: i128,
    /// How many tokens it is for.
    pub per: i128,
}

impl Price {
    /// The price of a number of tokens in units of the last decimal, rounded half to even.
    #[must_use]
    pub fn of(self, tokens: u64) -> i128 {
        let product = self.micros * (ONE / 1_000_000) * i128::from(tokens);
        let (whole, rest) = (product / self.per, product % self.per);
        match (rest * 2).cmp(&self.per) {
            Ordering::Less => whole,
            Ordering::Greater => whole + 1,
            Ordering::Equal => whole + whole % 2,
        }
    }

    /// The amount as a catalog says it.
    #[must_use]
    pub fn amount(self) -> String {
        format!("{}.{:06}", self.micros / 1_000_000, self.micros % 1_000_000)
    }
}

/// A model with what we charge and what it costs us.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Who runs it.
    pub provider: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Charges of prompt and generated tokens.
    pub charge: [Price; 2],
    /// Costs of prompt and generated tokens.
    pub cost: [Price; 2],
}

/// The price of a million tokens.
const fn million(micros: i128) -> Price {
    Price { micros, per: 1_000_000 }
}

/// The models that the load calls. One price is for 3 tokens, so that rounding matters.
pub const MODELS: [Model; 4] = [
    Model {
        provider: "openai",
        name: "gpt-4-turbo",
        charge: [Price { micros: 40, per: 3 }, Price { micros: 40_000, per: 1_000 }],
        cost: [million(10_000_000), million(30_000_000)],
    },
    Model {
        provider: "openai",
        name: "gpt-4.1-mini",
        charge: [million(600_000), million(2_400_000)],
        cost: [million(400_000), million(1_600_000)],
    },
    Model {
        provider: "anthropic",
        name: "claude-sonnet-4",
        charge: [Price { micros: 11, per: 7 }, million(19_000_000)],
        cost: [million(3_000_000), million(15_000_000)],
    },
    Model {
        provider: "mistral",
        name: "mistral-small",
        charge: [million(150_000), million(450_000)],
        cost: [million(100_000), million(300_000)],
    },
];

/// Sums of one meter of one team.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events.
    pub events: i64,
    /// Tokens, in units of the last decimal like the amounts.
    pub quantity: i128,
    /// What the team owes.
    pub charge: i128,
    /// What providers charge.
    pub cost: i128,
}

impl Sums {
    /// Adds others.
    pub fn add(&mut self, other: Sums) {
        self.events += other.events;
        self.quantity += other.quantity;
        self.charge += other.charge;
        self.cost += other.cost;
    }
}

/// The two lines of a call.
#[must_use]
pub fn lines(model: &Model, input: u64, output: u64) -> [Sums; 2] {
    let ([charge_in, charge_out], [cost_in, cost_out]) = (model.charge, model.cost);
    let line = |tokens: u64, charge: Price, cost: Price| Sums {
        events: 1,
        quantity: i128::from(tokens) * ONE,
        charge: charge.of(tokens),
        cost: cost.of(tokens),
    };
    [line(input, charge_in, cost_in), line(output, charge_out, cost_out)]
}

/// Events by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Priced.
    pub rated: u64,
    /// Repeats of others.
    pub duplicates: u64,
    /// Refused by the rater.
    pub rejected: u64,
}

impl Fates {
    fn add(&mut self, fate: Fate) {
        match fate {
            Fate::Rated => self.rated += 1,
            Fate::Duplicate(_) => self.duplicates += 1,
            Fate::Rejected => self.rejected += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.rated + self.duplicates + self.rejected
    }
}

/// Sums per (team, meter).
pub type Books = BTreeMap<(String, String), Sums>;

/// What must be in the books.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Sums per team and meter.
    pub books: Books,
    /// How many events have which fate.
    pub fates: Fates,
}

impl Account {
    /// The account of the first `count` events of a generator.
    #[must_use]
    pub fn of(generator: &Generator, count: u64) -> Account {
        let mut fates = Fates::default();
        let mut sums = vec![[Sums::default(); 2]; generator.teams()];
        for number in 0..count {
            let fate = generator.fate(number);
            fates.add(fate);
            if fate != Fate::Rated {
                continue;
            }
            let call = generator.call(number);
            let team = usize::try_from(call.team).ok().and_then(|team| sums.get_mut(team));
            if let (Some([of_input, of_output]), Some(model)) = (team, MODELS.get(call.model)) {
                let [input, output] = lines(model, call.input, call.output);
                of_input.add(input);
                of_output.add(output);
            }
        }
        let mut account = Account { books: Books::new(), fates };
        for (team, [input, output]) in (0_u32..).zip(sums) {
            if input.events > 0 {
                let name = team_name(team);
                account.books.insert((name.clone(), INPUT_METER.to_owned()), input);
                account.books.insert((name, OUTPUT_METER.to_owned()), output);
            }
        }
        account
    }

    /// Adds a call of `team` that is rated.
    pub fn add(&mut self, team: &str, model: &Model, input: u64, output: u64) {
        self.fates.rated += 1;
        for (meter, line) in
            [INPUT_METER, OUTPUT_METER].into_iter().zip(lines(model, input, output))
        {
            self.books.entry((team.to_owned(), meter.to_owned())).or_default().add(line);
        }
    }

    /// The sums of all teams and meters.
    #[must_use]
    pub fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.books.values().for_each(|sums| total.add(*sums));
        total
    }

    /// The first place where other books differ, in words.
    #[must_use]
    pub fn first_difference(&self, found: &Books) -> Option<String> {
        let name = |(team, meter): &(String, String)| format!("{team}, {meter}");
        for (key, want) in &self.books {
            match found.get(key) {
                Some(sums) if sums == want => {}
                Some(sums) => return Some(format!("{}: {sums:?} instead of {want:?}", name(key))),
                None => return Some(format!("{}: nothing instead of {want:?}", name(key))),
            }
        }
        let extra = found.iter().find(|(key, _)| !self.books.contains_key(*key));
        extra.map(|(key, sums)| format!("{}: {sums:?} instead of nothing", name(key)))
    }
}

/// Reads a decimal number of at most twelve decimals, in units of the last one.
#[must_use]
pub fn parse(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if part.len() > 12 || whole.is_empty() || !plain(whole) || !plain(part) {
        return None;
    }
    let part: i128 = format!("{part:0<12}").parse().ok()?;
    Some(sign * (whole.parse::<i128>().ok()? * ONE + part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_by_hand() {
        let [input, output] = lines(&MODELS[0], 1, 1_500);
        // 0.00004 / 3 and 0.04 × 1.5; costs 10 / 10⁶ and 30 × 1,500 / 10⁶.
        assert_eq!((input.charge, output.charge), (13_333_333, 60_000_000_000));
        assert_eq!((input.cost, output.cost), (10_000_000, 45_000_000_000));
        // 0.000011 / 7 × 3 = 0.000004714285714285…
        assert_eq!(lines(&MODELS[2], 3, 1)[0].charge, 4_714_286);
        // Ties go to the even neighbour: 0.5, 1.5 and 2.5 units.
        let half = Price { micros: 1, per: 2_000_000 };
        assert_eq!([1, 3, 5].map(|tokens| half.of(tokens)), [0, 2, 2]);
        assert_eq!(Price { micros: 40, per: 3 }.amount(), "0.000040");
        assert_eq!(million(19_000_000).amount(), "19.000000");
    }

    #[test]
    fn an_account_by_hand() {
        let mut account = Account::default();
        account.add("a", &MODELS[0], 3, 1_000);
        account.add("a", &MODELS[1], 1_000_000, 500_000);
        account.add("b", &MODELS[0], 6, 2_000);
        let sums = |events, tokens: i128, charge: &str, cost: &str| Sums {
            events,
            quantity: tokens * ONE,
            charge: parse(charge).unwrap(),
            cost: parse(cost).unwrap(),
        };
        let key = |team: &str, meter: &str| (team.to_owned(), meter.to_owned());
        let want = Books::from([
            (key("a", INPUT_METER), sums(2, 1_000_003, "0.60004", "0.40003")),
            (key("a", OUTPUT_METER), sums(2, 501_000, "1.24", "0.83")),
            (key("b", INPUT_METER), sums(1, 6, "0.00008", "0.00006")),
            (key("b", OUTPUT_METER), sums(1, 2_000, "0.08", "0.06")),
        ]);
        assert_eq!(account.books, want);
        assert_eq!(account.fates, Fates { rated: 3, duplicates: 0, rejected: 0 });
        assert_eq!(account.total(), sums(6, 1_503_009, "1.92012", "1.29009"));
        assert_eq!(account.first_difference(&want), None);
    }

    #[test]
    fn a_difference_is_named() {
        let mut account = Account::default();
        account.add("a", &MODELS[0], 3, 1_000);
        let mut found = account.books.clone();
        found.insert(("z".to_owned(), INPUT_METER.to_owned()), Sums::default());
        assert!(account.first_difference(&found).unwrap().starts_with("z, llm_input_tokens"));
        found.values_mut().next().unwrap().charge += 1;
        let difference = account.first_difference(&found).unwrap();
        assert!(difference.starts_with("a, llm_input_tokens: "), "{difference}");
        assert!(account.first_difference(&Books::new()).unwrap().contains("nothing instead"));
    }

    #[test]
    fn decimals_are_read_exactly() {
        assert_eq!(parse("-12.5"), Some(-12_500_000_000_000));
        assert_eq!(parse("0.000000000001"), Some(1));
        for text in ["", "-", "1e3", "1.0000000000001", "+1", "."] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
