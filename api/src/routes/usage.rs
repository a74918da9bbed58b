//! Usage by meter, window, time zone and group.

use axum::{Json, extract::State};
use domain::{catalog::is_key, money::Amount};
use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use runtime::http::Problem;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::{Caller, Scope, TenantScope},
    error::ApiError,
    extract::{Query, time_us},
    openapi::Refusals,
    page::{Asked, Page, asked, cursor_invalid, page},
    state::Api,
    store::usage::{self, Group, PLACE_PARTS, UsageQuestion, UsageRow, Window},
};

/// Groups and filters of one question.
const GROUPS_MAX: usize = 8;

/// A [`Window`] as it is asked for.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) enum WindowName {
    Minute,
    Hour,
    Day,
    Month,
    None,
}

/// Parameters of a question about usage.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; filters have names that clients choose"
)]
pub(crate) struct UsageQuery {
    /// One meter; all if absent.
    meter: Option<String>,
    /// One team; all if absent.
    team: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Length of a window in the time zone; `none` if absent.
    #[param(inline)]
    window: Option<WindowName>,
    /// IANA name of the zone in which windows begin; UTC if absent.
    time_zone: Option<String>,
    /// Any of team, user, app, feature and names of dimensions, separated by commas.
    group_by: Option<String>,
    /// `filter[model]=gpt-4`: only usage with this value of the dimension. May be repeated.
    #[param(rename = "filter[dimension]")]
    filter: Option<String>,
    /// Rows of the page, at most 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Usage of one meter in one window and group, per currency of charge and cost.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usage {
    /// When the window begins; null without windows.
    window_start: Option<String>,
    /// When it ends, exclusive.
    window_end: Option<String>,
    /// Values of what was asked to group by; null where the usage has none.
    group: BTreeMap<String, Option<String>>,
    /// The meter.
    meter: String,
    /// What one of its quantity is.
    unit: String,
    /// How much.
    quantity: String,
    /// What it is charged; null where no price is known.
    charge: Option<String>,
    /// Currency of the charge.
    currency: Option<String>,
    /// What it cost; null where no cost is known.
    cost: Option<String>,
    /// Currency of the cost.
    cost_currency: Option<String>,
    /// Charge minus cost; null where their currencies differ or either is unknown for an event.
    margin: Option<String>,
    /// Events of the meter.
    events: i64,
    /// Of these: without a known price.
    unpriced_events: i64,
}

/// Read usage
///
/// Answered by the archive, in which events appear a moment after they are accepted.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(UsageQuery), responses((status = 200, body = Page<Usage>), Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Usage>>, ApiError> {
    let mut question = Question::read(pairs)?;
    let tenant = caller.may_filter(Scope::UsageRead, &mut question.usage.team)?;
    Ok(Json(rows(&api, tenant, question).await?))
}

/// One page of the rows that answer a question.
pub(super) async fn rows(
    api: &Api,
    tenant: TenantScope,
    question: Question,
) -> Result<Page<Usage>, ApiError> {
    let (asked, names, zone) = (question.asked()?, question.group_names, question.zone);
    let after = asked.after.clone();
    let question = UsageQuestion { limit: asked.rows(), after, ..question.usage };
    let rows = usage::read(&api.clickhouse, tenant, &question).await?;
    let Page { items, next_cursor } = page(&asked, rows, UsageRow::place);
    let items = items.into_iter().map(|row| answer(row, &question, &names, &zone));
    Ok(Page { items: items.collect::<Result<Vec<Usage>, ApiError>>()?, next_cursor })
}

