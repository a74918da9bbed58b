//! One event, taken back or amended.

use std::collections::{BTreeMap, HashMap};

use axum::{extract::State, http::StatusCode};
use bytes::Bytes;
use domain::{
    event::{
        EVENT_BYTES_MAX, FIELD_BYTES_MAX,
        member::{Field, Member, member},
    },
    meter::CLOSING_TYPE,
    money::Amount,
    time::FUTURE_US_MAX,
};
use runtime::{
    http::{Path, Problem},
    task,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::{
    corrections::check_reason,
    events::{from_log, read_receipt, receipt, some, unknown},
};
use crate::{
    USAGE,
    auth::{Caller, Scope, TenantScope},
    compiled,
    correcting::{Amended, Basis, Change, Deltas, Plan, Shifts, Wanted, block, plan},
    error::ApiError,
    extract::{Query, time_us},
    idempotency::{self, Answer, Call, IdempotencyKey, Made},
    openapi::{ChangeRefusals, NotFound, Refusals},
    progress::archived,
    state::Api,
    store::{
        corrected::{self, Corrected, StoredEvent},
        events::{self, EventPlace, EventQuestion, Table},
        running_totals,
    },
};

/// Whether it is done or only shown.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewQuery {
    /// Only shows what would change.
    #[serde(default)]
    preview: bool,
}

/// Why an event is taken back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VoidForm {
    /// For people; the audit log keeps it.
    #[serde(default)]
    reason: Option<String>,
}

/// What an event says from now on; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AmendForm {
    /// The type.
    #[serde(default)]
    r#type: Option<String>,
    /// The user.
    #[serde(default)]
    user: Option<String>,
    /// The feature.
    #[serde(default)]
    feature: Option<String>,
    /// When it happened, RFC 3339.
    #[serde(default)]
    #[schema(format = DateTime)]
    time: Option<String>,
    /// Its data, whole.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
    /// For people; the audit log keeps it.
    #[serde(default)]
    reason: Option<String>,
}

/// A correction of an event.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventCorrection {
    /// The event's receipt.
    receipt: String,
    /// Which correction of it this is, from 1.
    run: u32,
    /// Where its command stands in the log: partition:position:index; null for a preview. The event shows
    /// it once it is carried out.
    command: Option<String>,
    /// What it changes.
    deltas: Vec<EventDelta>,
    /// Why, as it was given.
    reason: Option<String>,
    /// Whether a price of it depends on a period's usage: events behind it keep what they were charged
    /// until they are rated again (`POST /v1/corrections`).
    moves_totals: bool,
}

/// A difference of a meter.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventDelta {
    /// The meter.
    meter: String,
    /// Currency of the charge; null for a line without a price.
    currency: Option<String>,
    /// Currency of the cost; null where it is unknown.
    cost_currency: Option<String>,
    /// The difference of the quantity.
    quantity: String,
    /// The difference of the charge.
    charge: String,
    /// The difference of the cost.
    cost: String,
}

/// Void an event
///
/// It counts for nothing from then on: what it came to is taken back, in ledger and archive alike. Its id
/// stays taken. Only an event that is in the archive can be voided: a moment after it was accepted.
#[utoipa::path(post, path = "/v1/events/{receipt}/void", tag = "corrections", params(IdempotencyKey, PreviewQuery, ("receipt" = String, Path, description = "partition:position:index", example = "3:1042:0")),
    request_body(content = Option<VoidForm>), responses((status = 200, description = "A preview", body = EventCorrection), (status = 202, body = EventCorrection), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn void(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<PreviewQuery>,
    call: Call<VoidForm>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    correct(
        &api,
        tenant,
        (&text, query.preview),
        call.map(|form| Asked { new: None, reason: form.reason }),
    )
    .await
}

/// Amend an event
///
/// It says something else from then on, and is rated again by the newest catalog: what it came to is taken
/// back, and what it comes to now is booked. Id, source, subject and team stay.
#[utoipa::path(post, path = "/v1/events/{receipt}/amend", tag = "corrections", params(IdempotencyKey, PreviewQuery, ("receipt" = String, Path, description = "partition:position:index", example = "3:1042:0")),
    request_body = AmendForm, responses((status = 200, description = "A preview", body = EventCorrection), (status = 202, body = EventCorrection), NotFound, ChangeRefusals, Refusals))]
pub(crate) async fn amend(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    Query(query): Query<PreviewQuery>,
    call: Call<AmendForm>,
) -> Result<Answer, ApiError> {
    let tenant = caller.may(Scope::CorrectionsWrite)?;
    let new = New::of(&call.value)?;
    correct(
        &api,
        tenant,
        (&text, query.preview),
        call.map(|form| Asked { new: Some(new), reason: form.reason }),
    )
    .await
}

/// What is asked for.
struct Asked {
    /// What the event says from now on; `None` takes it back.
    new: Option<New>,
    reason: Option<String>,
}

