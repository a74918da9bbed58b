//! Files as providers write them, and numbers that were worked out by hand.

use domain::{
    catalog::CatalogDocument,
    money::{Amount, ONE},
};
use jiff::tz::TimeZone;

use super::{
    Columns, Line,
    compare::{Billed, Grouping, Row, Status, Tolerance, Used, rows},
    names::{Classes, shared_model},
    rows::{Read, Reading, civil_day, read},
};

fn amount(text: &str) -> Amount {
    Amount::parse_exact(text).unwrap()
}

fn reading<'a>(csv: &'a str, columns: &'a Columns, zone: &'a TimeZone) -> Reading<'a> {
    Reading { csv, delimiter: b',', columns, currency: None, zone, from: None, to: None }
}

fn read_plain(csv: &str) -> Result<Read, String> {
    let read = read(&reading(csv, &Columns::default(), &TimeZone::UTC));
    read.map_err(|faults| faults.iter().map(|fault| format!("{fault}\n")).collect())
}

fn shown(line: &Line) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let quantity = line.quantity.map(|one| one.to_string());
    format!(
        "{} {} {}|{} {} {} {}",
        line.line,
        text(&line.day),
        text(&line.model),
        text(&line.class),
        text(&quantity),
        line.amount,
        line.currency
    )
}

#[test]
fn exports_of_providers_are_read_without_a_mapping() {
    let openai = "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n\
        1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,0.8958740000000000,usd,\"gpt-4o-2024-08-06, cached input\",p\n\
        1759708800,1759795200,2025-10-06T00:00:00+00:00,2025-10-07T00:00:00+00:00,1.5e-7,usd,web search tool calls,p\n\
        1759795200,1759881600,2025-10-07T00:00:00+00:00,2025-10-08T00:00:00+00:00,,,,\n";
    let openai = read_plain(openai).unwrap();
    let lines: Vec<String> = openai.lines.iter().map(shown).collect();
    assert_eq!(
        lines,
        [
            "2 2025-10-05 gpt-4o-2024-08-06|cached input - 0.895874 USD",
            "3 2025-10-06 web search tool calls|- - 0.00000015 USD"
        ]
    );
    assert_eq!((openai.empty_rows, openai.rounded), (1, 0));
    let period = [openai.from, openai.to].map(|day| day.to_string());
    assert_eq!(period, ["2025-10-05", "2025-10-08"], "a day without costs is a day");

    let anthropic = "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type\r\n\
        2026-08-04,Claude Haiku 4.5,Default,key,message,≤ 200k,input_no_cache,0.05,0.05,token\r\n\
        2026-08-04,,Default,key,,,,0.10,0.10,web_search\r\n";
    let anthropic = read_plain(anthropic).unwrap();
    let lines: Vec<String> = anthropic.lines.iter().map(shown).collect();
    assert_eq!(
        lines,
        ["2 2026-08-04 Claude Haiku 4.5|input_no_cache - 0.05 USD", "3 2026-08-04 -|- - 0.1 USD"]
    );
    assert_eq!(anthropic.columns.class.as_deref(), Some("token_type"));
}

