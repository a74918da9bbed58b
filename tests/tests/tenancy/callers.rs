//! Who asks for what is not theirs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::http::Method;
use serde_json::{Value, json};
use tests::signed::{base64, now_s, sign};

use crate::{
    Named,
    objects::{Foreign, Objects},
    world::{TENANT, World, add_key},
};

/// What a caller must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// What one is told who asks for what nobody has.
    Nothing,
    /// 403: the scope is missing.
    NoScope,
    /// 401.
    Dead,
}

/// Who asks.
pub struct Caller {
    pub name: &'static str,
    credential: Credential,
    /// Sent besides, or instead.
    pub header: Vec<(&'static str, String)>,
    pub expected: Expected,
    /// The one scope that it has.
    pub scope: Option<&'static str>,
    pub foreign: Foreign,
}

/// What is sent as a credential. A good token is signed anew each time: its life is short.
enum Credential {
    Text(String),
    Signed(Signer, Value),
}

impl Caller {
    /// The credential, as it is sent now.
    pub fn credential(&self) -> String {
        match &self.credential {
            Credential::Text(text) => text.clone(),
            Credential::Signed(signer, more) => signer.token(more.clone()),
        }
    }
}

/// What an app signs with.
#[derive(Clone)]
struct Signer {
    app: String,
    secret: String,
}

impl Signer {
    fn token(&self, more: Value) -> String {
        let now = now_s();
        let mut claims = json!({"app": self.app, "scopes": ["*"], "iat": now, "exp": now + 290});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
        sign(&header, &claims.to_string(), self.secret.as_bytes())
    }
}

async fn signer(
    world: &World,
    objects: &Objects,
    key: &str,
    whose: Named,
) -> Result<(Signer, String)> {
    // The app of the matrix has as many secrets as an app may have.
    let app = format!("{}-2", objects.of("app", whose));
    let path = format!("/v1/apps/{app}/secrets");
    let body = json!({"scopes": ["*"]});
    let made = world.send(Method::POST, &path, key, &[], Some(body)).await?.expect(201)?;
    let text = |name: &str| made[name].as_str().map(str::to_owned).context("a text");
    Ok((Signer { app, secret: text("secret")? }, text("secret_id")?))
}

/// All of them; every process knows their credentials.
pub async fn callers(world: &World, objects: &Objects) -> Result<Vec<Caller>> {
    let mut all = Vec::new();
    let mut add = |name, credential: Credential, expected, scope, foreign| {
        all.push(Caller { name, credential, header: Vec::new(), expected, scope, foreign });
    };
    let (theirs, retired_id) = signer(world, objects, &world.key, Named::Theirs).await?;
    let (other, _) = signer(world, objects, &world.other_key, Named::Own).await?;
    let (retired, theirs) = (theirs, signer(world, objects, &world.key, Named::Theirs).await?.0);
    let key = Credential::Text(world.other_key.clone());
    add("a key of another tenant", key, Expected::Nothing, None, Foreign::Tenant);
    let (token, signed) = (other.token(json!({})), Credential::Signed(other, json!({})));
    add("a token of another tenant", signed, Expected::Nothing, None, Foreign::Tenant);
    let team = json!({"team": objects.of("team", Named::Theirs).replace("acme", "bolt")});
    let limited = theirs.token(team.clone());
    let signed = Credential::Signed(theirs.clone(), team);
    add("a token of another team", signed, Expected::Nothing, None, Foreign::Team);
    for scope in
        api::auth::Scope::ALL.map(api::auth::Scope::text).into_iter().chain(["events:write"])
    {
        let key = add_key(&world.admin, TENANT, scope, &[scope]).await?;
        add(scope, Credential::Text(key), Expected::NoScope, Some(scope), Foreign::Tenant);
    }
    let mut dead = |name, text: String| {
        add(name, Credential::Text(text), Expected::Dead, None, Foreign::Tenant);
    };
    dead("nobody", String::new());
    let of_nobody = runtime::keys::generate()?.text;
    dead("a key that nobody made", of_nobody.clone());
    dead("half a key", world.key[..40].to_owned());
    dead("a key with another's secret", format!("{}{}", &world.key[..22], &of_nobody[22..]));
    let expired = add_key(&world.admin, TENANT, "expired", &["*"]).await?;
    let revoked = add_key(&world.admin, TENANT, "revoked", &["*"]).await?;
    for sql in [
        "UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE name = 'expired'",
        "UPDATE api_keys SET revoked_at = now() - interval '1 second' WHERE name = 'revoked'",
    ] {
        sqlx::query(sql).execute(&world.admin).await?;
    }
    dead("an expired key", expired);
    dead("a revoked key", revoked);
    let now = now_s();
    dead("an expired token", theirs.token(json!({"iat": now - 200, "exp": now - 100})));
    dead("a token with a long life", theirs.token(json!({"exp": now + 3_000})));
    dead("a token of a revoked secret", retired.token(json!({})));
    let forged = Signer { app: theirs.app.clone(), secret: "guess".repeat(8) };
    dead("a forged token", forged.token(json!({})));
    let unsigned =
        json!({"app": theirs.app, "scopes": ["*"], "iat": now, "exp": now + 120}).to_string();
    let none = [r#"{"alg":"none"}"#, unsigned.as_str()].map(|part| base64(part.as_bytes()));
    dead("an unsigned token", format!("{}.", none.join(".")));
    let basic = ("authorization", format!("Basic {}", base64(world.key.as_bytes())));
    dead("a key as a password", String::new());
    all.last_mut().context("a caller")?.header.push(basic);

    let path = format!("/v1/apps/{}/secrets/{retired_id}", theirs.app);
    world.send(Method::DELETE, &path, &world.key, &[], None).await?.expect(200)?;
    let gone = retired.token(json!({}));
    known(world, &token, &limited, &gone).await?;
    Ok(all)
}

/// Waits until both processes take what is good and refuse what was revoked.
async fn known(world: &World, good: &str, limited: &str, gone: &str) -> Result<()> {
    for _ in 0..2_000 {
        // An empty list is refused as such only to those who may send one.
        let mut statuses = Vec::new();
        for token in [good, limited, gone] {
            let sent = world.send(Method::POST, "/v1/events", token, &[], Some(json!([]))).await?;
            let read = world.send(Method::GET, "/v1/usage", token, &[], None).await?;
            statuses.push((sent.status.as_u16(), read.status.as_u16()));
        }
        if statuses == [(400, 200), (400, 200), (401, 401)] {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    bail!("the credentials are not known everywhere")
}
