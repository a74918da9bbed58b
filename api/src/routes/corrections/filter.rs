//! Which events a correction is of.

use domain::event::FIELD_BYTES_MAX;
use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{extract::time_us, store::corrected::Selection};

/// Which events. All that is given must hold; times are event times unless they say otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CorrectionFilter)]
pub(crate) struct Filter {
    /// Of this team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    /// Of this source, as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Reported by this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// With a line of this meter, as they are or as they are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// With this outcome: `rated`, `unmetered` or `unpriced`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Last event time, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    to: Option<String>,
    /// First time of acceptance, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    accepted_from: Option<String>,
    /// Last time of acceptance, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    accepted_to: Option<String>,
}

impl Filter {
    /// All events of a source.
    pub fn of_source(source: String) -> Filter {
        Filter { source: Some(source), ..Filter::default() }
    }

    /// All events with an outcome.
    pub fn of_outcome(outcome: &str) -> Filter {
        Filter { outcome: Some(outcome.to_owned()), ..Filter::default() }
    }

    /// All events of a team.
    pub fn of_team(team: String) -> Filter {
        Filter { team: Some(team), ..Filter::default() }
    }

    /// The part of it that the archive selects by.
    pub fn selection(&self) -> Result<Selection, Problem> {
        let time = |name, text: &Option<String>| {
            text.as_deref().map(|text| time_us(name, text)).transpose()
        };
        let texts = [
            ("team", &self.team),
            ("user", &self.user),
            ("type", &self.r#type),
            ("source", &self.source),
            ("app", &self.app),
            ("meter", &self.meter),
            ("outcome", &self.outcome),
            ("from", &self.from),
            ("to", &self.to),
            ("accepted_from", &self.accepted_from),
            ("accepted_to", &self.accepted_to),
        ];
        let bad = |text: &String| text.len() > FIELD_BYTES_MAX || text.contains('\0');
        if let Some((field, _)) = texts.iter().find(|(_, text)| text.as_ref().is_some_and(bad)) {
            return Err(Problem::unprocessable(
                "field_invalid",
                format!(
                    "`{field}` is longer than {FIELD_BYTES_MAX} bytes or has the character U+0000"
                ),
                "no event has such a one",
            )
            .with("field", *field));
        }
        if let Some(outcome) = &self.outcome
            && !["rated", "unmetered", "unpriced"].contains(&outcome.as_str())
        {
            return Err(Problem::unprocessable(
                "field_invalid",
                format!("there is no outcome `{outcome}` that can be corrected"),
                "use rated, unmetered or unpriced",
            )
            .with("field", "outcome"));
        }
        Ok(Selection {
            team: self.team.clone(),
            user: self.user.clone(),
            event_type: self.r#type.clone(),
            source: self.source.clone(),
            app: self.app.clone(),
            from_us: time("from", &self.from)?,
            to_us: time("to", &self.to)?,
            accepted_from_us: time("accepted_from", &self.accepted_from)?,
            accepted_to_us: time("accepted_to", &self.accepted_to)?,
        })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        serde_json::to_value(self).is_ok_and(|value| value == serde_json::json!({}))
    }
}
