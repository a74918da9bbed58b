//! A provider's CSV, read whole or refused with all that is wrong with it.

use domain::money::{AMOUNT_RAW_LIMIT, Amount, NumberError, is_currency_code, parse_scaled};
use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};
use serde::Serialize;

use super::{Columns, Line};

/// Most rows of one file.
const ROWS_MAX: usize = 100_000;
/// Faults after which a file is read no further.
const FAULTS_MAX: usize = 1_000;
/// Bytes of the name of a model or class.
const NAME_BYTES_MAX: usize = 256;
/// Years that a day may be of: what the archive can tell apart.
const YEARS: std::ops::RangeInclusive<i16> = 2000..=2100;

/// Usual names of columns, in small letters; the first that a file has is taken. Those of the cost exports
/// of OpenAI and Anthropic are among them.
const DATES: &[&str] =
    &["date", "day", "usage_date", "usage_date_utc", "start_time_iso", "start_time", "start_date"];
const MODELS: &[&str] = &["model", "model_name", "model_id", "model_version", LINE_ITEM];
const CLASSES: &[&str] = &["token_class", "class", "token_type", "usage_type"];
const QUANTITIES: &[&str] = &["quantity", "usage_quantity", "tokens", "units"];
const AMOUNTS: &[&str] = &["amount", "cost", "amount_value", COST_USD, "total_cost"];
const CURRENCIES: &[&str] = &["currency", "currency_code", "amount_currency"];
/// Of OpenAI: model and class in one.
const LINE_ITEM: &str = "line_item";
/// Of Anthropic: it names its currency.
const COST_USD: &str = "cost_usd";

/// What to read, and how.
pub(crate) struct Reading<'a> {
    pub csv: &'a str,
    pub delimiter: u8,
    pub columns: &'a Columns,
    /// Of rows that do not say it.
    pub currency: Option<&'a str>,
    /// In which days begin.
    pub zone: &'a TimeZone,
    /// The first day, and the day after the last; found in the rows where absent.
    pub from: Option<Date>,
    pub to: Option<Date>,
}

/// What a file says.
#[derive(Debug)]
pub(crate) struct Read {
    pub lines: Vec<Line>,
    /// The columns that were read.
    pub columns: Columns,
    /// Rows that say nothing but their day.
    pub empty_rows: usize,
    /// Numbers that were rounded to twelve decimals.
    pub rounded: usize,
    pub from: Date,
    pub to: Date,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// Where; the names of the columns are line 1.
    line: u64,
    /// In which column, where it is one.
    column: Option<String>,
    code: &'static str,
    reason: String,
}

impl Fault {
    fn new(line: u64, column: Option<&str>, code: &'static str, reason: String) -> Self {
        Self { line, column: column.map(str::to_owned), code, reason }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "line {}", self.line)?;
        if let Some(column) = &self.column {
            write!(formatter, ", {column}")?;
        }
        write!(formatter, ": {}", self.reason)
    }
}

/// Reads a file; all faults are named, of very many the first.
pub(crate) fn read(reading: &Reading<'_>) -> Result<Read, Vec<Fault>> {
    let text = reading.csv.strip_prefix('\u{feff}').unwrap_or(reading.csv);
    let mut csv = csv::ReaderBuilder::new()
        .delimiter(reading.delimiter)
        .flexible(true)
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut records = csv.records();
    let Some(Ok(header)) = records.next() else {
        let reason = "the file has no line with the names of its columns".to_owned();
        return Err(vec![Fault::new(1, None, "column_missing", reason)]);
    };
    let (mut file, mut place) = (File::new(&header, reading), LineCount { byte: 0, line: 1 });
    for record in records {
        let Ok(record) = record else { continue };
        let start = record.position().map_or(0, csv::Position::byte);
        let line = place.at(text.as_bytes(), usize::try_from(start).unwrap_or(usize::MAX));
        // Lines of separators alone are left by spreadsheets.
        if record.iter().all(str::is_empty) {
            continue;
        }
        if file.lines.len() >= ROWS_MAX {
            let reason = format!("the file has more than {ROWS_MAX} rows");
            file.faults.push(Fault::new(line, None, "rows_too_many", reason));
            break;
        }
        file.row(&record, line);
        if file.faults.len() >= FAULTS_MAX {
            break;
        }
    }
    file.end()
}

