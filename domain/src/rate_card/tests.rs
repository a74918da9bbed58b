//! Which row prices usage, and what a plain row may say.

use super::*;
use crate::money::Amount;

fn price(text: &str) -> Rate {
    Rate::Price(Price { amount: Amount::parse_exact(text).unwrap(), per: 1 })
}

#[test]
fn the_most_specific_row_wins_and_absence_is_no_price() {
    let mut table = RateTable::default();
    assert!(table.insert(&[(0, "gpt-4")], price("2")));
    assert!(table.insert(&[(0, "gpt-4"), (1, "eu")], price("3")));
    assert!(!table.insert(&[(0, "gpt-4")], price("9")));
    let mut scratch = Vec::new();
    assert_eq!(table.find(&[Some("gpt-4"), Some("eu")], &mut scratch), Some(&price("3")));
    assert_eq!(table.find(&[Some("gpt-4"), Some("us")], &mut scratch), Some(&price("2")));
    assert_eq!(table.find(&[Some("gpt-4"), None], &mut scratch), Some(&price("2")));
    assert_eq!(table.find(&[Some("gpt-5"), Some("eu")], &mut scratch), None);
    assert!(table.insert(&[], Rate::Unlimited));
    assert_eq!(table.find(&[None::<&str>, None], &mut scratch), Some(&Rate::Unlimited));
}

#[test]
fn the_row_of_an_explanation_is_the_one_that_priced() {
    let names = ["model", "region", "tier"];
    let version = |shapes: &[&[(&str, &str)]]| CardVersion {
        version: 1,
        effective_from_us: 0,
        rates: shapes
            .iter()
            .zip(1..)
            .map(|(shape, number)| RateRow {
                meter: "m".into(),
                dimensions: shape
                    .iter()
                    .map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
                price: Some(number.to_string()),
                ..RateRow::default()
            })
            .collect(),
    };
    let versions = [
        version(&[&[("region", "a")], &[("model", "a")], &[("model", "b"), ("tier", "a")], &[]]),
        version(&[&[], &[("tier", "b")], &[("model", "a")], &[("tier", "a")], &[("region", "a")]]),
        version(&[&[("model", "b"), ("region", "b")], &[("region", "a"), ("tier", "b")]]),
    ];
    let values = [None, Some("a"), Some("b")];
    let mut scratch = Vec::new();
    for version in &versions {
        let mut table = RateTable::default();
        for row in &version.rates {
            let numbered = names.iter().enumerate();
            let numbered = numbered.filter_map(|(number, name)| {
                row.dimensions.get(*name).map(|value| (number, value.as_str()))
            });
            assert!(table.insert(&numbered.collect::<Vec<_>>(), row.rate().unwrap()));
        }
        for number in 0..27 {
            let given = [number % 3, number / 3 % 3, number / 9].map(|place| values[place]);
            let dimensions: BTreeMap<String, String> = names
                .iter()
                .zip(given)
                .filter_map(|(name, value)| Some(((*name).to_owned(), value?.to_owned())))
                .collect();
            let row = version.row("m", &dimensions).map(|row| row.rate().unwrap());
            assert_eq!(row.as_ref(), table.find(&given, &mut scratch), "{given:?}");
            assert_eq!(version.row("other", &dimensions), None);
        }
    }
}

#[test]
fn rows_are_refused_with_their_reason() {
    let row = |price: Option<&str>, per, unlimited| RateRow {
        meter: "m".into(),
        price: price.map(Into::into),
        per,
        unlimited,
        ..RateRow::default()
    };
    assert!(row(Some("1"), 0, false).rate().unwrap_err().contains("per"));
    assert!(row(Some("1"), 1, true).rate().unwrap_err().contains("both"));
    assert!(row(None, 1, false).rate().unwrap_err().contains("neither"));
    assert!(row(Some("-1"), 1, false).rate().unwrap_err().contains("negative"));
    assert!(row(Some("1e-13"), 1, false).rate().unwrap_err().contains("12 decimals"));
    assert_eq!(row(Some("0"), 1, false).rate(), Ok(price("0")));
}

#[test]
fn a_price_is_for_one_unit_up_to_a_trillion() {
    let row =
        |per| RateRow { meter: "m".into(), price: Some("1".into()), per, ..RateRow::default() };
    for per in [1, 2, PER_MAX - 1, PER_MAX] {
        let price = Price { amount: Amount::parse_exact("1").unwrap(), per };
        assert_eq!(row(per).rate(), Ok(Rate::Price(price)));
    }
    for per in [0, PER_MAX + 1, u64::MAX] {
        assert!(row(per).rate().unwrap_err().contains("between 1 and 1000000000000"), "{per}");
        // A row without a price says `per` as well.
        let free = RateRow { price: None, unlimited: true, ..row(per) };
        assert!(free.rate().is_err(), "{per}");
    }
    // The least that such a price comes to: one unit is charged a trillionth.
    let least = Price { amount: Amount::parse_exact("1").unwrap(), per: PER_MAX };
    assert_eq!(least.charge(crate::money::ONE).unwrap().raw(), 1);
}