/// What is new about an event, checked.
struct New {
    event_type: Option<String>,
    user: Option<String>,
    feature: Option<String>,
    time_us: Option<i64>,
    data: Option<String>,
}

impl New {
    fn of(form: &AmendForm) -> Result<New, Problem> {
        let invalid = |field: &'static str, what: &str| {
            Problem::unprocessable("field_invalid", format!("`{field}` {what}"), "correct it")
                .with("field", field)
        };
        let named = [("type", &form.r#type), ("user", &form.user), ("feature", &form.feature)];
        for (field, text) in named {
            let text = text.as_deref();
            let bad = |text: &str| {
                text.is_empty()
                    || text.len() > FIELD_BYTES_MAX
                    || text.chars().any(char::is_control)
            };
            if text.is_some_and(bad) {
                let what = format!(
                    "is empty, longer than {FIELD_BYTES_MAX} bytes or has control characters"
                );
                return Err(invalid(field, &what));
            }
        }
        let data = form.data.as_deref().map(RawValue::get);
        if data.is_some_and(|data| !data.trim_start().starts_with('{')) {
            return Err(invalid("data", "is no object"));
        }
        let time_us = form.time.as_deref().map(|text| time_us("time", text)).transpose()?;
        if time_us.is_some_and(|us| us > task::now_us().saturating_add(FUTURE_US_MAX)) {
            return Err(invalid("time", "lies in the future"));
        }
        let nothing =
            named.iter().all(|(_, text)| text.is_none()) && form.time.is_none() && data.is_none();
        if nothing {
            return Err(invalid("data", "is missing, and so is everything else that could change"));
        }
        Ok(New {
            event_type: form.r#type.clone(),
            user: form.user.clone(),
            feature: form.feature.clone(),
            time_us,
            data: data.map(str::to_owned),
        })
    }

    /// The event's text with what is new in place of what it said of that.
    fn text(&self, event: &StoredEvent) -> Result<String, ApiError> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(&event.raw)
            .map_err(|error| ApiError::Internal(format!("an event cannot be read: {error}")))?;
        let replaced = |name: &str| match member(name.as_bytes()) {
            Member::Field(Field::Type) => self.event_type.is_some(),
            Member::Field(Field::User) => self.user.is_some(),
            Member::Field(Field::Feature) => self.feature.is_some(),
            Member::Field(Field::Time) => self.time_us.is_some(),
            Member::Data | Member::Rest => self.data.is_some(),
            Member::Field(_) => false,
        };
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut all: Vec<(String, String)> = members
            .into_iter()
            .filter(|(name, _)| !replaced(name))
            .map(|(name, value)| (name, value.get().to_owned()))
            .collect();
        let texts = [("type", &self.event_type), ("user", &self.user), ("feature", &self.feature)];
        for (name, text) in texts {
            all.extend(text.as_deref().map(|text| (name.to_owned(), quoted(text))));
        }
        let time = self.time_us.map(domain::time::format);
        all.extend(time.map(|time| ("time".to_owned(), quoted(&time))));
        all.extend(self.data.clone().map(|data| ("data".to_owned(), data)));
        let members: Vec<String> =
            all.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        let text = format!("{{{}}}", members.join(","));
        if text.len() > EVENT_BYTES_MAX {
            let detail = format!("the event would have more than {EVENT_BYTES_MAX} bytes");
            return Err(
                Problem::unprocessable("event_too_large", detail, "leave something out").into()
            );
        }
        Ok(text)
    }
}

async fn correct(
    api: &Api,
    tenant: TenantScope,
    (text, is_preview): (&str, bool),
    call: Call<Asked>,
) -> Result<Answer, ApiError> {
    let place = read_receipt(text)
        .filter(|place| place.partition < api.log.partitions())
        .ok_or_else(unknown)?;
    if let Some(reason) = &call.value.reason {
        check_reason(reason)?;
    }
    let api = Api::clone(api);
    idempotency::once(&Api::clone(&api), tenant, call, move |connection, asked: &Asked| {
        let api = Api::clone(&api);
        Box::pin(async move {
            let (found, change) =
                planned(&api, connection, tenant, place, asked.new.as_ref()).await?;
            let reason = asked.reason.clone();
            let own = found.first.place();
            if is_preview {
                let shown = EventCorrection { reason, ..shown(own, &change, None) };
                return Ok(Made::new(StatusCode::OK, &shown)?.without_change());
            }
            let message = Bytes::from(block(tenant.id(), std::slice::from_ref(&change.body)));
            let appended = api.log.append(USAGE, own.partition, message).outcome().await;
            let appended = appended.map_err(|error| {
                tracing::warn!(%error, "a correction is not in the log");
                Problem::unavailable(
                    2,
                    "outcome_unknown",
                    "it is not known whether the log has the correction",
                    "ask again; it is carried out once",
                )
            })?;
            let command =
                EventPlace { partition: own.partition, position: appended.position, index: 0 };
            let shown = EventCorrection { reason, ..shown(own, &change, Some(command)) };
            Made::new(StatusCode::ACCEPTED, &shown)
        })
    })
    .await
}

