//! Stored value over HTTP: bought, given, held, captured, consumed and freed, on a running Weir; and
//! what many clients come to who want the last of it at once.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
#[path = "wallets_api/story.rs"]
mod story;

use tests::{
    process::Http,
    system::{System, amount},
    wait::eventually,
};

/// Clients that want the same at once.
const CLIENTS: usize = 64;

/// A client that sends what it is told, keys too.
struct Client {
    http: Http,
    raw: reqwest::Client,
}

/// What was answered: the status, whether it was said to be a repeat, and the body.
struct Answer {
    status: u16,
    repeated: bool,
    body: Value,
}

impl Answer {
    /// The body, if the status is this one.
    fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{}: {}", self.status, self.body);
        Ok(self.body)
    }

    /// The problem, if it is of this status and code.
    fn refused(self, status: u16, code: &str) -> Result<Value> {
        let found = (self.status, self.body["code"].as_str());
        ensure!(found == (status, Some(code)), "{found:?}: {}", self.body);
        Ok(self.body)
    }
}

impl Client {
    fn of(system: &System) -> Result<Client> {
        let http = system.api()?;
        let raw = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build()?;
        Ok(Client { http, raw })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Answer> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let request = self.raw.request(method, format!("{}{path}", self.http.base)).json(body);
        let request = key.into_iter().fold(request, |one, key| one.header("Idempotency-Key", key));
        let response = request.bearer_auth(self.http.key()).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let repeated = headers.contains_key("idempotency-repeated");
        let text = response.bytes().await?;
        Ok(Answer { status, repeated, body: serde_json::from_slice(&text).unwrap_or_default() })
    }

    async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.send("POST", path, None, &body).await
    }

    async fn get(&self, path: &str) -> Result<Value> {
        self.http.get(path).await
    }

    /// Buys credits for a team and answers the id of its wallet.
    async fn wallet(&self, team: &str, amount: &str) -> Result<String> {
        let body = json!({"customer_id": team, "amount": amount, "currency": "USD"});
        let bought = self.post("/v1/credits/purchase", body).await?.expect(201)?;
        text(&bought["wallet"])
    }

    /// Asserts members of a wallet.
    async fn has(&self, wallet: &str, wanted: &Value) -> Result<()> {
        let found = self.get(&format!("/v1/wallets/{wallet}")).await?;
        for (name, value) in wanted.as_object().context("members")? {
            ensure!(found[name] == *value, "{name}: {found} instead of {wanted}");
        }
        Ok(())
    }

    async fn until(&self, path: &str, name: &str, value: &str) -> Result<Value> {
        let mut found = Value::Null;
        eventually(&format!("{path} has {name} {value}"), async || {
            found = self.get(path).await?;
            Ok(found[name] == value)
        })
        .await?;
        Ok(found)
    }
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("no text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_value_is_bought_given_held_captured_and_spent() -> Result<()> {
    let system = System::embedded().await?;
    let client = Client::of(&system)?;
    credits(&client).await?;
    wallets_and_grants(&client).await?;
    holds(&client).await?;
    captures(&client).await?;
    the_last_credit(&client).await?;
    twins(&client).await?;
    usage(&system, &client).await?;
    Ok(())
}

