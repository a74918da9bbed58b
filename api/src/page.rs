//! Lists in pages: `limit` and an opaque cursor over a stable order.

use std::fmt::Write as _;

use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Items of a page unless asked otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Items of a page at most.
pub(crate) const LIMIT_MAX: u32 = 1_000;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// Items of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next_cursor: Option<String>,
}

/// A page asked for, with the place after which it begins.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub limit: u32,
    pub after: Option<Vec<String>>,
}

impl Asked {
    /// Rows to fetch: one more than the page, to know whether there is a next one.
    pub fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// The `place`-th part of the cursor.
    pub fn after(&self, place: usize) -> Option<&str> {
        self.after.as_deref()?.get(place).map(String::as_str)
    }

    /// The `place`-th part of the cursor as a number.
    pub fn after_number(&self, place: usize) -> Result<Option<i64>, Problem> {
        self.after(place).map(|text| text.parse().map_err(|_| cursor_invalid())).transpose()
    }
}

/// Checks a page's limit and reads its cursor, which has `parts` parts.
pub(crate) fn asked(
    limit: Option<u32>,
    cursor: Option<&str>,
    parts: usize,
) -> Result<Asked, Problem> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MAX {
        return Err(Problem::bad_request(
            "limit_invalid",
            format!("limit is {limit}"),
            format!("give a limit between 1 and {LIMIT_MAX}"),
        ));
    }
    let after = cursor
        .map(|text| decode(text).filter(|after| after.len() == parts).ok_or_else(cursor_invalid));
    Ok(Asked { limit, after: after.transpose()? })
}

impl PageQuery {
    /// [`asked`].
    pub fn asked(&self, parts: usize) -> Result<Asked, Problem> {
        asked(self.limit, self.cursor.as_deref(), parts)
    }
}

/// Cuts the one row too many off and makes the cursor of the last item that stays.
pub(crate) fn page<T>(
    asked: &Asked,
    mut items: Vec<T>,
    place: impl Fn(&T) -> Vec<String>,
) -> Page<T> {
    let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| encode(&place(last)));
    Page { items, next_cursor }
}

/// The answer to a cursor that is none.
pub(crate) fn cursor_invalid() -> Problem {
    Problem::bad_request(
        "cursor_invalid",
        "the cursor is not one of ours",
        "take next_cursor of the page before, of the same list",
    )
}

/// A cursor of these parts.
pub(crate) fn encode(parts: &[String]) -> String {
    let text = serde_json::to_string(parts).unwrap_or_default();
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn decode(cursor: &str) -> Option<Vec<String>> {
    let digits = cursor.as_bytes();
    if !digits.len().is_multiple_of(2) || !cursor.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    serde_json::from_slice(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_others_are_refused() {
        let parts = vec!["team/1 ü".to_owned(), "7".to_owned()];
        let cursor = encode(&parts);
        assert_eq!(asked(Some(3), Some(&cursor), 2).unwrap().after, Some(parts));
        for (limit, cursor, parts) in [
            (3, cursor.as_str(), 1),
            (3, "zz", 1),
            (3, "5", 1),
            (3, "ü", 1),
            (0, "5b5d", 0),
            (1001, "5b5d", 0),
        ] {
            assert!(asked(Some(limit), Some(cursor), parts).is_err(), "{limit} {cursor} {parts}");
        }
        let asked = asked(Some(2), None, 1).unwrap();
        let first = page(&asked, vec![1, 2, 3], |item| vec![item.to_string()]);
        assert_eq!(
            (first.items, decode(&first.next_cursor.unwrap())),
            (vec![1, 2], Some(vec!["2".to_owned()]))
        );
        assert!(page(&asked, vec![1, 2], |item| vec![item.to_string()]).next_cursor.is_none());
    }
}
