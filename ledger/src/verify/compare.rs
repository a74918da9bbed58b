//! Sums of two books, side by side.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Check, VerifyError};

/// What one sum is about, in words for people; it is the order of the comparison as well.
pub type Key = String;
/// Sums by what they are about; raw values (10⁻¹²) and counts.
pub type Sums = BTreeMap<Key, Vec<i128>>;

/// Compares the sums of the ledger with those of the archive. A sum that is all zeros may be absent.
pub fn compare(check: &mut Check, ledger: &Sums, archive: &Sums) {
    let keys: std::collections::BTreeSet<&Key> = ledger.keys().chain(archive.keys()).collect();
    check.rows = check.rows.saturating_add(u64::try_from(keys.len()).unwrap_or(u64::MAX));
    for key in keys {
        let (ours, theirs) = (ledger.get(key), archive.get(key));
        if ours.map(Vec::as_slice) != theirs.map(Vec::as_slice) && !(zero(ours) && zero(theirs)) {
            check.blame(|| {
                format!("{key}: the ledger has {}, the archive {}", shown(ours), shown(theirs))
            });
        }
    }
}

fn zero(sums: Option<&Vec<i128>>) -> bool {
    sums.is_none_or(|sums| sums.iter().all(|sum| *sum == 0))
}

fn shown(sums: Option<&Vec<i128>>) -> String {
    let Some(sums) = sums else { return "nothing".to_owned() };
    sums.iter().map(i128::to_string).collect::<Vec<_>>().join(", ")
}

/// Text of a member of a row of ClickHouse's JSON.
pub fn text<'a>(row: &'a Value, name: &str) -> Result<&'a str, VerifyError> {
    row.get(name).and_then(Value::as_str).ok_or_else(|| unreadable(row))
}

/// A whole number of such a row; wide ones arrive as text.
pub fn number<T: std::str::FromStr>(row: &Value, name: &str) -> Result<T, VerifyError> {
    let value = row.get(name).ok_or_else(|| unreadable(row))?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|_| unreadable(row))
}

/// A decimal of such a row as a raw value.
pub fn decimal(row: &Value, name: &str) -> Result<i128, VerifyError> {
    raw_of(text(row, name)?).ok_or_else(|| unreadable(row))
}

fn unreadable(row: &Value) -> VerifyError {
    VerifyError::Answer(row.to_string())
}

/// The raw value of a decimal numeral of at most 12 decimals.
fn raw_of(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 12 || !plain(whole) || !plain(fraction) {
        return None;
    }
    let raw: i128 = format!("{whole}{fraction:0<12}").parse().ok()?;
    Some(if negative { -raw } else { raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly_or_not_at_all() {
        let one = 1_000_000_000_000;
        for (text, raw) in [("0", 0), ("1", one), ("-1.5", -one - one / 2), ("0.000000000001", 1)] {
            assert_eq!(raw_of(text), Some(raw), "{text}");
        }
        for text in ["", "-", ".5", "1e3", "0.0000000000001", "1.-5"] {
            assert_eq!(raw_of(text), None, "{text}");
        }
    }

    #[test]
    fn sums_differ_unless_both_are_nothing() {
        let sums = |all: &[(&str, &[i128])]| -> Sums {
            all.iter().map(|(key, sums)| ((*key).to_owned(), sums.to_vec())).collect()
        };
        let mut check = Check::new("sums");
        let ledger = sums(&[("a", &[1, 2]), ("b", &[0, 0]), ("c", &[3, 4]), ("d", &[1, 1])]);
        let archive = sums(&[("a", &[1, 2]), ("c", &[3, 5]), ("e", &[0, 1])]);
        compare(&mut check, &ledger, &archive);
        assert_eq!((check.rows, check.bad), (5, 3));
        let first = check.first_bad.unwrap();
        assert_eq!(first, "c: the ledger has 3, 4, the archive 3, 5");
    }
}
