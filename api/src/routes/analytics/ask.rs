//! Questions about a period as they are asked in the query, read or refused.

use domain::catalog::is_key;
use jiff::tz::TimeZone;
use runtime::http::Problem;

use super::{Place, some, window};
use crate::{
    display::Wanted,
    extract::time_us,
    page::{Asked, asked, cursor_invalid},
    store::analytics::{Group, Measure, Selection, SumQuestion, SumRow, Window},
};

/// Longest period: a year, with the weeks around it.
const PERIOD_DAYS_MAX: i64 = 400;
/// Filters of one question.
const FILTERS_MAX: usize = 8;

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Which parameters a path takes besides its period and the team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None.
    Team,
    /// The other filters, and a currency to show amounts in.
    Filters,
    /// Filters, and the page.
    Pages,
    /// Filters, the page, groups and their zone.
    Groups,
    /// All of it.
    Sums,
}

impl Takes {
    fn filters(self) -> bool {
        self != Takes::Team
    }

    fn pages(self) -> bool {
        matches!(self, Takes::Pages | Takes::Groups | Takes::Sums)
    }

    fn groups(self) -> bool {
        matches!(self, Takes::Groups | Takes::Sums)
    }

    fn shows(self) -> bool {
        matches!(self, Takes::Filters | Takes::Sums)
    }
}

/// A question as it was read.
#[derive(Debug)]
pub(crate) struct Ask {
    pub selection: Selection,
    window: Option<Window>,
    groups: Vec<(&'static str, Group)>,
    zone_name: String,
    zone: TimeZone,
    limit: Option<u32>,
    cursor: Option<String>,
    display: Option<Wanted>,
}

fn invalid(detail: String, action: &str) -> Problem {
    Problem::bad_request("query_invalid", detail, action)
}

impl Ask {
    /// Reads a query.
    pub fn read(pairs: Vec<(String, String)>, takes: Takes) -> Result<Self, Problem> {
        let mut ask = Self {
            selection: Selection::default(),
            window: None,
            groups: Vec::new(),
            zone_name: "UTC".to_owned(),
            zone: TimeZone::UTC,
            limit: None,
            cursor: None,
            display: None,
        };
        let (mut from, mut to) = (None, None);
        let mut seen = std::collections::HashSet::new();
        for (name, value) in pairs {
            if !seen.insert(name.clone()) {
                let detail = format!("`{name}` is given twice");
                return Err(invalid(detail, "give each parameter once"));
            }
            match name.as_str() {
                "from" => from = Some(time_us(&name, &value)?),
                "to" => to = Some(time_us(&name, &value)?),
                _ => ask.take(&name, value, takes)?,
            }
        }
        // The page first: a limit is wrong whatever the period is.
        asked(ask.limit, None, 0)?;
        (ask.selection.from_us, ask.selection.to_us) = period(from, to)?;
        Ok(ask)
    }

    fn take(&mut self, name: &str, value: String, takes: Takes) -> Result<(), Problem> {
        let selection = &mut self.selection;
        match name {
            "team" => selection.team = Some(value),
            "meter" if takes.filters() => selection.meter = Some(value),
            "app" if takes.filters() => selection.app = Some(value),
            "feature" if takes.filters() => selection.feature = Some(value),
            "limit" if takes.pages() => {
                let limit = value.parse();
                let limit =
                    limit.map_err(|_| invalid(format!("limit is `{value}`"), "give a number"))?;
                self.limit = Some(limit);
            }
            "cursor" if takes.pages() => self.cursor = Some(value),
            "group_by" if takes.groups() => self.group_by(&value)?,
            "time_zone" if takes.groups() => self.set_zone(value)?,
            "display_currency" if takes.shows() => self.display = Some(Wanted::read(value)?),
            _ => self.filter(name, value, takes)?,
        }
        Ok(())
    }

    fn set_zone(&mut self, name: String) -> Result<(), Problem> {
        self.zone = TimeZone::get(&name).map_err(|_| {
            Problem::bad_request(
                "time_zone_unknown",
                format!("there is no time zone `{name}`"),
                "give an IANA name like Europe/Berlin",
            )
        })?;
        self.zone_name = name;
        Ok(())
    }

    fn group_by(&mut self, list: &str) -> Result<(), Problem> {
        let refused = |name: &str, what: &str| {
            Problem::bad_request(
                "group_unknown",
                format!("group_by: `{name}` {what}"),
                "use team, meter, feature, app, model, provider, each once, and one of hour, day, week, month",
            )
        };
        for name in list.split(',').filter(|name| !name.is_empty()) {
            if let Some(window) = window::named(name) {
                if self.window.replace(window).is_some() {
                    return Err(refused(name, "is a second window"));
                }
                continue;
            }
            let group = GROUPS.iter().find(|(known, _)| *known == name);
            let group = *group.ok_or_else(|| refused(name, "is no group"))?;
            if self.groups.contains(&group) {
                return Err(refused(name, "is there twice"));
            }
            self.groups.push(group);
        }
        Ok(())
    }

    fn filter(&mut self, name: &str, value: String, takes: Takes) -> Result<(), Problem> {
        let dimension = name.strip_prefix("filter[").and_then(|rest| rest.strip_suffix(']'));
        let Some(dimension) = dimension.filter(|dimension| takes.filters() && is_key(dimension))
        else {
            return Err(invalid(
                format!("there is no parameter `{name}`"),
                "see /openapi.json for the parameters of this path",
            ));
        };
        if self.selection.dimensions.len() >= FILTERS_MAX {
            return Err(invalid("there are too many filters".to_owned(), "give at most 8"));
        }
        self.selection.dimensions.push((dimension.to_owned(), value));
        Ok(())
    }

