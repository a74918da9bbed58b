//! Analytics and exports on real stores: compared with plain arithmetic and with the archive's views.

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use serde_json::{Value, json};
use tests::signed::{now_s, sign};

use crate::{
    data::{ALL, BEFORE, EVENTS, Line, PERIOD, expected, lines, of_period, percent, report, text},
    world::{TENANT, World, add_key},
};

#[path = "analytics/apps.rs"]
mod apps;
#[path = "analytics/data.rs"]
mod data;
#[path = "analytics/files.rs"]
mod files;
#[path = "analytics/provider_invoices.rs"]
mod provider_invoices;
#[path = "analytics/unpriced.rs"]
mod unpriced_later;
#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

const MEASURES: [&str; 4] = ["usage", "revenue", "cost", "margin"];

/// All items of a list, page by page; `path` has a question mark.
async fn all(world: &World, key: &str, path: &str) -> Result<Vec<Value>> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{path}{cursor}");
        let page = world.send(Method::GET, &path, key, &[], None).await?.expect(200)?;
        items.extend(page["items"].as_array().context("no items")?.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(items),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analytics_are_what_was_used_to_the_last_decimal() -> Result<()> {
    let world = World::all().await?;
    report(&world).await?;
    sums(&world).await?;
    days(&world).await?;
    filters(&world).await?;
    views(&world).await?;
    overview(&world).await?;
    unpriced(&world).await?;
    files::exports(&world).await?;
    callers(&world).await?;
    refusals(&world).await?;
    world.stop().await
}

/// Each measure by each group, in one page and in many.
async fn sums(world: &World) -> Result<()> {
    let used = of_period();
    let lists: [&[&str]; 8] = [
        &[],
        &["team"],
        &["meter"],
        &["feature"],
        &["app"],
        &["model"],
        &["provider", "model"],
        &["team", "feature", "model"],
    ];
    let mut rows = 0;
    for (measure, groups) in
        MEASURES.iter().flat_map(|one| lists.iter().map(move |list| (one, list)))
    {
        let list = groups.join(",");
        let path = format!("/v1/analytics/{measure}?{PERIOD}&group_by={list}");
        let wanted = expected(&used, measure, groups);
        let whole = all(world, &world.key, &path).await?;
        assert_eq!(whole, wanted, "{path}");
        assert_eq!(all(world, &world.key, &format!("{path}&limit=2")).await?, wanted, "{path}");
        rows += wanted.len();
    }
    ensure!(rows > 60, "only {rows} rows");
    // Of which nothing is known: null beside the counts, and never 0.
    let path = format!("/v1/analytics/margin?{PERIOD}&filter[model]=gamma");
    let unknown = all(world, &world.key, &path).await?;
    assert_eq!(
        unknown,
        [
            json!({"window_start": null, "window_end": null, "group": {}, "currency": null, "cost_currency": "USD",
            "charge": null, "cost": "1.1", "margin": null, "margin_percent": null,
            "lines": 2, "unpriced_lines": 2, "uncosted_lines": 0})
        ]
    );
    let path = format!("/v1/analytics/margin?{PERIOD}&filter[model]=beta");
    let beta = all(world, &world.key, &path).await?;
    let both: Vec<_> =
        beta.iter().map(|row| [&row["currency"], &row["margin"], &row["margin_percent"]]).collect();
    // 9 of 2.5 EUR cost USD; 10 of 2 USD cost 0.7 each, and what was taken back counts nowhere.
    assert_eq!(json!(both), json!([["EUR", null, null], ["USD", "13", "65"]]));
    Ok(())
}

/// Civil days of a window, where it begins and where it ends.
type Bounds = (&'static str, &'static str, &'static str);

/// Days, weeks and months begin where the zone says, also where a day has 23 hours.
async fn days(world: &World) -> Result<()> {
    let used = of_period();
    let days = [
        ("2026-03-28", "2026-03-28T00:00:00+01:00", "2026-03-29T00:00:00+01:00"),
        ("2026-03-29", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
        ("2026-03-30", "2026-03-30T00:00:00+02:00", "2026-03-31T00:00:00+02:00"),
        ("2026-04-01", "2026-04-01T00:00:00+02:00", "2026-04-02T00:00:00+02:00"),
    ];
    let windows: [(&str, &[Bounds]); 3] = [
        ("day", &days),
        (
            "week",
            &[
                ("2026-03-28 2026-03-29", "2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
                ("2026-03-30 2026-04-01", "2026-03-30T00:00:00+02:00", "2026-04-06T00:00:00+02:00"),
            ],
        ),
        (
            "month",
            &[
                (
                    "2026-03-28 2026-03-29 2026-03-30",
                    "2026-03-01T00:00:00+01:00",
                    "2026-04-01T00:00:00+02:00",
                ),
                ("2026-04-01", "2026-04-01T00:00:00+02:00", "2026-05-01T00:00:00+02:00"),
            ],
        ),
    ];
    for measure in MEASURES {
        for (window, bounds) in &windows {
            let mut wanted = Vec::new();
            for (dates, start, end) in *bounds {
                let within = used.iter().filter(|line| dates.contains(line.event.berlin_day));
                for mut row in expected(&within.cloned().collect::<Vec<_>>(), measure, &["team"]) {
                    (row["window_start"], row["window_end"]) = (json!(start), json!(end));
                    wanted.push(row);
                }
            }
            let path = format!(
                "/v1/analytics/{measure}?{PERIOD}&group_by=team,{window}&time_zone=Europe/Berlin&limit=3"
            );
            assert_eq!(all(world, &world.key, &path).await?, wanted, "{path}");
        }
    }
    // The hour from 02:00 to 03:00 is not there.
    let path =
        format!("/v1/analytics/usage?{PERIOD}&meter=calls&group_by=hour&time_zone=Europe/Berlin");
    let hours = all(world, &world.key, &path).await?;
    let starts: Vec<_> =
        hours.iter().map(|row| [&row["window_start"], &row["window_end"]]).collect();
    assert_eq!(
        json!(starts[2..4]),
        json!([
            ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"],
            ["2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"]
        ])
    );
    // A day that begins at one.
    let cairo =
        "from=2026-04-23T00:00:00Z&to=2026-04-26T00:00:00Z&group_by=day&time_zone=Africa/Cairo";
    let path = format!("/v1/analytics/usage?{cairo}&meter=calls");
    let rows = all(world, &world.key, &path).await?;
    let bounds: Vec<_> =
        rows.iter().map(|row| [&row["window_start"], &row["window_end"]]).collect();
    assert_eq!(json!(bounds), json!([["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"]]));
    Ok(())
}

async fn filters(world: &World) -> Result<()> {
    let used = of_period();
    let only = |wanted: fn(&Line) -> bool| {
        used.iter().filter(|line| wanted(line)).cloned().collect::<Vec<_>>()
    };
    for (filter, lines) in [
        ("team=red", only(|line| line.event.team == "red")),
        ("meter=pages", only(|line| line.is("meter", "pages"))),
        ("feature=%3D1%2B1", only(|line| line.is("feature", "=1+1"))),
        ("filter[model]=gamma", only(|line| line.is("model", "gamma"))),
        (
            "team=blue&filter[provider]=%40lab&filter[model]=alpha",
            only(|line| line.is("model", "alpha") && line.event.team == "blue"),
        ),
        ("app=tool", Vec::new()),
        ("team=it's%20%5C%20%7Bp0%3AString%7D", Vec::new()),
    ] {
        for measure in MEASURES {
            let path = format!("/v1/analytics/{measure}?{PERIOD}&{filter}&group_by=meter");
            let wanted = expected(&lines, measure, &["meter"]);
            assert_eq!(all(world, &world.key, &path).await?, wanted, "{path}");
        }
    }
    Ok(())
}

/// The same numbers as the views have.
async fn views(world: &World) -> Result<()> {
    const SUMS: &str = "charge, cost, margin, events, unpriced_lines, uncosted_lines";
    let compare = async |columns: &str, view: &str, groups: &str, names: &[&str]| -> Result<()> {
        let sql = format!(
            "SELECT {columns}, currency, cost_currency, {SUMS} FROM {view} WHERE tenant_id = '{TENANT}' ORDER BY ALL"
        );
        let rows = world.context.clickhouse.query_json_rows(&sql, &[]).await?;
        let of_view = rows.iter().map(|row| {
            let own = names.iter().map(|name| row[*name].clone());
            let count = |name: &str| json!(row[name].as_str().unwrap().parse::<i64>().unwrap());
            let amounts = ["currency", "cost_currency", "charge", "cost", "margin"];
            let amounts = amounts.map(|name| row[name].clone());
            let counts = ["events", "unpriced_lines", "uncosted_lines"].map(count);
            own.chain(amounts).chain(counts).collect::<Vec<Value>>()
        });
        let path = format!("/v1/analytics/margin?{ALL}&group_by={groups}");
        let answered = all(world, &world.key, &path).await?;
        let empty = |value: &Value| if value.is_null() { json!("") } else { value.clone() };
        let of_api = answered.iter().map(|row| {
            let own = names.iter().map(|name| match *name {
                "day" => json!(row["window_start"].as_str().unwrap()[..10]),
                name => empty(&row["group"][name]),
            });
            let names = ["currency", "cost_currency"].map(|name| empty(&row[name]));
            let rest = ["charge", "cost", "margin", "lines", "unpriced_lines", "uncosted_lines"];
            own.chain(names).chain(rest.map(|name| row[name].clone())).collect::<Vec<Value>>()
        });
        let (of_view, of_api): (Vec<_>, Vec<_>) = (of_view.collect(), of_api.collect());
        ensure!(of_view.len() > 3, "{view} has {of_view:?}");
        assert_eq!(of_api, of_view, "{view}");
        Ok(())
    };
    compare("team", "margin_by_team", "team", &["team"]).await?;
    compare("provider, model", "margin_by_model", "provider,model", &["provider", "model"]).await?;
    compare("toString(day) AS day", "margin_by_day", "day", &["day"]).await?;

    let sql = format!(
        "SELECT toString(day) AS day, team, meter, unit, toString(sum(v.quantity)) AS quantity FROM usage_by_day AS v
         WHERE tenant_id = '{TENANT}' GROUP BY day, team, meter, unit ORDER BY day, team, meter, unit"
    );
    let of_view = world.context.clickhouse.query_json_rows(&sql, &[]).await?;
    let path = format!("/v1/analytics/usage?{ALL}&group_by=day,team");
    let answered = all(world, &world.key, &path).await?;
    let of_api = answered.iter().map(|row| {
        json!({"day": row["window_start"].as_str().unwrap()[..10], "team": row["group"]["team"],
            "meter": row["meter"], "unit": row["unit"], "quantity": row["quantity"]})
    });
    assert_eq!(of_api.collect::<Vec<_>>(), of_view);
    Ok(())
}

async fn overview(world: &World) -> Result<()> {
    let answer = world.get(&format!("/v1/analytics/overview?{PERIOD}")).await?.expect(200)?;
    assert_eq!(answer["previous_from"], "2026-02-25T00:00:00.000000Z");
    // All but what is not metered, what was taken back, the one before and the one after.
    let events = i64::try_from(EVENTS.len())? - 4;
    assert_eq!(
        answer["events"],
        json!({"current": events, "previous": 1, "change_percent": "800"})
    );
    assert_eq!(
        answer["active_teams"],
        json!({"current": 2, "previous": 1, "change_percent": "100"})
    );
    assert_eq!(
        answer["unpriced_lines"],
        json!({"current": 2, "previous": 0, "change_percent": null})
    );
    assert_eq!(
        answer["uncosted_lines"],
        json!({"current": 1, "previous": 0, "change_percent": null})
    );

    let used = of_period();
    let before =
        lines().into_iter().filter(|line| line.event.time < "2026-03-15").collect::<Vec<_>>();
    let (now, then) = (expected(&used, "revenue", &[]), expected(&before, "revenue", &[]));
    let dollars = |rows: &[Value]| {
        rows.iter().find(|row| row["currency"] == "USD").unwrap()["revenue"].clone()
    };
    let raw =
        |value: &Value| domain::money::Amount::parse_exact(value.as_str().unwrap()).unwrap().raw();
    let (current, previous) = (dollars(&now), dollars(&then));
    assert_eq!(previous, "8");
    let change = percent(raw(&current) - raw(&previous), raw(&previous));
    // 9 of 2.5 and 3 of 0.4.
    assert_eq!(
        answer["revenue"],
        json!([{"currency": "EUR", "current": "23.7", "previous": null, "change_percent": null},
            {"currency": "USD", "current": current, "previous": previous, "change_percent": change}])
    );
    let pairs: Vec<_> = answer["margin"]
        .as_array()
        .context("margins")?
        .iter()
        .map(|row| {
            [&row["currency"], &row["cost_currency"], &row["margin"], &row["previous_margin"]]
        })
        .collect();
    let wanted: Vec<_> = expected(&used, "margin", &[])
        .into_iter()
        .map(|row| {
            let before = if row["margin"].is_null() { Value::Null } else { json!("5.2") };
            [row["currency"].clone(), row["cost_currency"].clone(), row["margin"].clone(), before]
        })
        .collect();
    assert_eq!(json!(pairs), json!(wanted));

    let teams = expected(&used, "revenue", &["team"]);
    let mut teams: Vec<&Value> = teams.iter().filter(|row| !row["currency"].is_null()).collect();
    teams.sort_by_key(|row| (row["currency"].to_string(), -raw(&row["revenue"])));
    let teams = teams.into_iter().map(|row| json!({"team": row["group"]["team"], "currency": row["currency"], "revenue": row["revenue"]}));
    assert_eq!(answer["top_teams_by_revenue"], teams.collect::<Value>());
    assert_eq!(
        answer["top_models_by_cost"],
        json!([{"provider": "@lab", "model": "beta", "currency": "USD", "cost": "13.3"},
            {"provider": "@lab", "model": "gamma", "currency": "USD", "cost": "1.1"},
            {"provider": "@lab", "model": "alpha", "currency": "USD", "cost": text(1010 * 1_000_000_000)}])
    );
    // Of one model, of which there are two events; each has a line of its own meter besides.
    let one = format!("/v1/analytics/overview?{PERIOD}&filter[model]=gamma&team=red");
    let one = world.get(&one).await?.expect(200)?;
    assert_eq!((&one["events"]["current"], &one["revenue"]), (&json!(1), &json!([])));
    let none = world.get(&format!("/v1/analytics/overview?{BEFORE}")).await?.expect(200)?;
    assert_eq!(none["events"], json!({"current": 1, "previous": 0, "change_percent": null}));
    Ok(())
}

async fn unpriced(world: &World) -> Result<()> {
    let path = format!("/v1/analytics/unpriced?{PERIOD}");
    let wanted = [
        json!({"event_type": "other.thing", "meter": null, "unit": null, "provider": null, "model": null,
            "first_seen": "2026-03-30T11:00:00.000000Z", "last_seen": "2026-03-30T11:00:00.000000Z",
            "events": 1, "unpriced_events": 0, "uncosted_events": 0, "quantity": null}),
        json!({"event_type": "llm.call", "meter": "tokens", "unit": "token", "provider": "@lab", "model": "gamma",
            "first_seen": "2026-03-29T01:00:00.000000Z", "last_seen": "2026-03-29T22:30:00.000000Z",
            "events": 2, "unpriced_events": 2, "uncosted_events": 0, "quantity": "11"}),
        json!({"event_type": "llm.call", "meter": "tokens", "unit": "token", "provider": "@lab", "model": "delta",
            "first_seen": "2026-03-29T21:30:00.000000Z", "last_seen": "2026-03-29T21:30:00.000000Z",
            "events": 1, "unpriced_events": 0, "uncosted_events": 1, "quantity": "4"}),
    ];
    assert_eq!(all(world, &world.key, &path).await?, wanted);
    assert_eq!(all(world, &world.key, &format!("{path}&limit=1")).await?, wanted);
    let red = all(world, &world.key, &format!("{path}&team=red&meter=tokens")).await?;
    assert_eq!((red.len(), &red[0]["quantity"]), (1, &json!("6")));
    Ok(())
}

/// Who may see what.
async fn callers(world: &World) -> Result<()> {
    let usage = add_key(&world.admin, TENANT, "usage", &["usage:read"]).await?;
    let balances = add_key(&world.admin, TENANT, "balances", &["balances:read"]).await?;
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    let secret =
        world.post("/v1/apps/tool/secrets", json!({"scopes": ["*"]})).await?.expect(201)?;
    let claims = json!({"app": "tool", "scopes": ["*"], "iat": now_s(), "exp": now_s() + 290, "team": "red"});
    let secret = secret["secret"].as_str().context("a secret")?;
    let token = sign(
        &json!({"alg": "HS256", "typ": "JWT"}).to_string(),
        &claims.to_string(),
        secret.as_bytes(),
    );
    let ask = async |key: &str, path: &str, more: &str| {
        let path = format!("/v1/{path}?{PERIOD}{more}");
        world.send(Method::GET, &path, key, &[], None).await
    };
    for path in [
        "analytics/usage",
        "analytics/unpriced",
        "exports/events.csv",
        "exports/events.parquet",
        "analytics/revenue",
        "analytics/cost",
        "analytics/margin",
        "analytics/overview",
        "exports/usage_lines.csv",
        "exports/usage_lines.parquet",
    ] {
        let money =
            !["usage", "unpriced", "events"].iter().any(|free| path.contains(&format!("/{free}")))
                || path.contains("usage_lines");
        let answer = ask(&usage, path, "").await?;
        if money {
            answer.refused(403, "scope_missing")?;
        } else {
            assert_eq!(answer.status.as_u16(), 200, "{path}");
        }
        ask(&balances, path, "").await?.refused(403, "scope_missing")?;
        ask(&token, path, "&team=blue").await?.refused(403, "team_not_yours")?;
        // A team's token sees what a key sees that asks for the team.
        let (own, asked) =
            (ask(&token, path, "").await?, ask(&world.key, path, "&team=red").await?);
        assert!(own.status.is_success() && own.text == asked.text, "{path}: {}", own.text);
        assert!(!own.text.contains("blue"), "{path}: {}", own.text);
        // Another tenant has none of it.
        let other = ask(&world.other_key, path, "").await?;
        let names = ["red", "blue", "@lab", "other.thing"];
        assert!(other.status.is_success(), "{path}: {}", other.text);
        assert!(!names.iter().any(|name| other.text.contains(name)), "{path}: {}", other.text);
    }
    Ok(())
}

async fn refusals(world: &World) -> Result<()> {
    for (path, status, code) in [
        ("analytics/usage", 400, "period_missing"),
        ("analytics/overview?from=2026-01-01T00:00:00Z", 400, "period_missing"),
        ("exports/events.csv?to=2026-01-01T00:00:00Z", 400, "period_missing"),
        (
            "analytics/cost?from=2026-01-02T00:00:00Z&to=2026-01-02T01:00:00%2B01:00",
            400,
            "period_empty",
        ),
        (
            "analytics/unpriced?from=2026-01-01T00:00:00Z&to=2027-02-05T00:00:01Z",
            400,
            "period_too_long",
        ),
        ("analytics/margin?from=x&to=2027-02-05T00:00:01Z", 400, "time_invalid"),
        ("exports/usage_lines.xlsx", 404, "export_unknown"),
        ("exports/invoices.csv", 404, "export_unknown"),
    ] {
        let refused = world.get(&format!("/v1/{path}")).await?.refused(status, code)?;
        ensure!(refused["action"].as_str().is_some_and(|action| !action.is_empty()), "{refused}");
    }
    for (path, more, code) in [
        ("analytics/revenue", "group_by=region", "group_unknown"),
        ("analytics/revenue", "group_by=day,week", "group_unknown"),
        ("analytics/usage", "group_by=day&time_zone=Mars/Base", "time_zone_unknown"),
        ("analytics/usage", "limit=1001", "limit_invalid"),
        ("analytics/usage", "cursor=00", "cursor_invalid"),
        ("analytics/usage", "cursor=5b22222c2278225d", "cursor_invalid"),
        ("analytics/unpriced", "cursor=5b2278225d", "cursor_invalid"),
        ("analytics/overview", "group_by=team", "query_invalid"),
        ("exports/events.csv", "meter=tokens", "query_invalid"),
    ] {
        world.get(&format!("/v1/{path}?{PERIOD}&{more}")).await?.refused(400, code)?;
    }
    // A cursor of a question with other groups.
    let page = world
        .get(&format!("/v1/analytics/usage?{PERIOD}&group_by=team&limit=1"))
        .await?
        .expect(200)?;
    let cursor = page["next_cursor"].as_str().context("a second page")?;
    let other = format!("/v1/analytics/usage?{PERIOD}&cursor={cursor}");
    world.get(&other).await?.refused(400, "cursor_invalid")?;
    Ok(())
}