fn shown(place: EventPlace, change: &Change, command: Option<EventPlace>) -> EventCorrection {
    EventCorrection {
        receipt: receipt(place),
        run: change.run,
        command: command.map(receipt),
        deltas: deltas(&change.delta),
        reason: None,
        moves_totals: change.counts,
    }
}

fn deltas(deltas: &Deltas) -> Vec<EventDelta> {
    let amount = |raw| Amount::of_sum(raw).to_string();
    let delta = deltas.0.iter().map(|(key, delta)| EventDelta {
        meter: key.meter.clone(),
        currency: some(key.currency.clone()),
        cost_currency: some(key.cost_currency.clone()),
        quantity: amount(delta.quantity),
        charge: amount(delta.charge),
        cost: amount(delta.cost),
    });
    delta.collect()
}

/// The correction of an event that is asked for.
async fn planned(
    api: &Api,
    connection: &mut PgConnection,
    tenant: TenantScope,
    place: EventPlace,
    new: Option<&New>,
) -> Result<(Corrected, Change), ApiError> {
    let to = archived(api).await?.get(&place.partition).copied().unwrap_or(-1);
    let found = corrected::event_at(&api.clickhouse, tenant, place, to).await?;
    let Some(found) = found else { return Err(missing(api, tenant, place).await?.into()) };
    let newest = compiled::newest(api, tenant).await?;
    let mut catalogs = HashMap::new();
    compiled::of_events(api, tenant, std::slice::from_ref(&found), &mut catalogs).await?;
    let posted = running_totals::of_team(connection, tenant, &found.first.team).await?;
    let basis = Basis {
        tenant: tenant.id(),
        archived: to,
        catalogs: &catalogs,
        posted: &posted,
        meter: None,
        outcome: None,
    };
    let (Some(new), Some(event)) = (new, found.effective()) else {
        let change = planned_with(&found, &Wanted::Void, &basis)?;
        return Ok((found, change));
    };
    let types = [Some(event.event_type.as_str()), new.event_type.as_deref()];
    if types.iter().flatten().any(|event_type| event_type.starts_with(CLOSING_TYPE)) {
        let detail = format!(
            "types that begin with `{CLOSING_TYPE}` close periods, and follow what is observed"
        );
        let action = "correct what was observed, or void what closed the period";
        return Err(Problem::unprocessable("amendment_rejected", detail, action)
            .with("reason", "type_reserved")
            .into());
    }
    let text = new.text(event)?;
    let or_own = |new: &Option<String>, own: &str| {
        new.clone().or_else(|| Some(own.to_owned())).filter(|text| !text.is_empty())
    };
    let (user, feature) = (or_own(&new.user, &event.user), or_own(&new.feature, &event.feature));
    let amended = Amended {
        event_type: new.event_type.as_deref().unwrap_or(&event.event_type),
        user: user.as_deref(),
        feature: feature.as_deref(),
        time_us: new.time_us.or_else(|| event.has_client_time.then_some(event.order_us)),
        text: &text,
    };
    let change = planned_with(&found, &Wanted::Amend(&newest.catalog, &amended), &basis)?;
    Ok((found, change))
}

fn planned_with(
    found: &Corrected,
    wanted: &Wanted<'_>,
    basis: &Basis<'_>,
) -> Result<Change, ApiError> {
    let problem = match plan(found, wanted, &mut Shifts::default(), basis)? {
        Plan::Change(change) => return Ok(*change),
        Plan::IsVoid => Problem::conflict(
            "event_void",
            "the event was voided",
            "send it anew under another id if it shall count",
        ),
        Plan::Unchanged => Problem::conflict(
            "nothing_changes",
            "the event says and comes to this already",
            "nothing has to be done",
        ),
        Plan::Rejected(reason, detail) => Problem::unprocessable(
            "amendment_rejected",
            format!("it would be rejected: {detail}"),
            "correct what it shall say",
        )
        .with("reason", reason),
    };
    Err(problem.into())
}

/// Why there is nothing to correct at a place.
async fn missing(api: &Api, tenant: TenantScope, place: EventPlace) -> Result<Problem, ApiError> {
    for question in [EventQuestion::at(place), EventQuestion::copy_of(place)] {
        if let Some(row) =
            events::first(&api.clickhouse, tenant, &[Table::Other], &question).await?
        {
            return Ok(Problem::conflict(
                "event_without_effect",
                format!("the event is {}: it came to nothing", row.outcome),
                "there is nothing to take back; GET /v1/events/{receipt} says why",
            ));
        }
    }
    if from_log(api, tenant, place, false).await?.is_some() {
        return Ok(Problem::unavailable(
            1,
            "event_not_archived",
            "the event is accepted and not yet in the archive",
            "ask again in a moment",
        ));
    }
    Ok(unknown())
}
