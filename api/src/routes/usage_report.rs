//! The usage report: a tenant's usage of a period, for spreadsheets and for programs.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use jiff::{ToSpan as _, civil::Date, tz::TimeZone};
use runtime::http::Problem;
use utoipa::{IntoParams, ToSchema};

use super::usage::{Question, Usage, WindowName, invalid, rows};
use crate::{
    auth::{Caller, Scope},
    error::ApiError,
    extract::Query,
    openapi::Refusals,
    page::Page,
    state::Api,
    store::usage::{self, UsageQuestion},
};

/// What usage is grouped by unless asked otherwise.
const GROUPS_DEFAULT: &str = "team";

/// What a usage report is written as.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its documentation is used")]
enum ReportFormat {
    Json,
    Csv,
}

/// Parameters of a usage report.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "only its documentation is used; filters have names that clients choose"
)]
pub(crate) struct ReportQuery {
    /// A month, `2026-03`, in the time zone. Either this or `from` and `to`.
    period: Option<String>,
    /// First event time, RFC 3339, inclusive.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Last event time, RFC 3339, exclusive.
    #[param(format = DateTime)]
    to: Option<String>,
    /// IANA name of the zone in which months and windows begin; UTC if absent.
    time_zone: Option<String>,
    /// Any of team, user, app, feature and names of dimensions such as model, separated by commas;
    /// `team` if absent. Meters are always apart.
    group_by: Option<String>,
    /// Length of a window in the time zone; `none` if absent.
    #[param(inline)]
    window: Option<WindowName>,
    /// One meter; all if absent.
    meter: Option<String>,
    /// One team; all if absent.
    team: Option<String>,
    /// `filter[model]=gpt-4`: only usage with this value of the dimension. May be repeated.
    #[param(rename = "filter[dimension]")]
    filter: Option<String>,
    /// `json` if absent; the header `Accept: text/csv` says the same as `csv`.
    #[param(inline)]
    format: Option<ReportFormat>,
    /// Of JSON: rows of the page, at most 1000. CSV has all rows.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Of JSON: `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Report usage of a period
///
/// What each team used, was charged and cost, by meter and whatever else is asked for. As CSV the
/// archive writes it while it is read, with all rows; as JSON it comes in pages.
#[utoipa::path(get, path = "/v1/usage-report", tag = "usage", params(ReportQuery), responses(
    (status = 200, content((Page<Usage> = "application/json"), (String = "text/csv", example = "team,meter,unit,quantity,currency,charge,cost_currency,cost,events,unpriced_events\n\"acme\",\"tokens\",\"token\",1250,\"USD\",0.0375,\"USD\",0.0125,3,0\n"))), Refusals))]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Query(mut pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let as_csv = as_csv(&headers, take(&mut pairs, "format").as_deref())?;
    let period = take(&mut pairs, "period");
    if !pairs.iter().any(|(name, _)| name == "group_by") {
        pairs.push(("group_by".to_owned(), GROUPS_DEFAULT.to_owned()));
    }
    let mut question = Question::read(pairs)?;
    let tenant = caller.may_filter(Scope::UsageRead, &mut question.usage.team)?;
    let zone = question.zone.clone();
    set_period(&mut question.usage, period.as_deref(), &zone)?;
    if !as_csv {
        return Ok(Json(rows(&api, tenant, question).await?).into_response());
    }
    if question.limit.is_some() || question.cursor.is_some() {
        let action = "leave limit and cursor out: CSV has all rows";
        return Err(invalid("CSV has no pages".to_owned(), action).into());
    }
    let names = &question.group_names;
    let csv = usage::csv(&api.clickhouse, tenant, &question.usage, names).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"usage.csv\""),
        ),
    ];
    Ok((headers, Body::from_stream(csv)).into_response())
}

/// Takes a parameter out of the query.
fn take(pairs: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let place = pairs.iter().position(|(own, _)| own == name)?;
    Some(pairs.remove(place).1)
}

/// Whether CSV is asked for, by the parameter or the header.
pub(super) fn as_csv(headers: &HeaderMap, format: Option<&str>) -> Result<bool, Problem> {
    let accepts = || {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        accept.is_some_and(|accept| accept.trim_start().starts_with("text/csv"))
    };
    match format {
        None => Ok(accepts()),
        Some("json") => Ok(false),
        Some("csv") => Ok(true),
        Some(other) => Err(invalid(format!("format is `{other}`"), "use json or csv")),
    }
}

/// A report is of a period: a month, or between two times.
fn set_period(
    question: &mut UsageQuestion,
    period: Option<&str>,
    zone: &TimeZone,
) -> Result<(), Problem> {
    let action = "give period as a month, such as 2026-03, or from and to";
    match (period, question.from_us, question.to_us) {
        (None, Some(from), Some(to)) if from < to => Ok(()),
        (Some(month), None, None) => {
            let (from_us, to_us) = month_us(month, zone)
                .ok_or_else(|| invalid(format!("period is `{month}`"), action))?;
            (question.from_us, question.to_us) = (Some(from_us), Some(to_us));
            Ok(())
        }
        _ => Err(invalid("the report has no period, or more than one".to_owned(), action)),
    }
}

/// When a month begins and ends where the zone is.
fn month_us(month: &str, zone: &TimeZone) -> Option<(i64, i64)> {
    if month.len() != 7 {
        return None;
    }
    let first: Date = format!("{month}-01").parse().ok()?;
    let next = first.checked_add(1.month()).ok()?;
    let start_us = |date: Date| {
        let start = date.to_zoned(zone.clone()).ok()?;
        Some(start.timestamp().as_microsecond())
    };
    Some((start_us(first)?, start_us(next)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_where_its_zone_says() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let hours = |(from, to): (i64, i64)| (to - from) / 3_600_000_000;
        assert_eq!(month_us("2026-03", &berlin).map(hours), Some(31 * 24 - 1));
        assert_eq!(month_us("2026-10", &berlin).map(hours), Some(31 * 24 + 1));
        assert_eq!(month_us("1970-01", &TimeZone::UTC), Some((0, 31 * 24 * 3_600_000_000)));
        for text in ["", "2026", "2026-13", "2026-3", "2026-03-01", "--03-01"] {
            assert_eq!(month_us(text, &berlin), None, "{text}");
        }
    }
}