#[test]
fn a_file_is_read_as_its_importer_says() {
    let some = |name: &str| Some(name.to_owned());
    let columns = Columns {
        date: some("Tag"),
        model: some("Modell"),
        class: some(""),
        amount: some("Betrag"),
        quantity: some("Menge"),
        currency: None,
    };
    let csv = "\u{feff}Tag;Modell;class;Menge;Betrag\r\n\
        \"2026-03-29T22:30:00Z\";\" a \"\"b\"\"; \nc\";x;7;-1.0000000000005\r\n\r\n\
        1774827000;m;x;;+3\r\n2026-03-30 23:59:59;m;x;0;0.0000000000015\r\n";
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let ours =
        Reading { delimiter: b';', currency: Some("EUR"), ..reading(csv, &columns, &berlin) };
    let faults = read(&ours).unwrap_err();
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["line 2, Modell: it has more than 256 bytes, or control characters"]);
    let csv = csv.replace("; \nc", "; c");
    let ours = Reading { csv: &csv, ..ours };
    let read = read(&ours).unwrap();
    let lines: Vec<String> = read.lines.iter().map(shown).collect();
    // Half to even at twelve decimals; 22:30 UTC is after midnight in Berlin's summer.
    assert_eq!(
        lines,
        [
            "2 2026-03-30 a \"b\"; c|- 7 -1 EUR",
            "4 2026-03-30 m|- - 3 EUR",
            "5 2026-03-30 m|- 0 0.000000000002 EUR"
        ]
    );
    assert_eq!((read.rounded, read.empty_rows), (2, 0));
}

#[test]
fn all_faults_of_a_file_are_named() {
    let faults = |csv: &str| read_plain(csv).unwrap_err();
    assert_eq!(faults(""), "line 1: the file has no line with the names of its columns\n");
    let none = faults("a,b\n1,2\n");
    assert_eq!(none.matches("no column has").count(), 2, "{none}");
    assert_eq!(faults("date,cost_usd\n"), "line 2: no row has an amount\n");
    assert_eq!(
        faults("date,Cost,cost\n2026-03-01,1,2\n"),
        "line 1, Cost: there are several columns `Cost` for `amount`\n"
    );
    let csv = "day,model,tokens,amount,currency\n\
        2026-02-30,m,1,1,USD\n\
        2026-03-01,m,1 000,\"1,5\",USD\n\
        2026-03-01,m,1\n\
        2026-03-01,m,,,\n\
        2026-03-01,m,1,1,$\n\
        yesterday,m,1,1e20,USD\n\
        1999-12-31,m,1,1,USD\n";
    assert_eq!(
        faults(csv),
        "line 2, day: `2026-02-30` is no day such as 2026-03-01, and no time\n\
         line 3, tokens: `1 000` is no decimal number such as -1234.5, without separators or signs of a currency\n\
         line 3, amount: `1,5` is no decimal number such as -1234.5, without separators or signs of a currency\n\
         line 4: it has 3 fields; the first line 5\n\
         line 5, currency: no column names the currency, and neither does `currency`\n\
         line 5, amount: the row has no amount\n\
         line 6, currency: `$` is no currency of three letters\n\
         line 7, day: `yesterday` is no day such as 2026-03-01, and no time\n\
         line 7, amount: `1e20` is not below 10^20\n\
         line 8, day: `1999-12-31` is no day such as 2026-03-01, and no time\n"
    );
    let columns = Columns { model: Some("modell".to_owned()), ..Columns::default() };
    let zone = TimeZone::UTC;
    let period = Reading {
        from: civil_day("2026-03-01"),
        to: civil_day("2026-03-02"),
        ..reading("day,cost_usd\n2026-03-02,1\n2026-03-01,1\n", &columns, &zone)
    };
    let faults: Vec<String> = read(&period).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "line 1, modell: there is no column `modell` for `model`",
            "line 2, day: 2026-03-02 is not between `from` and `to` of the invoice"
        ]
    );
    // Days are not needed where the period is said.
    let usual = Columns::default();
    let whole = Reading { columns: &usual, csv: "cost_usd\n1\n", ..period };
    assert_eq!(read(&whole).unwrap().lines[0].day, None);
    let many = "cost_usd\n".to_owned() + &"1\n".repeat(100_001);
    let many = Reading { csv: &many, ..whole };
    let faults: Vec<String> = read(&many).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["line 100002: the file has more than 100000 rows"]);
    let bad = "cost_usd\n".to_owned() + &"x\n".repeat(2_000);
    let bad = Reading { csv: &bad, ..whole };
    assert_eq!(read(&bad).unwrap_err().len(), 1_000);
    // Lines end in each way, and rows may be blank.
    for end in ["\n", "\r\n", "\r"] {
        let csv = ["date,cost_usd", "2026-03-01,1", "", ",", "2026-03-01,x", ""].join(end);
        let faults = read_plain(&csv).unwrap_err();
        assert!(faults.starts_with("line 5, cost_usd: `x`"), "{end:?}: {faults}");
    }
}

