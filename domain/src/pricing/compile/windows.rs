//! Windows of the week.

use super::amount;
use crate::{
    pricing::time::{DAY_MINUTES, DAYS, Window},
    rate_card::Window as WindowRow,
};

/// Most windows of a row.
pub const WINDOWS_MAX: usize = 20;

/// The windows of a row, checked.
pub(super) fn windows(rows: &[WindowRow]) -> Result<Vec<Window>, String> {
    if rows.len() > WINDOWS_MAX {
        return Err(format!("it has {} windows; at most {WINDOWS_MAX}", rows.len()));
    }
    let numbered = (1_usize..).zip(rows);
    numbered
        .map(|(number, row)| {
            window(row).map_err(|reason| format!("window {number} of {}: {reason}", rows.len()))
        })
        .collect()
}

fn window(row: &WindowRow) -> Result<Window, String> {
    let (from, to) = (minute("from", &row.from)?, minute("to", &row.to)?);
    if from == to {
        return Err(format!("it begins and ends at {}; the whole day is 00:00 to 24:00", row.from));
    }
    if from == DAY_MINUTES {
        return Err("it begins at 24:00; write 00:00".into());
    }
    let amount = amount("price", &row.price)?;
    Ok(Window { days: days(row.days.as_deref())?, from, to, amount })
}

fn days(names: Option<&[String]>) -> Result<[bool; 7], String> {
    let Some(names) = names else { return Ok([true; 7]) };
    if names.is_empty() {
        return Err("its `days` are empty; leave them out for every day".into());
    }
    let unknown = |name: &&String| !DAYS.contains(&name.as_str());
    if let Some(name) = names.iter().find(unknown) {
        return Err(format!("`{name}` is no day; days are {}", DAYS.join(", ")));
    }
    Ok(DAYS.map(|day| names.iter().any(|name| name == day)))
}

/// Minutes since midnight of `HH:MM`, up to 24:00.
fn minute(name: &str, text: &str) -> Result<u16, String> {
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| digits)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
    parts
        .filter(|(_, minute)| *minute < 60)
        .and_then(|(hour, minute)| hour.checked_mul(60)?.checked_add(minute))
        .filter(|minute| *minute <= DAY_MINUTES)
        .ok_or_else(|| format!("its `{name}` is `{text}`; a time is 00:00 to 24:00"))
}
