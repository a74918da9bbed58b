//! What an answer of ingest says to a client that keeps its promises.

use serde_json::Value;

/// What became of one event, as far as the client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody said.
    #[default]
    Unknown,
    /// It is durable.
    Accepted,
    /// It will not be accepted as it is.
    Refused,
}

/// What a client does with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// One outcome per event.
    Definite(Vec<Outcome>),
    /// Sends the same again.
    Again,
    /// No promise allows it.
    Wrong(String),
}

/// Reads the answer to a request of so many events.
pub fn read(status: u16, retry_after: bool, body: &Value, events: usize) -> Reading {
    match status {
        503 | 429 if retry_after => Reading::Again,
        503 | 429 => Reading::Wrong(format!("{status} without Retry-After: {body}")),
        408 => Reading::Again,
        200 | 207 | 400 => results(body, events).map_or_else(
            || Reading::Wrong(format!("{status} with other results than {events}: {body}")),
            Reading::Definite,
        ),
        _ => Reading::Wrong(format!("{status}: {body}")),
    }
}

fn results(body: &Value, events: usize) -> Option<Vec<Outcome>> {
    let results = body["results"].as_array()?;
    let outcome = |result: &Value| match result["status"].as_str()? {
        "accepted" => Some(Outcome::Accepted),
        "rejected" => Some(Outcome::Refused),
        _ => None,
    };
    let outcomes: Vec<Outcome> = results.iter().map(outcome).collect::<Option<_>>()?;
    (outcomes.len() == events).then_some(outcomes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_promised_is_taken() {
        let body = json!({"results": [{"status": "accepted"}, {"status": "rejected"}]});
        let definite = Reading::Definite(vec![Outcome::Accepted, Outcome::Refused]);
        assert_eq!(read(207, false, &body, 2), definite);
        assert!(matches!(read(200, false, &body, 3), Reading::Wrong(_)));
        assert_eq!(read(503, true, &json!({}), 2), Reading::Again);
        assert!(matches!(read(503, false, &json!({}), 2), Reading::Wrong(_)));
        assert!(matches!(read(500, true, &body, 2), Reading::Wrong(_)));
        let unknown = json!({"results": [{"status": "unknown"}]});
        assert!(matches!(read(200, false, &unknown, 1), Reading::Wrong(_)));
    }
}