/// What OM0's clients ask for.
async fn credits(client: &Client) -> Result<()> {
    let body = |more: Value| {
        let mut body = json!({"customer_id": "om0", "amount": "10"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (purchase, consume) = ("/v1/credits/purchase", "/v1/credits/consume");
    client.post(purchase, body(json!({}))).await?.refused(422, "currency_needed")?;
    client.post(consume, body(json!({}))).await?.refused(404, "team_unknown")?;
    let made = body(json!({"currency": "USD", "reference": "order-1", "description": "ten"}));
    let first = client.send("POST", purchase, Some("a"), &made).await?.expect(201)?;
    assert_eq!(first["balance"], "10", "{first}");
    let again = client.send("POST", purchase, Some("a"), &made).await?;
    assert!(again.repeated);
    assert_eq!(again.expect(201)?, first);
    client.post(purchase, made).await?.refused(409, "grant_exists")?;
    // The one wallet that there is; and where the seller is named, its user.
    let seller = json!({"customer_id": "default", "user_id": "om0", "amount": "2.5"});
    let second = client.post(purchase, seller).await?.expect(201)?;
    assert_eq!((&second["wallet"], &second["balance"]), (&first["wallet"], &json!("12.5")));
    let missing = json!({"customer_id": "default", "amount": "1"});
    client.post(consume, missing).await?.refused(422, "user_id_missing")?;

    let spent = client.post(consume, body(json!({"amount": "4", "reference": "r"}))).await?;
    let spent = spent.expect(200)?;
    assert_eq!((&spent["amount"], &spent["balance"]), (&json!("4"), &json!("8.5")));
    client.get(&format!("/v1/journals/{}", text(&spent["journal"])?)).await?;
    let twice = body(json!({"amount": "4", "reference": "r"}));
    client.post(consume, twice).await?.refused(409, "consumption_exists")?;
    let much = client.post(consume, body(json!({"amount": "8.500000000001"}))).await?;
    let much = much.refused(402, "insufficient_funds")?;
    assert_eq!((&much["available"], &much["actions"]), (&json!("8.5"), &json!(["top_up"])));

    client.post(purchase, body(json!({"currency": "EUR"}))).await?.expect(201)?;
    client.post(consume, body(json!({}))).await?.refused(422, "currency_needed")?;
    let credits = client.get("/v1/customers/om0/credits").await?;
    let of_seller = client.get("/v1/customers/default/credits?user_id=om0").await?;
    assert_eq!(credits["wallets"], of_seller["wallets"]);
    let balances: Vec<&Value> = credits["wallets"]
        .as_array()
        .context("wallets")?
        .iter()
        .map(|one| &one["balance"])
        .collect();
    assert_eq!(balances, ["10", "8.5"], "{credits}");
    for amount in ["0", "-1", "1e20", "0.0000000000001", "many", ""] {
        let problem = client.post(purchase, body(json!({"amount": amount}))).await?;
        assert_eq!(problem.refused(422, "amount_invalid")?["field"], "amount");
    }
    Ok(())
}

async fn wallets_and_grants(client: &Client) -> Result<()> {
    client
        .post("/v1/teams/nobody/wallets", json!({"currency": "USD"}))
        .await?
        .refused(404, "team_unknown")?;
    client.post("/v1/teams", json!({"team": "given"})).await?.expect(201)?;
    let path = "/v1/teams/given/wallets";
    client.post(path, json!({"currency": "points"})).await?.refused(422, "currency_unknown")?;
    let wallet =
        client.post(path, json!({"currency": "USD", "mode": "credits_only"})).await?.expect(201)?;
    assert_eq!((&wallet["available"], &wallet["mode"]), (&json!("0"), &json!("credits_only")));
    client.post(path, json!({"currency": "USD"})).await?.refused(409, "wallet_exists")?;
    let wallet = text(&wallet["id"])?;
    let of_wallet = format!("/v1/wallets/{wallet}");
    let limit = client.send("PATCH", &of_wallet, None, &json!({"credit_limit": "5"})).await?;
    assert_eq!(limit.expect(200)?["available"], "5");
    let wrong = client.send("PATCH", &of_wallet, None, &json!({"credit_limit": "-1"})).await?;
    wrong.refused(422, "amount_invalid")?;

    let grants = format!("{of_wallet}/grants");
    let gift = json!({"amount": "3", "kind": "promotional", "name": "welcome", "priority": 10,
        "meters": ["api_calls"], "expires_at": "2100-01-01T00:00:00Z", "source_id": "gift-1"});
    let gift_made = client.post(&grants, gift.clone()).await?.expect(201)?;
    assert_eq!((&gift_made["state"], &gift_made["remaining"]), (&json!("running"), &json!("3")));
    client.post(&grants, gift).await?.refused(409, "grant_exists")?;
    let paid = client.post(&grants, json!({"amount": "7", "kind": "paid"})).await?.expect(201)?;
    let later = json!({"amount": "9", "kind": "recurring", "starts_at": "2099-01-01T00:00:00Z"});
    let later = client.post(&grants, later).await?.expect(201)?;
    assert_eq!(later["state"], "scheduled");
    let past = "2020-01-01T00:00:00Z";
    for (body, code) in [
        (json!({"amount": "1", "kind": "paid", "expires_at": past}), "grant_times_invalid"),
        (json!({"amount": "1", "kind": "paid", "priority": 101}), "priority_invalid"),
        (json!({"amount": "1", "kind": "paid", "meters": vec!["m"; 101]}), "meters_invalid"),
        (json!({"amount": "1", "kind": "paid", "source_id": ""}), "key_invalid"),
    ] {
        client.post(&grants, body).await?.refused(422, code)?;
    }
    client.has(&wallet, &json!({"balance": "10", "sequence": 2, "available": "15"})).await?;
    let page = client.get(&format!("{grants}?limit=2")).await?;
    assert_eq!(page["items"][0], later);
    let next = text(&page["next_cursor"])?;
    let page = client.get(&format!("{grants}?limit=2&cursor={next}")).await?;
    assert_eq!(page["items"], json!([gift_made]));

    let of = |grant: &Value, what: &str| {
        Ok::<_, anyhow::Error>(format!("/v1/grants/{}{what}", text(&grant["id"])?))
    };
    let refund = client.post(&of(&gift_made, "/refund")?, json!({})).await?;
    refund.refused(422, "grant_not_refundable")?;
    client.post(&of(&later, "/void")?, json!({})).await?.refused(409, "grant_not_running")?;
    for (grant, how) in [(&gift_made, "void"), (&paid, "refund")] {
        let ending = client.post(&of(grant, &format!("/{how}"))?, json!({})).await?.expect(200)?;
        assert_eq!((&ending["state"], &ending["ending"]), (&json!("ending"), &json!(how)));
        client.until(&of(grant, "")?, "state", "ended").await?;
    }
    client.has(&wallet, &json!({"balance": "0", "sequence": 4})).await?;
    let entries = client.get(&format!("{of_wallet}/entries")).await?;
    let entries = entries["items"].as_array().context("entries")?;
    let sums: Vec<&Value> = entries.iter().rev().map(|entry| &entry["balance_after"]).collect();
    assert_eq!(sums, ["3", "10", "7", "0"], "{entries:?}");
    let at = text(&entries[2]["at"])?;
    assert_eq!(client.get(&format!("{of_wallet}/balance?at={at}")).await?["balance"], "10");
    assert_eq!(client.get(&format!("{of_wallet}/balance")).await?["balance"], "0");
    let before = client.get(&format!("{of_wallet}/balance?at={past}")).await?;
    assert_eq!(before["balance"], "0");
    Ok(())
}

async fn holds(client: &Client) -> Result<()> {
    let wallet = client.wallet("holding", "10").await?;
    let body = json!({"team": "holding", "currency": "USD", "amount": "6"});
    let hold = client.send("POST", "/v1/holds", Some("one"), &body).await?.expect(201)?;
    assert_eq!((&hold["wallet"], &hold["state"]), (&json!(wallet), &json!("open")), "{hold}");
    let path = format!("/v1/holds/{}", text(&hold["id"])?);
    assert_eq!(client.get(&path).await?, hold);
    client.has(&wallet, &json!({"balance": "10", "held": "6", "available": "4"})).await?;

    let refused = client.send("POST", "/v1/holds", Some("two"), &body).await?;
    let refused = refused.refused(402, "insufficient_funds")?;
    assert_eq!(
        (&refused["available"], &refused["actions"]),
        (&json!("4"), &json!(["top_up", "raise_credit_limit"]))
    );
    let other = json!({"wallet": wallet, "amount": "6"});
    for key in ["one", "two"] {
        client
            .send("POST", "/v1/holds", Some(key), &other)
            .await?
            .refused(409, "idempotency_key_reused")?;
    }
    for (body, status, code) in [
        (json!({"amount": "1"}), 422, "wallet_unnamed"),
        (json!({"wallet": wallet, "team": "holding", "amount": "1"}), 422, "wallet_unnamed"),
        (json!({"wallet": "none", "amount": "1"}), 404, "wallet_unknown"),
        (json!({"wallet": uuid::Uuid::nil(), "amount": "1"}), 404, "wallet_unknown"),
        (json!({"team": "holding", "currency": "EUR", "amount": "1"}), 404, "wallet_unknown"),
        (json!({"wallet": wallet, "amount": "0"}), 422, "amount_invalid"),
        (
            json!({"wallet": wallet, "amount": "1", "expires_in_seconds": 0}),
            422,
            "hold_life_invalid",
        ),
        (json!({"wallet": wallet, "amount": "1", "meters": ["\u{1f}"]}), 422, "key_invalid"),
    ] {
        client.post("/v1/holds", body).await?.refused(status, code)?;
    }
    client.send("GET", "/v1/holds/none", None, &json!({})).await?.refused(404, "hold_unknown")?;
    let by_call =
        client.send("POST", &format!("{path}/capture"), Some("c"), &json!({"amount": "1"})).await?;
    by_call.refused(409, "hold_settles_by_usage")?;

    // Released and expired ones are freed; a repeat is answered as the first time all the same.
    let brief = json!({"wallet": wallet, "amount": "4", "expires_in_seconds": 1});
    let brief = client.post("/v1/holds", brief).await?.expect(201)?;
    let released = client.post(&format!("{path}/release"), json!({})).await?.expect(200)?;
    assert_eq!((&released["state"], &released["reason"]), (&json!("closing"), &json!("released")));
    let ended = client.until(&path, "state", "ended").await?;
    assert_eq!((&ended["remaining"], &ended["captured"]), (&json!("0"), &json!("0")));
    client.post(&format!("{path}/release"), json!({})).await?.refused(409, "hold_not_open")?;
    let brief =
        client.until(&format!("/v1/holds/{}", text(&brief["id"])?), "state", "ended").await?;
    assert_eq!(brief["reason"], "expired");
    client.has(&wallet, &json!({"balance": "10", "held": "0", "available": "10"})).await?;
    let again = client.send("POST", "/v1/holds", Some("one"), &body).await?;
    assert!(again.repeated);
    assert_eq!(again.expect(201)?, hold);
    client
        .send("POST", "/v1/holds", Some("two"), &body)
        .await?
        .refused(402, "insufficient_funds")?;
    client.has(&wallet, &json!({"held": "0"})).await
}

async fn captures(client: &Client) -> Result<()> {
    let wallet = client.wallet("calling", "10").await?;
    let hold = json!({"wallet": wallet, "amount": "6", "settle_by": "call"});
    let hold = client.post("/v1/holds", hold).await?.expect(201)?;
    let path = format!("/v1/holds/{}", text(&hold["id"])?);
    let capture = async |key: &str, body: Value| {
        client.send("POST", &format!("{path}/capture"), Some(key), &body).await
    };
    client
        .post(&format!("{path}/capture"), json!({"amount": "1"}))
        .await?
        .refused(400, "idempotency_key_missing")?;
    let part = capture("1", json!({"amount": "2"})).await?.expect(200)?;
    assert_eq!((&part["hold"]["captured"], &part["hold"]["remaining"]), (&json!("2"), &json!("4")));
    let again = capture("1", json!({"amount": "2"})).await?;
    assert!(again.repeated);
    assert_eq!(again.expect(200)?, part);
    capture("1", json!({"amount": "3"})).await?.refused(409, "idempotency_key_reused")?;
    client.has(&wallet, &json!({"balance": "8", "held": "4", "available": "4"})).await?;
    let beyond = capture("2", json!({"amount": "5"})).await?.refused(422, "capture_beyond_hold")?;
    assert_eq!(beyond["available"], "4");
    let most = capture("3", json!({"amount": "9", "tolerance": "5"})).await?;
    assert_eq!(most.refused(402, "insufficient_funds")?["available"], "8");
    client.has(&wallet, &json!({"balance": "8", "held": "4"})).await?;
    let last = json!({"amount": "4.5", "tolerance": "1", "final": true});
    let last = capture("4", last).await?.expect(200)?;
    assert_eq!((&last["hold"]["state"], &last["hold"]["captured"]), (&json!("ended"), &json!("6")));
    client.has(&wallet, &json!({"balance": "3.5", "held": "0", "available": "3.5"})).await?;
    capture("5", json!({"amount": "1"})).await?.refused(409, "hold_not_open")?;
    // What is left of a final capture is free at once.
    let hold = json!({"wallet": wallet, "amount": "3", "settle_by": "call"});
    let hold = client.post("/v1/holds", hold).await?.expect(201)?;
    let path = format!("/v1/holds/{}/capture", text(&hold["id"])?);
    let last = json!({"amount": "1", "final": true});
    client.send("POST", &path, Some("6"), &last).await?.expect(200)?;
    client.has(&wallet, &json!({"balance": "2.5", "held": "0", "available": "2.5"})).await
}

/// As many get it as are covered, whoever comes.
async fn the_last_credit(client: &Client) -> Result<()> {
    for covered in [1_usize, 7] {
        let wallet = client.wallet(&format!("last-{covered}"), &covered.to_string()).await?;
        let body = json!({"wallet": wallet, "amount": "1"});
        let answers =
            try_join_all((0..CLIENTS).map(|_| client.post("/v1/holds", body.clone()))).await?;
        let opened = answers.iter().filter(|answer| answer.status == 201).count();
        let refused = answers.iter().filter(|answer| answer.body["code"] == "insufficient_funds");
        assert_eq!((opened, refused.count()), (covered, CLIENTS - covered));
        client.has(&wallet, &json!({"held": covered.to_string(), "available": "0"})).await?;
    }
    Ok(())
}

/// Clients that share a key share a hold.
async fn twins(client: &Client) -> Result<()> {
    let wallet = client.wallet("twins", "100").await?;
    let body = json!({"wallet": wallet, "amount": "1"});
    let sent = (0..CLIENTS).map(|_| client.send("POST", "/v1/holds", Some("twin"), &body));
    let answers = try_join_all(sent).await?;
    let firsts = answers.iter().filter(|answer| !answer.repeated).count();
    let bodies: BTreeSet<String> = answers.iter().map(|answer| answer.body.to_string()).collect();
    assert!(firsts == 1 && bodies.len() == 1, "{firsts} firsts: {bodies:?}");
    assert!(answers.iter().all(|answer| answer.status == 201));
    client.has(&wallet, &json!({"held": "1", "available": "99"})).await
}

/// A hold's usage is paid out of what it reserves, and its grant says which usage that was.
async fn usage(system: &System, client: &Client) -> Result<()> {
    let wallet = client.wallet("using", "1").await?;
    let body = json!({"wallet": wallet, "amount": "0.6"});
    let hold = client.post("/v1/holds", body).await?.expect(201)?;
    let event = json!({"id": "held-1", "source": "wallets-api", "type": "api.request.v1", "subject": "using",
        "holdid": hold["id"], "time": hold["created_at"], "data": {"route": "/"}});
    system.ingest()?.send("POST", "/v1/events", &json!([event])).await?;
    let path = format!("/v1/holds/{}", text(&hold["id"])?);
    client.until(&path, "captured", "0.0005").await?;
    client.post(&format!("{path}/release"), json!({})).await?.expect(200)?;
    client.until(&path, "state", "ended").await?;
    client.has(&wallet, &json!({"balance": "0.9995", "held": "0", "debt": "0"})).await?;
    let grants = client.get(&format!("/v1/wallets/{wallet}/grants")).await?;
    let path = format!("/v1/grants/{}/allocations", text(&grants["items"][0]["id"])?);
    let allocations = client.get(&path).await?;
    let items = allocations["items"].as_array().context("allocations")?;
    assert!(items.len() == 1 && items[0]["meter"] == "api_calls" && items[0]["team"] == "using");
    assert_eq!(amount(&items[0]["amount"])?, 500_000_000);
    assert_eq!(allocations["next_cursor"], Value::Null);
    Ok(())
}