/// Counts lines up to a byte. The reader of CSV has those of blank lines, and of line ends, before a row
/// still before it.
struct LineCount {
    byte: usize,
    line: u64,
}

impl LineCount {
    /// The line of the row that is found from a byte on; bytes are asked for in their order.
    fn at(&mut self, text: &[u8], start: usize) -> u64 {
        while let Some(byte) = text.get(self.byte) {
            let is_end = matches!(byte, b'\r' | b'\n');
            if self.byte >= start && !is_end {
                break;
            }
            // Of the two that end a line together, the second counts.
            let pair = *byte == b'\r' && text.get(self.byte + 1) == Some(&b'\n');
            self.line += u64::from(is_end && !pair);
            self.byte += 1;
        }
        self.line
    }
}

/// Where a column stands, and its name.
#[derive(Clone)]
struct Place {
    at: usize,
    name: String,
}

/// A file that is being read.
struct File<'a> {
    reading: &'a Reading<'a>,
    width: usize,
    date: Option<Place>,
    model: Option<Place>,
    class: Option<Place>,
    quantity: Option<Place>,
    amount: Option<Place>,
    currency: Option<Place>,
    lines: Vec<Line>,
    empty_rows: usize,
    rounded: usize,
    /// The first and the last day of the rows.
    days: Option<(Date, Date)>,
    faults: Vec<Fault>,
}