#[test]
fn names_of_invoices_are_brought_together_with_ours() {
    for (name, shared) in [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("gpt-4.1", "gpt-4.1"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("Claude Haiku 4.5", "claude-haiku-4-5"),
        ("command-r-08-2024", "command-r"),
        ("mistral-large-latest", "mistral-large"),
        // These may be a size, a month or a time.
        ("mistral-large-2407", "mistral-large-2407"),
        ("gpt-4-0613", "gpt-4-0613"),
        ("-20240806", "-20240806"),
        ("gemini-1.5-pro-001", "gemini-1.5-pro-001"),
    ] {
        assert_eq!(shared_model(name), shared, "{name}");
    }
    let meters = serde_json::json!({"meters": [
        {"key": "in", "event_types": ["e"], "aggregation": "sum", "value": "usage.input"},
        {"key": "thought", "event_types": ["e"], "aggregation": "sum", "value": "usage.reasoning"},
        {"key": "searches", "event_types": ["e"], "aggregation": "count"}]});
    let document: CatalogDocument = serde_json::from_value(meters).unwrap();
    let given = [("Searching", "searches"), ("Text", "in"), ("Reading", "cache_read")];
    let given = given.map(|(own, ours)| (own.to_owned(), ours.to_owned())).into();
    let classes = Classes::new(&document, given);
    for (text, class) in [
        ("Input Tokens", "input"),
        ("uncached_input_tokens", "input"),
        ("input_no_cache", "input"),
        ("completion tokens", "output"),
        ("cached input", "cache_read"),
        ("cache_read_input_tokens", "cache_read"),
        ("cache_creation.ephemeral_5m_input_tokens", "cache_write"),
        ("input_cache_write_1h", "cache_write_1h"),
        ("in", "input"),
        ("searches", "searches"),
        ("Searching", "searches"),
        ("Text", "input"),
        ("Reading", "cache_read"),
        ("Storage", "Storage"),
    ] {
        assert_eq!(classes.of_invoice(text), class, "{text}");
    }
    assert_eq!(classes.of_meter("in", |_| false), "input");
    assert_eq!(classes.of_meter("searches", |_| false), "searches");
    // Billed as what is written, unless the invoice has it apart.
    assert_eq!(classes.of_meter("thought", |_| false), "output");
    assert_eq!(classes.of_meter("thought", |class| class == "reasoning"), "reasoning");
}

fn billed(model: &str, currency: &str, text: &str, quantity: Option<&str>) -> Billed {
    Billed {
        day: None,
        model: Some(model.to_owned()),
        written: Some(format!("{model}-2024-08-06")),
        class: None,
        currency: currency.to_owned(),
        lines: 1,
        amount: amount(text),
        quantity: quantity.map(amount),
    }
}

fn used(model: &str, currency: &str, cost: &str, quantity: &str, unit: &str) -> Used {
    let uncosted = currency.is_empty();
    Used {
        day: None,
        model: Some(model.to_owned()),
        written: Some(model.to_owned()),
        class: Some("input".to_owned()),
        unit: unit.to_owned(),
        currency: (!uncosted).then(|| currency.to_owned()),
        lines: 1,
        uncosted_lines: i64::from(uncosted),
        quantity: amount(quantity),
        cost: (!uncosted).then(|| amount(cost)),
    }
}

#[test]
fn sides_are_compared_within_one_currency() {
    let invoice = [
        billed("a", "USD", "100", Some("10")),
        billed("a", "USD", "0.5", None),
        billed("b", "USD", "100.51", Some("3")),
        billed("c", "USD", "0.02", Some("1")),
        billed("d", "EUR", "1", Some("1")),
        billed("e", "USD", "1", None),
        billed("f", "USD", "-2", Some("1")),
        billed("g", "USD", "0", Some("1")),
        billed("i", "USD", "1", Some("1")),
        billed("i", "EUR", "1", Some("1")),
    ];
    let usage = [
        used("a", "USD", "100", "10", "token"),
        used("b", "USD", "100", "3", "token"),
        used("b", "", "", "4", "token"),
        used("c", "USD", "0.01", "1", "token"),
        used("c", "USD", "0", "1", "call"),
        used("d", "USD", "1", "1", "token"),
        used("e", "", "", "1", "token"),
        used("f", "USD", "2", "1", "token"),
        used("g", "USD", "0.02", "1", "token"),
        used("h", "USD", "3", "1", "token"),
        used("i", "USD", "1", "2", "token"),
        used("j", "", "", "5", "token"),
    ];
    let by_model = Grouping { model: true, ..Grouping::default() };
    let tolerance = Tolerance { percent: amount("0.5"), amount: amount("0.01") };
    let found = rows(&invoice, &usage, by_model, tolerance).unwrap();
    let text = |amount: Option<Amount>| amount.map_or("-".to_owned(), |one| one.to_string());
    let shown = |row: &Row| {
        let sums = &row.sums;
        let numbers = [sums.difference, sums.difference_percent, row.quantity_difference].map(text);
        let currency = sums.currency.as_deref().unwrap_or("-");
        let status = serde_json::to_value(sums.status).unwrap();
        let status = status.as_str().unwrap().to_owned();
        let place = row.model.as_deref().unwrap();
        format!("{place} {currency} {status} {} {}", numbers.join(" "), row.uncosted_lines)
    };
    assert_eq!(
        found.iter().map(shown).collect::<Vec<_>>(),
        [
            // 0.5 of 100.5 is within half a percent, 0.51 of 100.51 is not.
            "a USD matches 0.5 0.5 - 0",
            "b USD differs 0.51 0.51 -4 1",
            "c USD matches 0.01 50 - 0",
            "d EUR currency_differs - - - 0",
            "d USD currency_differs - - - 0",
            "e USD uncosted - - - 1",
            "f USD differs -4 200 0 0",
            "g USD differs -0.02 - 0 0",
            "h USD only_in_weir - - - 0",
            "i EUR only_in_invoice - - - 0",
            "i USD matches 0 0 - 0",
            "j - only_in_weir - - - 1",
        ]
    );
    assert_eq!(found[1].quantity, Some(amount("7")), "what has no cost was used all the same");
    assert_eq!(found[2].unit, None, "tokens and calls are not added together");
    assert_eq!(found[0].invoice_models.first().map(String::as_str), Some("a-2024-08-06"));
    let exact = Tolerance { percent: Amount::ZERO, amount: Amount::ZERO };
    let found = rows(&invoice, &usage, by_model, exact).unwrap();
    assert_eq!(found[0].sums.status, Status::Differs);
    assert_eq!(found[10].sums.status, Status::Matches);
    // All of it is one row for each currency.
    let total = rows(&invoice, &usage, Grouping::default(), exact).unwrap();
    let total: Vec<String> =
        total.iter().map(|row| format!("{:?} {:?}", row.sums.billed, row.sums.cost)).collect();
    let dollars = format!("{:?} {:?}", Some(amount("201.03")), Some(amount("207.03")));
    assert_eq!(total, [format!("{:?} None", Some(amount("2"))), dollars]);
    let huge = Amount::of_sum(99_999_999_999_999_999_999_999_999 * ONE);
    let mut beyond = invoice.to_vec();
    beyond[1].amount = huge;
    assert!(rows(&beyond, &usage, by_model, exact).is_none());
}
