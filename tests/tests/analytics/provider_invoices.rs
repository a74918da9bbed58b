//! Invoices of providers, held against usage that was sent and priced by a card of their own prices. The
//! first invoice and what becomes of it stand in docs/ANALYTICS.md; all numbers are worked out by hand.

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use serde_json::{Value, json};
use tests::signed::{now_s, sign};

use crate::world::{TENANT, World, add_key};

const DOCUMENT: &str = include_str!("../../../docs/ANALYTICS.md");
const INVOICES: &str = "/v1/provider-invoices";

/// The CSV blocks of the document: an invoice, and its reconciliation.
fn documented() -> Result<[String; 2]> {
    let blocks = DOCUMENT.split("```csv\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned());
    let blocks: Vec<String> = blocks.collect();
    blocks.try_into().map_err(|_| anyhow::anyhow!("the document has other blocks"))
}

fn catalog() -> Value {
    let meter = |key: &str, class: &str| {
        json!({"key": key, "event_types": ["llm.call"], "aggregation": "sum", "value": format!("usage.{class}"), "unit": "token",
            "dimensions": {"provider": "$.provider", "model": "$.model"}})
    };
    json!({"meters": [meter("llm_input", "input"), meter("llm_output", "output"),
        meter("llm_cache_read", "cache_read"), meter("llm_reasoning", "reasoning")], "cards": []})
}

fn prices() -> Value {
    let model = |provider: &str, model: &str, prices: Value| json!({"provider": provider, "model": model, "prices": prices});
    let four = json!({"input": "2.5", "output": "10", "cache_read": "1.25"});
    json!({"source": "ours", "date": "2026-01-01", "currency": "USD", "per": 1_000_000, "models": [
        model("openai", "gpt-4o", four.clone()),
        model("openai", "gpt-4o-2024-08-06", four),
        model("openai", "gpt-4o-mini", json!({"input": "0.15", "output": "0.6"})),
        model("openai", "o4-mini", json!({"input": "1", "output": "4"})),
        model("anthropic", "claude-sonnet-4-5-20250929", json!({"input": "3", "output": "15"})),
    ]})
}

/// Sends usage of days of March 2026 and waits until it is in the archive.
async fn report(world: &World) -> Result<()> {
    world.put("/v1/catalog", catalog()).await?.expect(200)?;
    let imports = "/v1/providers/pricing/imports";
    world.post(imports, json!({"list": prices()})).await?.expect(201)?;
    let card = json!({"card": "providers", "default": true});
    world.post("/v1/providers/pricing/cost-card", card).await?.expect(200)?;

    let openai = |prompt: i64, cached: i64, completion: i64, reasoning: i64| {
        json!({"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens": completion, "completion_tokens_details": {"reasoning_tokens": reasoning}})
    };
    let anthropic =
        |input: i64, output: i64| json!({"input_tokens": input, "output_tokens": output});
    let claude = "claude-sonnet-4-5-20250929";
    let sent = [
        ("03-01T23:59:59Z", "openai", "gpt-4o-2024-08-06", openai(1_000_000, 0, 200_000, 0)),
        ("03-02T00:00:00Z", "openai", "gpt-4o", openai(400_000, 100_000, 50_000, 0)),
        ("03-02T10:00:00Z", "openai", "gpt-4o-mini", openai(1_000_000, 0, 1_000_000, 0)),
        ("03-03T10:00:00Z", "openai", "o4-mini", openai(1_000, 0, 300, 200)),
        ("03-03T10:00:00Z", "openai", "o9-preview", openai(1_000, 0, 10, 0)),
        // The day after the invoice.
        ("03-05T00:00:00Z", "openai", "gpt-4o", openai(1_000_000, 0, 0, 0)),
        // On 10 March in Berlin, from its first half hour to its last one; then on the next day.
        ("03-09T23:30:00Z", "anthropic", claude, anthropic(10_000, 2_000)),
        ("03-10T22:30:00Z", "anthropic", claude, anthropic(20_000, 1_000)),
        ("03-10T23:30:00Z", "anthropic", claude, anthropic(1_000, 100)),
        ("03-11T12:00:00Z", "Anthropic", claude, anthropic(500, 0)),
    ];
    let events = sent.iter().enumerate().map(|(number, (time, provider, model, usage))| {
        json!({"id": number.to_string(), "source": "test", "type": "llm.call", "subject": format!("team-{}", number % 2),
            "time": format!("2026-{time}"), "data": {"provider": provider, "model": model, "usage": usage}})
    });
    world.post("/v1/events", events.collect()).await?.expect(200)?;
    let archived = |body: &Value| {
        let all =
            body["total"]["counts"]["accepted"] == sent.len() && body["total"]["pending"] == 0;
        let partitions = body["partitions"].as_array().into_iter().flatten();
        all && partitions.into_iter().all(|one| one["archived_position"] == one["posted_position"])
    };
    world.until("/v1/conservation", archived).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invoices_of_providers_are_held_against_what_was_counted() -> Result<()> {
    let world = World::all().await?;
    report(&world).await?;
    documented_example(&world).await?;
    mapped(&world).await?;
    again(&world).await?;
    faults(&world).await?;
    callers(&world).await?;
    world.stop().await
}

fn openai(csv: &str) -> Value {
    json!({"invoice": "openai-2026-03", "provider": "openai", "csv": csv})
}

async fn documented_example(world: &World) -> Result<()> {
    let [invoice, reconciled] = documented()?;
    let made = world.post(INVOICES, openai(&invoice)).await?.expect(201)?;
    assert_eq!(
        json!([
            made["revision"],
            made["from"],
            made["to"],
            made["lines"],
            made["totals"],
            made["empty_rows"]
        ]),
        json!([1, "2026-03-01", "2026-03-05", 10, {"USD": "6.5672"}, 1])
    );
    assert_eq!(made["columns"]["date"], "start_time_iso");
    assert_eq!(made["columns"]["quantity"], Value::Null);

    let path = format!("{INVOICES}/openai-2026-03/reconciliation");
    let csv = world.get(&format!("{path}?format=csv")).await?;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8; header=present");
    assert_eq!(csv.text, reconciled);
    let accepts = [("accept", "text/csv")];
    let accepted = world.send(Method::GET, &path, &world.key, &accepts, None).await?;
    assert_eq!(accepted.text, reconciled);

    let answer = world.get(&path).await?.expect(200)?;
    assert_eq!(answer["from"], "2026-03-01T00:00:00.000000Z");
    assert_eq!(answer["to"], "2026-03-05T00:00:00.000000Z");
    assert_eq!(
        answer["totals"],
        json!([{"status": "differs", "currency": "USD", "billed": "6.5672", "cost": "6.6272",
            "difference": "-0.06", "difference_percent": "-0.91"}])
    );
    assert_eq!(
        answer["statuses"],
        json!({"matches": 5, "differs": 1, "only_in_invoice": 1, "only_in_weir": 2, "uncosted": 1})
    );
    assert_eq!(
        answer["uncosted"],
        json!([{"model": "o9-preview", "meter": "llm_input", "unit": "token", "lines": 1, "quantity": "1000"},
            {"model": "o9-preview", "meter": "llm_output", "unit": "token", "lines": 1, "quantity": "10"}])
    );
    assert_eq!(answer["uncosted_lines"], 2);
    let rows = answer["items"].as_array().context("rows")?;
    assert_eq!(rows[1]["usage_models"], json!(["gpt-4o", "gpt-4o-2024-08-06"]));
    assert_eq!(rows[1]["invoice_models"], json!(["gpt-4o-2024-08-06"]));
    assert_eq!(rows[1]["quantity"], "1300000");
    // The same in pages.
    let pages = crate::all(world, &world.key, &format!("{path}?limit=3")).await?;
    assert_eq!(&pages, rows);
    variants(world, &path).await
}

/// Other groups, other tolerances, names as they are written, and what is refused.
async fn variants(world: &World, path: &str) -> Result<()> {
    let rows = async |query: &str| -> Result<Vec<Vec<String>>> {
        let answer = world.get(&format!("{path}?{query}")).await?.expect(200)?;
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let row = |row: &Value| {
            ["day", "model", "status", "billed", "cost"].map(|name| text(&row[name])).to_vec()
        };
        Ok(answer["items"].as_array().context("rows")?.iter().map(row).collect())
    };
    assert_eq!(
        rows("group_by=day").await?,
        [
            ["2026-03-01", "-", "matches", "4.5", "4.5"],
            // 0.76 + 0.125 + 0.75 + 0.15, and 0.75 + 0.125 + 0.5 + 0.15 + 0.6.
            ["2026-03-02", "-", "differs", "1.785", "2.125"],
            ["2026-03-03", "-", "differs", "0.2822", "0.0022"],
        ]
    );
    // The difference on 2 March is 19.05 % of what is billed.
    let tolerant = rows("group_by=day&tolerance_percent=19.05&tolerance_amount=0").await?;
    assert_eq!(tolerant[1][2], "matches");
    let strict = rows("group_by=model&tolerance_percent=0&tolerance_amount=0").await?;
    assert_eq!(strict[0], ["-", "gpt-4o", "differs", "6.135", "5.875"]);
    assert_eq!(
        rows("group_by=day,model&snapshots=apart").await?[..3],
        [
            ["2026-03-01", "gpt-4o-2024-08-06", "matches", "4.5", "4.5"],
            ["2026-03-02", "gpt-4o", "only_in_weir", "-", "1.375"],
            ["2026-03-02", "gpt-4o-2024-08-06", "only_in_invoice", "1.635", "-"],
        ]
    );
    assert_eq!(rows("group_by=").await?, [["-", "-", "differs", "6.5672", "6.6272"]]);
    for (query, code) in [
        ("group_by=team", "group_unknown"),
        ("group_by=day,day", "group_unknown"),
        ("tolerance_percent=100.1", "query_invalid"),
        ("tolerance_percent=x", "query_invalid"),
        ("tolerance_amount=-1", "query_invalid"),
        ("snapshots=some", "query_invalid"),
        ("format=xml", "query_invalid"),
        ("format=csv&limit=1", "query_invalid"),
        ("limit=0", "limit_invalid"),
        ("cursor=5b5d", "cursor_invalid"),
        ("from=2026-03-01T00:00:00Z", "query_invalid"),
    ] {
        world.get(&format!("{path}?{query}")).await?.refused(400, code).context(query)?;
    }
    world.get(&format!("{path}?revision=2")).await?.refused(404, "provider_invoice_unknown")?;
    Ok(())
}

/// A file in another form: separators, a mark at its begin, names, a zone, quantities, two currencies, a credit.
async fn mapped(world: &World) -> Result<()> {
    let csv = "\u{feff}Tag;Modell;Art;Menge;Betrag;Währung\r\n\
        2026-03-10;Claude Sonnet 4.5;input_no_cache;30000;\"0.09\";usd\r\n\
        2026-03-10;Claude Sonnet 4.5;Geschriebenes;3000;0.0450000000000049;USD\r\n\
        2026-03-11;Claude Sonnet 4.5;input_no_cache;1000;0.0028;EUR\r\n\
        2026-03-11;;;;-0.50;USD\r\n";
    let body = json!({"invoice": "a/2 ü", "provider": "anthropic", "csv": csv, "delimiter": ";", "time_zone": "europe/berlin",
        "columns": {"date": "Tag", "model": "Modell", "class": "Art", "quantity": "Menge", "amount": "Betrag", "currency": "Währung"},
        "classes": {"Geschriebenes": "llm_output"}, "models": {"Claude Sonnet 4.5": "claude-sonnet-4-5-20250929"}});
    let made = world.post(INVOICES, body).await?.expect(201)?;
    assert_eq!(made["totals"], json!({"EUR": "0.0028", "USD": "-0.365"}));
    assert_eq!(
        json!([made["rounded_numbers"], made["from"], made["to"]]),
        json!([1, "2026-03-10", "2026-03-12"])
    );
    let path = format!("{INVOICES}/a%2F2%20%C3%BC");
    let lines = world.get(&format!("{path}/lines")).await?.expect(200)?;
    assert_eq!(
        lines["items"][2],
        json!({"line": 4, "day": "2026-03-11", "model": "Claude Sonnet 4.5", "class": "input_no_cache",
            "quantity": "1000", "amount": "0.0028", "currency": "EUR"})
    );
    let pages = crate::all(world, &world.key, &format!("{path}/lines?limit=1")).await?;
    assert_eq!(json!(pages), lines["items"]);

    let csv =
        world.get(&format!("{path}/reconciliation?group_by=class,day,model&format=csv")).await?;
    let rows: Vec<&str> = csv.text.lines().skip(1).collect();
    assert_eq!(
        rows,
        [
            "2026-03-10,claude-sonnet-4-5,input,matches,USD,0.09,0.09,0,0,30000,30000,0,token,1,2,0",
            "2026-03-10,claude-sonnet-4-5,output,matches,USD,0.045,0.045,0,0,3000,3000,0,token,1,2,0",
            "2026-03-11,,,only_in_invoice,USD,-0.5,,,,,,,,1,0,0",
            "2026-03-11,claude-sonnet-4-5,input,currency_differs,EUR,0.0028,,,,,,,token,1,2,1",
            "2026-03-11,claude-sonnet-4-5,input,currency_differs,USD,,0.003,,,,,,token,1,2,1",
            "2026-03-11,claude-sonnet-4-5,output,only_in_weir,USD,,0.0015,,,,100,,token,0,2,1",
        ]
    );
    let answer = world.get(&format!("{path}/reconciliation")).await?.expect(200)?;
    assert_eq!(answer["from"], "2026-03-09T23:00:00.000000Z");
    assert_eq!(answer["group_by"], json!(["model", "class"]));
    // 0.09 + 0.045 − 0.5 are billed, 0.09 + 0.045 + 0.003 + 0.0015 were computed.
    assert_eq!(
        answer["totals"],
        json!([{"status": "only_in_invoice", "currency": "EUR", "billed": "0.0028", "cost": null,
                "difference": null, "difference_percent": null},
            {"status": "differs", "currency": "USD", "billed": "-0.365", "cost": "0.1395",
                "difference": "-0.5045", "difference_percent": "138.22"}])
    );
    // Its provider is written with a capital letter, of which the card has no price.
    assert_eq!(answer["uncosted_lines"], 2);
    Ok(())
}

/// The same content is the same invoice, other content is refused or the next revision.
async fn again(world: &World) -> Result<()> {
    let [csv, _] = documented()?;
    let body = openai(&csv);
    let same = world.post(INVOICES, body.clone()).await?.expect(200)?;
    assert_eq!(same["revision"], 1);
    let crlf = json!({"replace": true, "invoice": "openai-2026-03", "provider": "openai", "csv": csv.replace('\n', "\r\n")});
    assert_eq!(
        world.post(INVOICES, crlf).await?.expect(200)?["revision"],
        1,
        "what it says is the same"
    );
    let mut other = openai(&csv.replace("0.25,", "0.26,"));
    let refused =
        world.post(INVOICES, other.clone()).await?.refused(409, "provider_invoice_differs")?;
    assert_eq!(refused["revision"], 1);
    other["replace"] = json!(true);
    let headers = [("idempotency-key", "replace")];
    for _ in 0..2 {
        let done = world.send(Method::POST, INVOICES, &world.key, &headers, Some(other.clone()));
        assert_eq!(done.await?.expect(201)?["revision"], 2);
    }
    let path = format!("{INVOICES}/openai-2026-03");
    let total = async |query: &str| -> Result<Value> {
        let read = world.get(&format!("{path}{query}")).await?.expect(200)?;
        let reconciled = world.get(&format!("{path}/reconciliation{query}")).await?.expect(200)?;
        assert_eq!(read["totals"]["USD"], reconciled["totals"][0]["billed"]);
        Ok(json!([read["revision"], read["totals"]["USD"]]))
    };
    assert_eq!(total("").await?, json!([2, "6.5772"]));
    assert_eq!(total("?revision=1").await?, json!([1, "6.5672"]));
    let list = crate::all(world, &world.key, &format!("{INVOICES}?limit=1")).await?;
    let keys: Vec<_> = list.iter().map(|one| [&one["invoice"], &one["revision"]]).collect();
    assert_eq!(json!(keys), json!([["a/2 ü", 1], ["openai-2026-03", 2]]));
    // Who, what, before and after.
    let audit = world.get("/v1/audit?limit=1").await?.expect(200)?;
    assert_eq!(audit["items"][0]["action"], "POST /v1/provider-invoices");
    assert_eq!(audit["items"][0]["before"]["revision"], 1);
    Ok(())
}

/// What is wrong is listed, each with its line and column, and nothing is stored.
async fn faults(world: &World) -> Result<()> {
    let bad = |csv: &str| json!({"invoice": "bad", "provider": "p", "csv": csv});
    let head = "date,model,class,quantity,amount,currency\n";
    for (rows, faults) in [
        ("2026-13-01,m,c,1,1,USD\n", json!([[2, "date", "date_invalid"]])),
        ("2026-03-01,m,c,1,1.2.3,USD\n", json!([[2, "amount", "amount_invalid"]])),
        ("2026-03-01,m,c,1,,USD\n", json!([[2, "amount", "amount_invalid"]])),
        ("2026-03-01,m,c,many,1,USD\n", json!([[2, "quantity", "quantity_invalid"]])),
        ("2026-03-01,m,c,1,1,\n", json!([[2, "currency", "currency_missing"]])),
        ("2026-03-01,m,c,1,1,dollars\n", json!([[2, "currency", "currency_invalid"]])),
        ("2026-03-01,\"m\u{0}\",c,1,1,USD\n", json!([[2, "model", "cell_invalid"]])),
        ("\n\"2026-03-01\",m\n", json!([[3, null, "row_length"]])),
        ("", json!([[2, null, "rows_none"]])),
        (
            "2026-03-01,m,c,x,1,USD\nno,m,c,1,1,USD\n2026-03-01,m,c,1,1,USD\n",
            json!([[2, "quantity", "quantity_invalid"], [3, "date", "date_invalid"]]),
        ),
    ] {
        let body = bad(&format!("{head}{rows}"));
        let refused = world.post(INVOICES, body).await?.refused(422, "provider_invoice_invalid")?;
        let listed = refused["faults"].as_array().context("faults")?;
        let listed: Vec<_> =
            listed.iter().map(|one| [&one["line"], &one["column"], &one["code"]]).collect();
        assert_eq!(json!(listed), faults, "{rows}: {refused}");
    }
    let good = "date,model,cost_usd\n2026-03-01,m,1\n";
    let with = |name: &str, value: Value| {
        let mut body = bad(good);
        body[name] = value;
        body
    };
    let long = "x".repeat(257);
    for (body, status, code) in [
        (bad(""), 422, "provider_invoice_invalid"),
        (bad("a,b\n1,2\n"), 422, "provider_invoice_invalid"),
        (with("columns", json!({"model": "SKU"})), 422, "provider_invoice_invalid"),
        (
            with("columns", json!({"model": "cost_usd", "amount": ""})),
            422,
            "provider_invoice_invalid",
        ),
        (with("columns", json!({"team": "m"})), 400, "body_invalid"),
        (with("from", json!("2026-03-02")), 422, "provider_invoice_invalid"),
        (with("from", json!("March")), 422, "provider_invoice_field_invalid"),
        (with("to", json!("2027-06-01")), 422, "provider_invoice_field_invalid"),
        (with("currency", json!("usd")), 422, "provider_invoice_field_invalid"),
        (with("delimiter", json!("ab")), 422, "provider_invoice_field_invalid"),
        (with("time_zone", json!("Mars/Base")), 422, "time_zone_unknown"),
        (with("invoice", json!("")), 422, "key_invalid"),
        (with("invoice", json!(long)), 422, "key_invalid"),
        (with("provider", json!("a\u{0}b")), 422, "key_invalid"),
        (with("models", json!({"a": ""})), 422, "key_invalid"),
        (with("classes", json!({"a\u{7}": "input"})), 422, "key_invalid"),
        (json!({"invoice": "bad", "provider": "p"}), 400, "body_invalid"),
    ] {
        world
            .post(INVOICES, body.clone())
            .await?
            .refused(status, code)
            .context(body.to_string())?;
    }
    let backwards = json!({"invoice": "bad", "provider": "p", "csv": good, "from": "2026-03-02", "to": "2026-03-02"});
    let refused =
        world.post(INVOICES, backwards).await?.refused(422, "provider_invoice_field_invalid")?;
    assert_eq!(refused["field"], "to");
    for path in ["", "/lines", "/reconciliation"] {
        let path = format!("{INVOICES}/bad{path}");
        world.get(&path).await?.refused(404, "provider_invoice_unknown")?;
    }
    // Without days there are none to group by.
    let body = json!({"invoice": "month", "provider": "openai", "csv": "cost_usd\n1\n", "from": "2026-03-01", "to": "2026-04-01"});
    world.post(INVOICES, body).await?.expect(201)?;
    let month = format!("{INVOICES}/month/reconciliation");
    world.get(&format!("{month}?group_by=day")).await?.refused(400, "group_unknown")?;
    let answer = world.get(&month).await?.expect(200)?;
    // 6.6272, and 2.5 of the day after the other invoice.
    assert_eq!(answer["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        json!([answer["items"][0]["billed"], answer["items"][0]["cost"]]),
        json!(["1", "9.1272"])
    );
    Ok(())
}

/// Who may import, who may read, and that another tenant has none of it.
async fn callers(world: &World) -> Result<()> {
    let key = async |name: &str, scopes: &[&str]| add_key(&world.admin, TENANT, name, scopes).await;
    let (usage, balances) = (key("u", &["usage:read"]).await?, key("b", &["balances:read"]).await?);
    let both = key("both", &["usage:read", "balances:read"]).await?;
    let writer = key("w", &["catalog:write"]).await?;
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    let secret =
        world.post("/v1/apps/tool/secrets", json!({"scopes": ["*"]})).await?.expect(201)?;
    let claims = json!({"app": "tool", "scopes": ["*"], "iat": now_s(), "exp": now_s() + 290, "team": "team-1"});
    let secret = secret["secret"].as_str().context("a secret")?.as_bytes();
    let token =
        sign(&json!({"alg": "HS256", "typ": "JWT"}).to_string(), &claims.to_string(), secret);
    let ask = async |key: &str, path: &str| world.send(Method::GET, path, key, &[], None).await;
    for path in ["", "/openai-2026-03", "/openai-2026-03/lines", "/openai-2026-03/reconciliation"] {
        let path = format!("{INVOICES}{path}");
        ask(&both, &path).await?.expect(200)?;
        for key in [&usage, &balances, &writer] {
            ask(key, &path).await?.refused(403, "scope_missing")?;
        }
        ask(&token, &path).await?.refused(403, "team_limited")?;
        let other = ask(&world.other_key, &path).await?;
        if path == INVOICES {
            assert_eq!(other.expect(200)?["items"], json!([]));
        } else {
            other.refused(404, "provider_invoice_unknown")?;
        }
    }
    let body = json!({"invoice": "openai-2026-03", "provider": "openai", "csv": "date,cost_usd\n2026-03-01,1\n"});
    let post =
        async |key: &str| world.send(Method::POST, INVOICES, key, &[], Some(body.clone())).await;
    post(&both).await?.refused(403, "scope_missing")?;
    post(&token).await?.refused(403, "team_limited")?;
    post(&writer).await?.refused(409, "provider_invoice_differs")?;
    // The other tenant's own invoice of this key, against its own usage.
    post(&world.other_key).await?.expect(201)?;
    let path = format!("{INVOICES}/openai-2026-03/reconciliation");
    let other = ask(&world.other_key, &path).await?.expect(200)?;
    ensure!(other["totals"][0]["status"] == "only_in_invoice", "{other}");
    Ok(())
}
