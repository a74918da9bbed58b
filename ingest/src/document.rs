//! What the OpenAPI document says about bodies that are read without these types.

use serde::Serialize;
use utoipa::ToSchema;

/// One usage fact, as a CloudEvents 1.0 envelope.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageEvent)]
pub struct EventDocument {
    /// Stays the same when the event is sent again. At most 256 bytes. Also `event_id`, `idempotencyKey`.
    pub id: String,
    /// What was used. At most 256 bytes. Also `event_type`, `eventType`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The team that pays, or an alias of it. At most 256 bytes. Also `teamId`.
    pub subject: String,
    /// The tool that reports; a version behind a slash does not matter. The app's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// RFC 3339 with an offset; the time of acceptance when absent. Also `timestamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `1.0`; may be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub specversion: Option<String>,
    /// The person. Also `user_id`, `userId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The feature. Also `feature_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// The hold that this usage belongs to; needs `time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdid: Option<uuid::Uuid>,
    /// Whether this is the last usage of its hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdend: Option<bool>,
    /// What is metered: any JSON. Numbers keep every digit. Also `payload`. `usage` beside `provider`
    /// is the usage object of an LLM provider, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

/// An error: RFC 9457, with a stable code and what to do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// URN of the code.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub action: String,
    /// Names the request in our logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What became of each event, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<crate::answer::EventResult<'static>>>,
}