/// A question as it was read.
pub(crate) struct Question {
    pub usage: UsageQuestion,
    pub group_names: Vec<String>,
    pub zone: TimeZone,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

pub(super) fn invalid(detail: String, action: &str) -> Problem {
    Problem::bad_request("query_invalid", detail, action)
}

impl Question {
    pub fn read(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let usage = UsageQuestion {
            meter: None,
            team: None,
            from_us: None,
            to_us: None,
            window: Window::None,
            time_zone: "UTC".to_owned(),
            groups: Vec::new(),
            filters: Vec::new(),
            limit: 0,
            after: None,
        };
        let mut question =
            Self { usage, group_names: Vec::new(), zone: TimeZone::UTC, limit: None, cursor: None };
        let mut seen = std::collections::HashSet::new();
        for (name, value) in pairs {
            if !seen.insert(name.clone()) {
                return Err(invalid(
                    format!("`{name}` is given twice"),
                    "give each parameter once",
                ));
            }
            question.take(&name, value)?;
        }
        Ok(question)
    }

    /// The page that it asks for.
    pub fn asked(&self) -> Result<Asked, Problem> {
        let parts = PLACE_PARTS + self.usage.groups.len();
        let asked = asked(self.limit, self.cursor.as_deref(), parts)?;
        // Seconds, which the archive would refuse to read otherwise.
        let window = asked.after_number(0)?;
        if window.is_some_and(|window_s| u32::try_from(window_s).is_err()) {
            return Err(cursor_invalid());
        }
        Ok(asked)
    }

    fn take(&mut self, name: &str, value: String) -> Result<(), Problem> {
        let usage = &mut self.usage;
        match name {
            "meter" => usage.meter = Some(value),
            "team" => usage.team = Some(value),
            "from" => usage.from_us = Some(time_us(name, &value)?),
            "to" => usage.to_us = Some(time_us(name, &value)?),
            "window" => usage.window = window(&value)?,
            "time_zone" => {
                self.zone = TimeZone::get(&value).map_err(|_| {
                    invalid(
                        format!("there is no time zone `{value}`"),
                        "give an IANA name like Europe/Berlin",
                    )
                })?;
                usage.time_zone = value;
            }
            "group_by" => self.group_by(&value)?,
            "limit" => {
                self.limit = Some(
                    value
                        .parse()
                        .map_err(|_| invalid(format!("limit is `{value}`"), "give a number"))?,
                )
            }
            "cursor" => self.cursor = Some(value),
            _ => self.filter(name, value)?,
        }
        Ok(())
    }

    fn group_by(&mut self, list: &str) -> Result<(), Problem> {
        for name in list.split(',').filter(|name| !name.is_empty()) {
            if self.group_names.iter().any(|known| known == name)
                || self.group_names.len() >= GROUPS_MAX
            {
                return Err(invalid(
                    format!("group_by is `{list}`"),
                    "name each group once, at most 8 of them",
                ));
            }
            self.group_names.push(name.to_owned());
            self.usage.groups.push(match name {
                "team" => Group::Team,
                "user" => Group::User,
                "app" => Group::App,
                "feature" => Group::Feature,
                name if is_key(name) => Group::Dimension(name.to_owned()),
                name => {
                    return Err(invalid(
                        format!("`{name}` cannot be grouped by"),
                        "use team, user, app, feature or the name of a dimension",
                    ));
                }
            });
        }
        Ok(())
    }

