//! Keys that somebody forges who knows how they are made.

use anyhow::{Context as _, Result, ensure};

/// A well-formed key with the id of another, and a secret of 32 letters and digits: whoever knows an
/// id can make one.
pub fn key(other: &str, secret: &str) -> Result<String> {
    let id = other.split('_').nth(2).context("an id")?;
    let text = format!("weir_live_{id}_{secret}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let number = u64::from_be_bytes(digest.as_ref()[..8].try_into()?);
    let digits: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let digit = |place: u32| digits[usize::try_from(number / 62_u64.pow(place) % 62).unwrap_or(0)];
    let key = format!("{text}_{}", (0..6).map(digit).collect::<String>());
    ensure!(runtime::keys::parse(&key).is_ok(), "{key} is not well-formed");
    Ok(key)
}

/// A body within every limit of bytes and events whose names, each another one, need 60 KB of memory
/// for each kilobyte of it.
pub fn body_of_many_names(events: usize) -> String {
    let members: Vec<String> = (10..99).map(|number| format!("\"{number}\":1")).collect();
    let members = members.join(",");
    let event = |number: usize| {
        format!(
            r#"{{"id":"{number}","type":"x","subject":"t","data":{{"{number:0>640}":{{{members}}}}}}}"#
        )
    };
    format!("[{}]", (0..events).map(event).collect::<Vec<_>>().join(","))
}