impl<'a> File<'a> {
    fn new(header: &csv::StringRecord, reading: &'a Reading<'a>) -> Self {
        let mut faults = Vec::new();
        let given = reading.columns;
        let mut missing = Vec::new();
        let mut place = |given: &Option<String>, usual: &[&str], field: &'static str| {
            let found = find(header, given.as_deref(), usual, field);
            missing.extend(matches!(found, Ok(None)).then_some(field));
            found.unwrap_or_else(|fault| {
                faults.push(fault);
                None
            })
        };
        let date = place(&given.date, DATES, "date");
        let model = place(&given.model, MODELS, "model");
        let mut class = place(&given.class, CLASSES, "class");
        let quantity = place(&given.quantity, QUANTITIES, "quantity");
        let amount = place(&given.amount, AMOUNTS, "amount");
        let currency = place(&given.currency, CURRENCIES, "currency");
        if class.is_none() && given.class.is_none() {
            class = model.clone().filter(|model| model.name.eq_ignore_ascii_case(LINE_ITEM));
        }
        if missing.contains(&"amount") {
            let names = AMOUNTS.join(", ");
            let reason = format!(
                "no column has amounts, such as {names}: say in `columns.amount` which one"
            );
            faults.push(Fault::new(1, None, "column_missing", reason));
        }
        if missing.contains(&"date") && (reading.from.is_none() || reading.to.is_none()) {
            let reason =
                "no column has days: say in `columns.date` which one, or give `from` and `to`";
            faults.push(Fault::new(1, None, "column_missing", reason.to_owned()));
        }
        Self {
            reading,
            width: header.len(),
            date,
            model,
            class,
            quantity,
            amount,
            currency,
            lines: Vec::new(),
            empty_rows: 0,
            rounded: 0,
            days: None,
            faults,
        }
    }

    fn row(&mut self, record: &csv::StringRecord, line: u64) {
        if record.len() != self.width {
            let reason = format!("it has {} fields; the first line {}", record.len(), self.width);
            self.faults.push(Fault::new(line, None, "row_length", reason));
            return;
        }
        let (model, class) = self.names(record, line);
        let quantity = self.number(record, line, false);
        let said = self.amount.as_ref().is_some_and(|place| !cell(record, place).is_empty());
        if !said && model.is_none() && class.is_none() && quantity.is_none() {
            // The provider says of its day that it bills nothing.
            if self.date.as_ref().is_some_and(|place| !cell(record, place).is_empty()) {
                self.day(record, line);
            }
            self.empty_rows += 1;
            return;
        }
        let day = self.day(record, line);
        let currency = self.currency(record, line);
        let amount = self.number(record, line, true);
        if let (Some(place), false) = (&self.amount, said) {
            let reason = "the row has no amount".to_owned();
            self.faults.push(Fault::new(line, Some(&place.name), "amount_invalid", reason));
        }
        let (Some(amount), Some(currency)) = (amount, currency) else { return };
        self.lines.push(Line {
            line: i64::try_from(line).unwrap_or(i64::MAX),
            day: day.map(|day| day.to_string()),
            model,
            class,
            quantity,
            amount,
            currency,
        });
    }

    /// Model and class.
    fn names(&mut self, record: &csv::StringRecord, line: u64) -> (Option<String>, Option<String>) {
        let model = self.name(record, line, self.model.clone());
        let (Some(of_model), Some(of_class)) = (&self.model, &self.class) else {
            return (model, self.name(record, line, self.class.clone()));
        };
        if of_model.at != of_class.at {
            return (model, self.name(record, line, self.class.clone()));
        }
        let parts = model.as_deref().and_then(|text| text.rsplit_once(','));
        let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        match parts {
            Some((model, class)) => (some(model), some(class)),
            None => (model, None),
        }
    }

    fn name(
        &mut self,
        record: &csv::StringRecord,
        line: u64,
        place: Option<Place>,
    ) -> Option<String> {
        let place = place?;
        let text = cell(record, &place);
        if text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
            let reason = format!("it has more than {NAME_BYTES_MAX} bytes, or control characters");
            self.faults.push(Fault::new(line, Some(&place.name), "cell_invalid", reason));
            return None;
        }
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }

    /// The amount or the quantity, where there is one.
    fn number(&mut self, record: &csv::StringRecord, line: u64, is_amount: bool) -> Option<Amount> {
        let place = if is_amount { self.amount.clone() } else { self.quantity.clone() }?;
        let text = cell(record, &place);
        if text.is_empty() {
            return None;
        }
        let parsed = parse_scaled(text, AMOUNT_RAW_LIMIT);
        if let Ok(number) = parsed
            && let Some(amount) = Amount::from_raw(number.raw)
        {
            self.rounded += usize::from(number.rounded);
            return Some(amount);
        }
        let reason = match parsed {
            Err(NumberError::NotANumber) => {
                format!(
                    "`{}` is no decimal number such as -1234.5, without separators or signs of a currency",
                    shown(text)
                )
            }
            _ => format!("`{}` is not below 10^20", shown(text)),
        };
        let code = if is_amount { "amount_invalid" } else { "quantity_invalid" };
        self.faults.push(Fault::new(line, Some(&place.name), code, reason));
        None
    }

    fn day(&mut self, record: &csv::StringRecord, line: u64) -> Option<Date> {
        let place = self.date.clone()?;
        let text = cell(record, &place);
        let Some(day) = day_of(text, self.reading.zone) else {
            let reason = format!("`{}` is no day such as 2026-03-01, and no time", shown(text));
            self.faults.push(Fault::new(line, Some(&place.name), "date_invalid", reason));
            return None;
        };
        let early = self.reading.from.is_some_and(|from| day < from);
        if early || self.reading.to.is_some_and(|to| day >= to) {
            let reason = format!("{day} is not between `from` and `to` of the invoice");
            self.faults.push(Fault::new(line, Some(&place.name), "date_outside_period", reason));
            return None;
        }
        let (first, last) = self.days.unwrap_or((day, day));
        self.days = Some((first.min(day), last.max(day)));
        Some(day)
    }

    fn currency(&mut self, record: &csv::StringRecord, line: u64) -> Option<String> {
        let place = self.currency.clone();
        let own = place.as_ref().map_or("", |place| cell(record, place));
        if own.is_empty() {
            let of_amount = || {
                let name = &self.amount.as_ref()?.name;
                name.eq_ignore_ascii_case(COST_USD).then_some("USD")
            };
            let currency = self.reading.currency.or_else(of_amount).map(str::to_owned);
            if currency.is_none() {
                let reason = "no column names the currency, and neither does `currency`".to_owned();
                let name = place.as_ref().map(|place| place.name.as_str());
                self.faults.push(Fault::new(line, name, "currency_missing", reason));
            }
            return currency;
        }
        let currency = own.to_ascii_uppercase();
        if !is_currency_code(&currency) {
            let reason = format!("`{}` is no currency of three letters", shown(own));
            let name = place.as_ref().map(|place| place.name.as_str());
            self.faults.push(Fault::new(line, name, "currency_invalid", reason));
            return None;
        }
        Some(currency)
    }

    fn end(mut self) -> Result<Read, Vec<Fault>> {
        let first = self.reading.from.or(self.days.map(|(first, _)| first));
        let after = self.days.and_then(|(_, last)| last.tomorrow().ok());
        let period = first.zip(self.reading.to.or(after));
        if self.lines.is_empty() && self.faults.is_empty() {
            let reason = "no row has an amount".to_owned();
            self.faults.push(Fault::new(2, None, "rows_none", reason));
        }
        let Some((from, to)) = period.filter(|_| self.faults.is_empty()) else {
            return Err(self.faults);
        };
        let name = |place: Option<Place>| place.map(|place| place.name);
        Ok(Read {
            lines: self.lines,
            columns: Columns {
                date: name(self.date),
                model: name(self.model),
                class: name(self.class),
                quantity: name(self.quantity),
                amount: name(self.amount),
                currency: name(self.currency),
            },
            empty_rows: self.empty_rows,
            rounded: self.rounded,
            from,
            to,
        })
    }
}

