//! Bytes that are no events, or none that can be accepted.

use benches::generator::mix;

/// More than an event may have.
const OVERSIZED: usize = 300 << 10;
/// Deeper than anything may be nested.
const DEEP: usize = 100;

/// A body of one of ten kinds.
pub fn body(roll: u64) -> Vec<u8> {
    let event = |data: &str| {
        format!(
            r#"{{"id":"poison-{roll:x}","source":"poison","type":"llm.tokens.v1","subject":"poison","data":{data}}}"#
        )
        .into_bytes()
    };
    let usual = r#"{"provider":"openai","model":"gpt-4-turbo","inputTokens":1,"outputTokens":1}"#;
    match roll % 10 {
        0 => random_bytes(roll, 200),
        1 => {
            let mut cut = event(usual);
            cut.truncate(1 + (roll >> 8) as usize % (cut.len() - 1));
            cut
        }
        2 => {
            let mut wrong = event(usual);
            let place = wrong.iter().position(|byte| *byte == b'-').unwrap_or_default();
            wrong[place] = 0xff;
            wrong
        }
        3 => event(&format!("{}1{}", "[".repeat(DEEP), "]".repeat(DEEP))),
        4 => event(
            r#"{"provider":"openai","model":"gpt-4-turbo","inputTokens":NaN,"outputTokens":1}"#,
        ),
        5 => event(&format!(r#"{{"padding":"{}"}}"#, "x".repeat(OVERSIZED))),
        6 => b"[]x".to_vec(),
        7 => b"{\"id\":\"poison\",\"type\":\"llm.tokens.v1\",\"data\":{}}".to_vec(),
        8 => event(r#"{"inputTokens":1,"inputTokens""#),
        _ => b"\"just a text\"".to_vec(),
    }
}

/// Bytes that look random and begin like nothing that anybody reads.
fn random_bytes(roll: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xfe];
    bytes.extend((0..length).map(|place| mix(roll ^ mix(place)) as u8));
    bytes
}
