//! What somebody tries who means harm: to find secrets where none belong, to write into logs and
//! stores what they are not meant to hold, and to learn by the clock what exists.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use axum::http::Method;
use serde_json::{Value, json};
use tests::{
    broker::Broker,
    canaries::{Canaries, log_line},
    forged,
    process::{Http, Process},
    signed::{now_s, sign},
    system::System,
    wait::eventually,
};

use crate::world::World;

#[path = "abuse/fields.rs"]
mod fields;
#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

/// As long as a command may take that waits for servers which are not there.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);

/// A text that is nowhere else.
fn unique(name: &str) -> String {
    format!("canary-{name}-{}", uuid::Uuid::now_v7().simple())
}

/// Sixty-four hexadecimal digits that are nowhere else.
fn hexadecimal() -> String {
    format!("{0}{0}", uuid::Uuid::now_v7().simple())
}

/// Uses a system rightly and wrongly, and keeps what it answers.
async fn use_it(system: &System, canaries: &mut Canaries) -> Result<()> {
    let api = system.api()?;
    api.send("POST", "/v1/apps", &json!({"app": "tool"})).await?;
    let made = api.send("POST", "/v1/api-keys", &json!({"scopes": ["events:write"]})).await?;
    let key = made["key"].as_str().context("a key")?.to_owned();
    canaries.key("a key of the api", &key)?;
    let secret = api.send("POST", "/v1/apps/tool/secrets", &json!({"scopes": ["*"]})).await?;
    let secret = secret["secret"].as_str().context("a secret")?.to_owned();
    canaries.plant("an app's secret", &secret)?;
    let claims = |app: &str| {
        json!({"app": app, "scopes": ["*"], "iat": now_s(), "exp": now_s() + 200}).to_string()
    };
    let token = sign(r#"{"alg":"HS256"}"#, &claims("tool"), secret.as_bytes());
    let wrong = sign(r#"{"alg":"HS256"}"#, &claims("nobody"), secret.as_bytes());
    for (name, token) in [("a token", &token), ("a wrong token", &wrong)] {
        canaries.plant(name, token.rsplit('.').next().unwrap_or_default())?;
    }
    let event = json!({"id": "1", "type": "llm.tokens.v1", "subject": "team-1",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 10, "outputTokens": 5}});
    let ingest = system.ingest()?;
    let mistyped = format!("{}x{}", &key[..40], &key[41..]);
    let credentials = [key.as_str(), &token, &wrong, &mistyped, "", api.key()];
    for credential in credentials {
        for base in [&api.base, &ingest.base] {
            let http = Http::new(base, credential)?;
            for (method, path, body) in [
                ("POST", "/v1/events", event.to_string()),
                ("POST", "/v1/events", "{".to_owned()),
                ("POST", "/api/v1/events", "[]".to_owned()),
                ("GET", "/v1/teams", String::new()),
                ("GET", "/v1/api-keys", String::new()),
                ("GET", "/v1/apps/tool/secrets", String::new()),
                ("GET", "/v1/audit", String::new()),
                ("PUT", "/v1/limits", json!({"events_per_second": -1}).to_string()),
                ("GET", "/v1/teams?cursor=zz", String::new()),
                ("POST", "/v1/teams", json!({"team": 5}).to_string()),
            ] {
                let (status, answer) = http.exchange(method, path, body.into_bytes()).await?;
                canaries.hear(&format!("{method} {path}"), format!("{status} {answer}"));
            }
        }
    }
    system.settled(None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_told_by_weir_on_one_machine() -> Result<()> {
    let settings = [
        ("WEIR_MASTER_KEY", hexadecimal()),
        ("WEIR_CLICKHOUSE__PASSWORD", unique("clickhouse")),
        ("WEIR_TELEMETRY__FILTER", "debug,sqlx=info".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut system = System::embedded_with(&settings, &[], &[]).await?;
    let mut canaries = Canaries::of(&system)?;
    ensure!(canaries.count() >= 4, "{canaries:?}");
    use_it(&system, &mut canaries).await?;
    system.kill("up")?;
    system.start("up").await?;
    canaries.check(&system).await?;
    let (code, _) = system.take("up")?.terminate().await?;
    ensure!(code == Some(0), "exit code {code:?}");
    canaries.look(&system.folder())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_told_by_the_processes_on_kafka() -> Result<()> {
    let broker = Broker::start()?;
    let password = unique("kafka");
    // A cluster that lets everybody in does not look at it.
    let properties = format!(r#"{{"sasl.username" = "weir", "sasl.password" = "{password}"}}"#);
    let settings = [
        ("WEIR_MASTER_KEY", hexadecimal()),
        ("WEIR_LEDGER_WRITER__AUDIT_KEY", hexadecimal()),
        ("WEIR_CLICKHOUSE__PASSWORD", unique("clickhouse")),
        ("WEIR_LOG__KAFKA__PROPERTIES", properties),
        ("WEIR_TELEMETRY__FILTER", "debug,sqlx=info".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut system = System::kafka_with(&broker, 2, &settings).await?;
    let mut canaries = Canaries::of(&system)?;
    canaries.plant("Kafka's password", &password)?;
    use_it(&system, &mut canaries).await?;
    for role in ["rater", "api"] {
        system.kill(role)?;
        system.start(role).await?;
    }
    misconfigured(&system, &mut canaries).await?;
    canaries.check(&system).await
}

/// Starts commands with settings that are wrong and hold secrets: what they say names the setting.
async fn misconfigured(system: &System, canaries: &mut Canaries) -> Result<()> {
    let folder = system.folder();
    let secret = unique("wrong");
    canaries.plant("a secret in a wrong setting", &secret)?;
    let cases = [
        ("DATABASE_URL", format!("postgres://weir:{secret}@127.0.0.1:9/weir")),
        ("DATABASE_URL", format!("postgres://weir:{secret}@127.0.0.1:port/weir")),
        ("DATABASE_URL", format!("postgres:/weir:{secret}@127.0.0.1")),
        ("DATABASE_URL", format!("postgres://weir:{secret}@127.0.0.1:9/weir?sslmode=sometimes")),
        ("CLICKHOUSE_URL", format!("http://weir:{secret}@127.0.0.1:9")),
        ("CLICKHOUSE_URL", format!("http://weir:{secret}@127.0.0.1:port")),
        ("CLICKHOUSE_URL", format!("ftp//weir:{secret}@127.0.0.1")),
        ("WEIR_MASTER_KEY", secret.clone()),
        ("WEIR_LEDGER_WRITER__AUDIT_KEY", secret.clone()),
        ("WEIR_LOG__KAFKA__PROPERTIES", format!(r#"{{"sasl.pasword" = "{secret}"}}"#)),
        ("WEIR_LOG__KAFKA__PROPERTIES", format!(r#"{{"sasl.password" = "{secret}""#)),
        ("WEIR_LOG__KAFKA__PROPERTIES", secret.clone()),
        ("WEIR_POSTGRES__URL", format!("[{secret}]")),
        ("WEIR_POSTGRES__PASSWORT", secret.clone()),
    ];
    for (number, (name, value)) in cases.iter().enumerate() {
        let mut settings = system.settings().to_vec();
        settings.push(("WEIR_HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
        settings.push(((*name).to_owned(), value.clone()));
        let doctor = format!("wrong-doctor-{number}");
        Process::start(&doctor, &folder, &["doctor"], &settings)?.ended(COMMAND_TIME_MAX).await?;
        // One that would only wait for its server is ended.
        let mut role =
            Process::start(&format!("wrong-api-{number}"), &folder, &["api"], &settings)?;
        eventually(&format!("{name}: it says something"), async || {
            let said = format!("{}{}", role.output(), role.log_tail());
            Ok(!said.trim().is_empty())
        })
        .await?;
        let began = Instant::now();
        while role.is_running()? && began.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Texts that are something else to whoever takes them for more than text.
const NASTY: [&str; 9] = [
    "'; DROP TABLE teams; --",
    "\" OR \"\"=\"",
    "nul \u{0} here",
    "line\r\n{\"level\":\"ERROR\",\"target\":\"forged\",\"message\":\"forged\"}\r\n",
    "\u{1b}[2J\u{1b}[31mred\u{9b}31m",
    "\u{202e}gpj.exe\u{2066}",
    "{} {0} {:?} %s %n ${jndi:ldap://127.0.0.1/a} {{7*7}}",
    "\u{7f}\u{85}\u{2028}\u{feff}",
    "\\u0000 \\\" \\' `id` $(id) <script>alert(1)</script>",
];

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |escaped, byte| format!("{escaped}%{byte:02X}"))
}

/// Requests with a text in every place that takes text; each with its method, path and body.
fn requests(text: &str, number: usize) -> Vec<(&'static str, String, Value)> {
    let event = |place: &str| {
        let mut event = json!({"id": format!("nasty-{number}-{place}"), "type": "llm.tokens.v1", "source": "abuse", "subject": "team-1",
            "user": "ada", "feature": "f", "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": 1, "outputTokens": 1}});
        if place == "data" {
            event["data"]["model"] = json!(text);
            event["data"][text] = json!(text);
            event["data"]["inputTokens"] = json!(text);
        } else if !place.is_empty() {
            event[place] = json!(text);
        }
        event
    };
    let places = [
        "id",
        "type",
        "source",
        "subject",
        "user",
        "feature",
        "time",
        "holdid",
        "specversion",
        "data",
    ];
    let mut all: Vec<_> =
        places.iter().map(|place| ("POST", "/v1/events".to_owned(), event(place))).collect();
    let lago = json!({"event": {"transaction_id": text, "external_subscription_id": text, "code": text,
        "timestamp": text, "properties": {text: text}}});
    all.push(("POST", "/api/v1/events".into(), lago));
    let rates = json!([{"meter": text, "dimensions": {text: text}, "price": text}]);
    for (path, body) in [
        ("/v1/teams", json!({"team": text, "name": text})),
        ("/v1/teams", json!({"team": format!("nasty-{number}"), "name": text})),
        ("/v1/teams/team-1/aliases", json!({"alias": text})),
        ("/v1/apps", json!({"app": text, "name": text})),
        ("/v1/api-keys", json!({"name": text, "scopes": ["teams:read"]})),
        ("/v1/api-keys", json!({"name": "n", "scopes": [text], "app": text, "expires_at": text})),
        (
            "/v1/meters",
            json!({"key": text, "event_types": [text], "aggregation": "sum", "value": text, "unit": text}),
        ),
        ("/v1/rate-cards", json!({"key": text, "currency": text, "rates": rates})),
        ("/v1/cost-cards/c/versions", json!({"effective_from": text, "rates": rates})),
        (
            "/v1/providers/pricing/imports",
            json!({"list": {"source": text, "date": text, "currency": text, "per": 1,
            "models": [{"provider": text, "model": text, "prices": {text: text}}]}}),
        ),
        (
            "/v1/rejected-events/reinject",
            json!({"team": text, "app": text, "reason": text, "dry_run": true}),
        ),
    ] {
        all.push(("POST", path.into(), body));
    }
    all.push(("PUT", "/v1/limits".into(), json!({"credential": text, "events_per_second": 1})));
    let escaped = percent(text);
    for path in [
        "/v1/teams/TEXT",
        "/v1/teams/TEXT/balance",
        "/v1/users/TEXT/timeline",
        "/v1/meters/TEXT",
        "/v1/rate-cards/TEXT",
        "/v1/events/TEXT",
        "/v1/explain/TEXT",
        "/v1/journals/TEXT",
        "/v1/apps/TEXT/secrets",
        "/v1/rejected-events/TEXT",
        "/TEXT",
        "/v1/events?team=TEXT&user=TEXT&id=TEXT",
        "/v1/usage?meter=TEXT&group_by=TEXT&time_zone=TEXT",
        "/v1/usage-report?filter[TEXT]=TEXT",
        "/v1/rating/resolve?meter=calls&team=TEXT&filter[TEXT]=TEXT",
        "/v1/analytics/margin?from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z&team=TEXT&app=TEXT&filter[model]=TEXT",
        "/v1/analytics/usage?from=TEXT&group_by=TEXT&time_zone=TEXT",
        "/v1/exports/usage_lines.csv?from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z&team=TEXT",
        "/v1/exports/TEXT",
        "/v1/audit?actor=TEXT&action=TEXT&from=TEXT",
        "/v1/providers/pricing?provider=TEXT&model=TEXT",
        "/v1/teams?cursor=TEXT&limit=TEXT",
        "/v1/teams?TEXT=TEXT",
    ] {
        all.push(("GET", path.replace("TEXT", &escaped), Value::Null));
    }
    all
}

/// What is stored reads back as it was sent, and nothing else is stored.
async fn check_stored(api: &Http) -> Result<usize> {
    let mut kept = 0;
    for (number, text) in NASTY.iter().enumerate() {
        let (status, team) =
            api.exchange("GET", &format!("/v1/teams/nasty-{number}"), Vec::new()).await?;
        if status == 200 {
            ensure!(team["name"] == *text, "{text:?} has become {team}");
            kept += 1;
        }
        // A text that may be a team's key is one.
        let (status, team) =
            api.exchange("GET", &format!("/v1/teams/{}", percent(text)), Vec::new()).await?;
        ensure!(status < 500, "{text:?}: {status} {team}");
        ensure!(status != 200 || team["team"] == *text, "{text:?} has become {team}");
        kept += usize::from(status == 200);
        // Those of an event that was accepted with it.
        for (place, field) in [
            ("type", "type"),
            ("source", "source"),
            ("user", "user"),
            ("feature", "feature"),
            ("subject", "team"),
        ] {
            let page = api.get(&format!("/v1/events?id=nasty-{number}-{place}")).await?;
            for event in page["items"].as_array().context("items")? {
                ensure!(event[field] == *text, "{text:?} as {place} has become {event}");
                kept += 1;
            }
        }
    }
    Ok(kept)
}

/// Every line of a log is one object, and none was made by a client.
fn check_log(log: &Path) -> Result<usize> {
    let text = fs::read(log)?;
    let mut lines = 0;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let object = log_line(line)?;
        ensure!(object["target"] != "forged", "a client has written {object}");
        lines += 1;
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_stored_and_logged_as_texts() -> Result<()> {
    let settings = [("WEIR_TELEMETRY__FILTER", "debug,sqlx=debug")];
    let system = System::embedded_with(&settings, &[], &[]).await?;
    let api = system.api()?;
    api.send("POST", "/v1/teams", &json!({"team": "team-1"})).await?;
    let mut asked = 0;
    for (number, text) in NASTY.iter().enumerate() {
        for (method, path, body) in requests(text, number) {
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            let (status, answer) = api.exchange(method, &path, body).await?;
            ensure!(status < 500, "{method} {path}: {status} {answer}");
            asked += 1;
        }
        asked += raw_headers(&api.base, text)?;
    }
    // An event of the team that is rated, and one that is rejected.
    let event = |id: &str, tokens: Value| {
        json!({"id": id, "type": "llm.tokens.v1", "source": "plain", "subject": "team-1",
        "data": {"provider": "openai", "model": "gpt-4-turbo", "inputTokens": tokens, "outputTokens": 1}})
    };
    api.send("POST", "/v1/events", &json!([event("1", json!(1)), event("2", json!("x"))])).await?;
    system.settled(None).await?;
    let kept = check_stored(&api).await?;
    asked += every_field(&api).await?;
    system.settled(None).await?;
    let lines = check_log(&system.folder().join("up.log"))?;
    println!("{asked} requests, {kept} texts kept, {lines} log lines");
    ensure!(kept >= 2 * NASTY.len(), "only {kept} texts were kept");
    ensure!(lines > 50, "only {lines} log lines");
    // And a line that a client made would be found.
    let forged = NASTY[3].lines().nth(1).context("a line")?;
    ensure!(log_line(forged.as_bytes())?["target"] == "forged");
    ensure!(log_line(b"not { JSON").is_err() && log_line(b"{\"level\":\"\x1b\"}").is_err());
    Ok(())
}

/// Sends each text in each field of each operation; answers how many requests.
async fn every_field(api: &Http) -> Result<usize> {
    let document = api.get("/openapi.json").await?;
    let fields = fields::of(&document)?;
    let of_bodies = fields.iter().filter(|field| field.is_of_body()).count();
    ensure!(of_bodies > 100 && fields.len() > of_bodies + 100, "{of_bodies} of {}", fields.len());
    println!("{} fields, {of_bodies} of bodies", fields.len());
    let mut taken = 0;
    let existing = fields::existing(api).await?;
    for (field, text) in fields.iter().flat_map(|field| NASTY.map(|text| (field, text))) {
        let (method, path, body) = field.request(text, &existing)?;
        let (status, answer) = api.exchange(method, &path, body).await?;
        ensure!(status < 500, "{method} {path}: {status} {answer}");
        taken += usize::from(status < 300);
    }
    ensure!(taken > 100, "only {taken} were taken");
    Ok(fields.len() * NASTY.len())
}

/// Sends a text in headers as it is, but for what ends a header; answers how many requests.
fn raw_headers(base: &str, text: &str) -> Result<usize> {
    use std::io::{Read as _, Write as _};
    let address = base.trim_start_matches("http://");
    let value: Vec<u8> = text.bytes().filter(|byte| !b"\r\n".contains(byte)).collect();
    let names = [
        "User-Agent",
        "X-Request-Id",
        "Idempotency-Key",
        "Authorization",
        "ce-id",
        "Origin",
        "Content-Type",
    ];
    for name in names {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        let mut request =
            format!("POST /v1/events HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{name}: ")
                .into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\nContent-Length: 2\r\n\r\n[]");
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        // A header that cannot be one may end the connection.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        ensure!(!answer.starts_with("HTTP/1.1 5"), "{name}: {answer}");
    }
    Ok(names.len())
}

/// Pairs of requests of each comparison.
const PAIRS: usize = 2_500;
/// Of those that wait for ingest's next look at the database: both, or the times are far apart.
const PAIRS_THAT_WAIT: usize = 100;

/// A request, and the name in its path that it asks for.
struct Asked<'a> {
    method: Method,
    path: String,
    name: &'a str,
    key: &'a str,
    body: Option<Value>,
}

impl<'a> Asked<'a> {
    /// A GET of what has this name.
    fn get(list: &str, name: &'a str, key: &'a str) -> Asked<'a> {
        Asked { method: Method::GET, path: format!("{list}/{name}"), name, key, body: None }
    }

    /// An event of the app with this name.
    fn event(name: &'a str, key: &'a str) -> Asked<'a> {
        let path = format!("/v1/apps/{name}/events");
        let event = json!({"id": "1", "type": "any", "subject": "team-1", "data": {}});
        Asked { method: Method::POST, path, name, key, body: Some(event) }
    }
}

/// Median times of two requests, for what exists and for what does not, each asked in turn.
async fn medians(
    world: &World,
    pairs: usize,
    asked: [Asked<'_>; 2],
) -> Result<(Duration, Duration)> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut said = BTreeSet::new();
    for pair in 0..pairs {
        // Neither is always the one that finds things warm.
        for exists in [pair % 2 == 0, pair % 2 != 0] {
            let Asked { method, path, name, key, body } = &asked[usize::from(!exists)];
            let began = Instant::now();
            let answer = world.send(method.clone(), path, key, &[], body.clone()).await?;
            let took = began.elapsed();
            ensure!([401, 403, 404].contains(&answer.status.as_u16()), "{path}: {}", answer.text);
            // Who asks knows the name.
            let mut problem = answer.body.clone();
            problem["request_id"].take();
            said.insert((answer.status, problem.to_string().replace(name, "")));
            if exists { first.push(took) } else { second.push(took) }
        }
    }
    ensure!(said.len() == 1, "the answers tell what exists: {said:?}");
    first.sort_unstable();
    second.sort_unstable();
    Ok((first[pairs / 2], second[pairs / 2]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_does_not_tell_what_exists() -> Result<()> {
    let world = World::all().await?;
    world.put("/v1/catalog", world::catalog()).await?.expect(200)?;
    world.post("/v1/teams", json!({"team": "acme-one"})).await?.expect(201)?;
    world.post("/v1/apps", json!({"app": "tool"})).await?.expect(201)?;
    // Ingest knows the app once it has taken an event for it.
    let event = json!({"id": "1", "type": "any", "subject": "team-1", "data": {}});
    let path = "/v1/apps/tool/events";
    eventually("ingest knows the app", async || {
        Ok(world.post(path, event.clone()).await?.status.is_success())
    })
    .await?;
    let (key, other) = (world.key.clone(), world.other_key.as_str());
    let nobodys = runtime::keys::generate()?;
    // A key with the id of one that exists, and another's secret.
    let guessed = forged::key(&key, &"a".repeat(32))?;
    let (nobodys, guessed) = (nobodys.text.as_str(), guessed.as_str());
    let comparisons = [
        (
            "teams of another tenant",
            PAIRS,
            ["acme-one", "nobody-1"].map(|name| Asked::get("/v1/teams", name, other)),
        ),
        (
            "meters of another tenant",
            PAIRS,
            ["tokens", "nobody"].map(|name| Asked::get("/v1/meters", name, other)),
        ),
        (
            "apps of another tenant, at ingest",
            PAIRS,
            ["tool", "none"].map(|name| Asked::event(name, other)),
        ),
        (
            "ids of keys",
            PAIRS,
            [guessed, nobodys].map(|key| Asked::get("/v1/teams", "acme-one", key)),
        ),
        (
            "ids of keys, at ingest",
            PAIRS_THAT_WAIT,
            [guessed, nobodys].map(|key| Asked::event("tool", key)),
        ),
    ];
    for (what, pairs, asked) in comparisons {
        let (exists, missing) = medians(&world, pairs, asked).await?;
        let (low, high) = (exists.min(missing), exists.max(missing));
        println!("{what}: {exists:?} where it exists, {missing:?} where not, {pairs} pairs");
        // What is below the noise of a network says nothing either.
        let alike =
            high - low < Duration::from_micros(50) || high.as_secs_f64() < low.as_secs_f64() * 1.25;
        ensure!(alike, "{what}: {exists:?} where it exists, {missing:?} where not");
    }
    world.stop().await
}