/// The column that was named, or the first with one of the usual names.
fn find(
    header: &csv::StringRecord,
    given: Option<&str>,
    usual: &[&str],
    field: &str,
) -> Result<Option<Place>, Fault> {
    let at = |wanted: &str| -> Vec<usize> {
        let same = |(_, name): &(usize, &str)| name.eq_ignore_ascii_case(wanted);
        header.iter().enumerate().filter(same).map(|(at, _)| at).collect()
    };
    let found = match given {
        Some("") => return Ok(None),
        Some(given) => at(given),
        None => {
            usual.iter().map(|name| at(name)).find(|found| !found.is_empty()).unwrap_or_default()
        }
    };
    match (found.as_slice(), given) {
        (&[at], _) => Ok(Some(Place { at, name: header.get(at).unwrap_or_default().to_owned() })),
        ([], None) => Ok(None),
        ([], Some(given)) => {
            let reason = format!("there is no column `{}` for `{field}`", shown(given));
            Err(Fault::new(1, Some(given), "column_missing", reason))
        }
        (&[at, ..], _) => {
            let name = header.get(at).unwrap_or_default();
            let reason = format!("there are several columns `{}` for `{field}`", shown(name));
            Err(Fault::new(1, Some(name), "column_twice", reason))
        }
    }
}

fn cell<'a>(record: &'a csv::StringRecord, place: &Place) -> &'a str {
    record.get(place.at).unwrap_or_default()
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A day that is written as one.
pub(crate) fn civil_day(text: &str) -> Option<Date> {
    let is_day = text.len() == 10;
    text.parse().ok().filter(|day: &Date| is_day && YEARS.contains(&day.year()))
}

/// The day of a row: written so, or that of a time in the zone.
fn day_of(text: &str, zone: &TimeZone) -> Option<Date> {
    let seconds = || {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = text.parse().ok().filter(|_| digits && (9..=10).contains(&text.len()))?;
        Timestamp::from_second(seconds).ok()
    };
    let in_zone = |time: Timestamp| time.to_zoned(zone.clone()).date();
    let day = civil_day(text)
        .or_else(|| seconds().map(in_zone))
        .or_else(|| text.parse().ok().map(in_zone))
        .or_else(|| {
            text.parse::<DateTime>().ok().filter(|_| text.len() > 10).map(DateTime::date)
        })?;
    YEARS.contains(&day.year()).then_some(day)
}