    /// The currency that amounts are to be shown in, and the last instant of the period, whose day's rates count.
    pub fn display(&self) -> Option<(Wanted, i64)> {
        Some((self.display.clone()?, self.selection.to_us.saturating_sub(1)))
    }

    /// What the archive is asked, and the page that is asked for.
    pub fn question(&self, measure: Measure) -> Result<(SumQuestion, Asked), Problem> {
        let mut question = SumQuestion {
            selection: self.selection.clone(),
            measure,
            window: self.window,
            time_zone: self.zone_name.clone(),
            groups: self.groups.iter().map(|(_, group)| *group).collect(),
            limit: 0,
            after: None,
        };
        let asked = self.page(question.place_parts())?;
        // Seconds, which the archive would refuse to read otherwise.
        let window = asked.after_number(0)?;
        if window.is_some_and(|window_s| u32::try_from(window_s).is_err()) {
            return Err(cursor_invalid());
        }
        question.limit = asked.rows();
        question.after.clone_from(&asked.after);
        Ok((question, asked))
    }

    /// The page that is asked for, of a list whose places have so many parts.
    pub fn page(&self, parts: usize) -> Result<Asked, Problem> {
        asked(self.limit, self.cursor.as_deref(), parts)
    }

    /// What a row is about.
    pub fn place(&self, row: &SumRow) -> Place {
        let window = self.window.zip(row.window_s);
        let bounds =
            window.and_then(|(window, start_s)| window::bounds(start_s, window, &self.zone));
        let (window_start, window_end) = bounds.unzip();
        let names = self.groups.iter().map(|(name, _)| (*name).to_owned());
        let group = names.zip(row.keys.iter().cloned().map(some)).collect();
        Place { window_start, window_end, group }
    }
}

const GROUPS: [(&str, Group); 6] = [
    ("team", Group::Team),
    ("meter", Group::Meter),
    ("feature", Group::Feature),
    ("app", Group::App),
    ("model", Group::Model),
    ("provider", Group::Provider),
];

/// Both ends of a period, which it must have.
fn period(from: Option<i64>, to: Option<i64>) -> Result<(i64, i64), Problem> {
    let (Some(from), Some(to)) = (from, to) else {
        return Err(Problem::bad_request(
            "period_missing",
            "from or to is missing",
            "give both, such as from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z",
        ));
    };
    if from >= to {
        return Err(Problem::bad_request(
            "period_empty",
            "from is not before to",
            "give a from that is before to; to itself is not part of the period",
        ));
    }
    if to.saturating_sub(from) > PERIOD_DAYS_MAX.saturating_mul(DAY_US) {
        return Err(Problem::bad_request(
            "period_too_long",
            format!("the period is longer than {PERIOD_DAYS_MAX} days"),
            "ask for a shorter one, or for several",
        ));
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, takes: Takes) -> Result<Ask, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Ask::read(pairs.collect(), takes).map_err(|problem| problem.code().to_owned())
    }

    #[test]
    fn questions_are_read_or_refused() {
        let year = "from=2026-01-01T00:00:00Z&to=2027-02-05T00:00:00Z";
        let ask = read(
            &format!("{year}&group_by=month,team,model&time_zone=Europe/Berlin&filter[region]=eu"),
            Takes::Groups,
        )
        .unwrap();
        assert_eq!(ask.window, Some(Window::Month));
        assert_eq!(ask.groups, [("team", Group::Team), ("model", Group::Model)]);
        assert_eq!(ask.selection.dimensions, [("region".to_owned(), "eu".to_owned())]);
        for (query, code) in [
            ("", "period_missing"),
            ("from=2026-01-01T00:00:00Z", "period_missing"),
            ("from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00%2B01:00", "time_invalid"),
            ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "period_empty"),
            ("from=2026-01-01T00:00:00Z&to=2027-02-05T00:00:00.000001Z", "period_too_long"),
            ("from=yesterday&to=2026-01-01T00:00:00Z", "time_invalid"),
            ("limit=0", "limit_invalid"),
            ("limit=x", "query_invalid"),
        ] {
            assert_eq!(read(query, Takes::Groups).err().as_deref(), Some(code), "{query}");
        }
        for (more, takes, code) in [
            ("group_by=Team", Takes::Groups, "group_unknown"),
            ("group_by=team,team", Takes::Groups, "group_unknown"),
            ("group_by=day,month", Takes::Groups, "group_unknown"),
            ("group_by=region", Takes::Groups, "group_unknown"),
            ("time_zone=Mars/Base", Takes::Groups, "time_zone_unknown"),
            ("filter[a'b]=x", Takes::Groups, "query_invalid"),
            ("team=a&team=b", Takes::Groups, "query_invalid"),
            ("group_by=team", Takes::Pages, "query_invalid"),
            ("limit=1", Takes::Filters, "query_invalid"),
            ("display_currency=eur", Takes::Sums, "display_currency_unknown"),
            ("display_currency=EUR", Takes::Groups, "query_invalid"),
            ("display_currency=EUR", Takes::Team, "query_invalid"),
            ("meter=m", Takes::Team, "query_invalid"),
            ("filter[model]=m", Takes::Team, "query_invalid"),
        ] {
            let query = format!("{year}&{more}");
            assert_eq!(read(&query, takes).err().as_deref(), Some(code), "{query}");
        }
    }
}