    fn filter(&mut self, name: &str, value: String) -> Result<(), Problem> {
        let dimension = name.strip_prefix("filter[").and_then(|rest| rest.strip_suffix(']'));
        let Some(dimension) = dimension.filter(|dimension| is_key(dimension)) else {
            return Err(invalid(
                format!("there is no parameter `{name}`"),
                "see /openapi.json for the parameters of this path",
            ));
        };
        if self.usage.filters.len() >= GROUPS_MAX {
            return Err(invalid("there are too many filters".to_owned(), "give at most 8"));
        }
        self.usage.filters.push((dimension.to_owned(), value));
        Ok(())
    }
}

fn window(text: &str) -> Result<Window, Problem> {
    Ok(match text {
        "minute" => Window::Minute,
        "hour" => Window::Hour,
        "day" => Window::Day,
        "month" => Window::Month,
        "none" => Window::None,
        _ => {
            return Err(invalid(
                format!("window is `{text}`"),
                "use minute, hour, day, month or none",
            ));
        }
    })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn answer(
    row: usage::UsageRow,
    question: &UsageQuestion,
    names: &[String],
    zone: &TimeZone,
) -> Result<Usage, ApiError> {
    let unreadable =
        |what: &str| ApiError::Internal(format!("the archive's {what} cannot be read"));
    let amount = |text: Option<String>, known: bool| {
        let text = text.filter(|_| known);
        text.map(|text| Amount::parse_sum(&text).map_err(|_| unreadable("amount"))).transpose()
    };
    let count = |text: &str| text.parse::<i64>().map_err(|_| unreadable("count"));
    let charge = amount(row.charge, !row.currency.is_empty())?;
    let cost = amount(row.cost, !row.cost_currency.is_empty())?;
    let unpriced_events = count(&row.unpriced_events)?;
    let complete = row.currency == row.cost_currency
        && unpriced_events == 0
        && count(&row.uncosted_events)? == 0;
    let margin =
        charge.zip(cost).filter(|_| complete).and_then(|(charge, cost)| charge.checked_sub(cost));
    let (start, end) =
        row.window_s.and_then(|start_s| bounds(start_s, question.window, zone)).unzip();
    Ok(Usage {
        window_start: start,
        window_end: end,
        group: names.iter().cloned().zip(row.groups.into_iter().map(some)).collect(),
        meter: row.meter,
        unit: row.unit,
        quantity: Amount::parse_sum(&row.quantity).map_err(|_| unreadable("quantity"))?.to_string(),
        charge: charge.map(|charge| charge.to_string()),
        currency: some(row.currency),
        cost: cost.map(|cost| cost.to_string()),
        cost_currency: some(row.cost_currency),
        margin: margin.map(|margin| margin.to_string()),
        events: count(&row.events)?,
        unpriced_events,
    })
}

/// Both ends of a window with the offsets that its zone has there: a day may have 23 hours.
fn bounds(start_s: i64, window: Window, zone: &TimeZone) -> Option<(String, String)> {
    let start = Timestamp::from_second(start_s).ok()?.to_zoned(zone.clone());
    let span = match window {
        Window::Minute => 1.minute(),
        Window::Hour => 1.hour(),
        Window::Day => 1.day(),
        Window::Month => 1.month(),
        Window::None => return None,
    };
    let text = |time: &Zoned| time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let end = start.checked_add(span).ok()?;
    Some((text(&start), text(&end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_where_its_zone_says() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let start = Timestamp::from_second(1_774_738_800).unwrap().as_second();
        let day = bounds(start, Window::Day, &berlin).unwrap();
        assert_eq!(
            day,
            ("2026-03-29T00:00:00+01:00".to_owned(), "2026-03-30T00:00:00+02:00".to_owned())
        );
    }

    #[test]
    fn questions_are_read_or_refused() {
        let read = |pairs: &[(&str, &str)]| {
            Question::read(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            )
        };
        let question = read(&[
            ("group_by", "team,model"),
            ("filter[region]", "eu"),
            ("window", "day"),
            ("time_zone", "Asia/Kathmandu"),
        ])
        .unwrap();
        assert_eq!(question.usage.groups, [Group::Team, Group::Dimension("model".to_owned())]);
        assert_eq!(question.usage.filters, [("region".to_owned(), "eu".to_owned())]);
        for pairs in [
            [("window", "week")],
            [("time_zone", "Mars/Base")],
            [("group_by", "Team'; DROP")],
            [("filter[a'b]", "x")],
            [("from", "yesterday")],
            [("unknown", "1")],
            [("group_by", "team,team")],
        ] {
            assert_eq!(
                read(&pairs).err().map(|problem| problem.status().as_u16()),
                Some(400),
                "{pairs:?}"
            );
        }
    }
}
