//! Tokens that must not be taken: every way of going wrong that has been seen elsewhere.

use serde_json::{Value, json};

use tests::signed::{base64, now_s, sign};

use crate::{Signer, claims};

/// A public key, as somebody may have it who hopes that it is taken for the secret.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----\n";

/// Name and token; each is sent to several endpoints.
pub fn all(signer: &Signer, retired: &Signer) -> Vec<(String, String)> {
    let mut shapes = headers(signer);
    shapes.extend(times(signer));
    shapes.extend(names(signer));
    shapes.extend(texts(signer));
    let good = claims("chat", json!({}));
    let mut add = |name: &str, token: String| shapes.push((name.to_owned(), token));
    add("retired secret", retired.token(&good));
    add("retired secret by its id", retired.token_with_kid(&good));
    add("another secret", Signer { id: signer.id.clone(), secret: "guess".into() }.token(&good));
    add("empty secret", Signer { id: signer.id.clone(), secret: String::new() }.token(&good));
    add(
        "the id as the secret",
        Signer { id: signer.id.clone(), secret: signer.id.clone() }.token_with_kid(&good),
    );
    let longer = Signer { id: signer.id.clone(), secret: format!("{}\n", signer.secret) };
    add("secret with a line feed", longer.token(&good));
    let upper = Signer { id: signer.id.clone(), secret: signer.secret.to_uppercase() };
    add("secret in capitals", upper.token(&good));
    shapes
}

fn headers(signer: &Signer) -> Vec<(String, String)> {
    let good = claims("chat", json!({})).to_string();
    let key = signer.secret.as_bytes();
    let mut shapes = Vec::new();
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "PS256",
        "EdDSA", "A256GCM",
    ] {
        let header = json!({"alg": algorithm, "typ": "JWT"}).to_string();
        shapes.push((format!("alg {algorithm:?}, signed"), sign(&header, &good, key)));
        let unsigned = format!("{}.{}.", base64(header.as_bytes()), base64(good.as_bytes()));
        shapes.push((format!("alg {algorithm:?}, no signature"), unsigned));
    }
    for algorithm in ["HS256", "RS256", "ES256"] {
        let header = json!({"alg": algorithm}).to_string();
        shapes.push((
            format!("public key as secret, {algorithm}"),
            sign(&header, &good, PUBLIC_KEY.as_bytes()),
        ));
    }
    let zero = [0_u8; 64];
    let header = json!({"alg": "ES256", "typ": "JWT"}).to_string();
    let zeros =
        format!("{}.{}.{}", base64(header.as_bytes()), base64(good.as_bytes()), base64(&zero));
    shapes.push(("zero ECDSA values".to_owned(), zeros));
    let own_key = json!({"kty": "oct", "k": base64(b"mine"), "alg": "HS256"});
    for (name, more) in [
        ("jwk", json!({"jwk": own_key})),
        ("jku", json!({"jku": "https://evil.example/keys.json"})),
        ("x5u", json!({"x5u": "https://evil.example/cert.pem"})),
        ("x5c", json!({"x5c": ["MIIB"]})),
        ("x5t", json!({"x5t": "AA"})),
        ("x5t#S256", json!({"x5t#S256": "AA"})),
        ("crit unknown", json!({"crit": ["exp2"], "exp2": 1})),
        ("crit empty", json!({"crit": []})),
        ("crit b64", json!({"crit": ["b64"], "b64": false})),
        ("b64", json!({"b64": false})),
        ("zip", json!({"zip": "DEF"})),
        ("enc", json!({"enc": "A256GCM"})),
        ("cty", json!({"cty": "JWT"})),
        ("typ JWE", json!({"typ": "JWE"})),
        ("typ number", json!({"typ": 1})),
        ("kid number", json!({"kid": 1})),
        ("kid path", json!({"kid": "../../../../dev/null"})),
        ("kid SQL", json!({"kid": "' OR 1=1 --"})),
        ("kid union", json!({"kid": "x' UNION SELECT 'AAAA' --"})),
        ("kid NUL", json!({"kid": "a\u{0}b"})),
        ("kid empty", json!({"kid": ""})),
        ("kid long", json!({"kid": "k".repeat(2_000)})),
        ("kid command", json!({"kid": "|/bin/true"})),
        ("own header", json!({"x": 1})),
    ] {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let by_own = sign(&header.to_string(), &good, b"mine");
        shapes.push((format!("{name}, own key"), by_own));
        shapes.push((name.to_owned(), sign(&header.to_string(), &good, key)));
    }
    for (name, header) in [
        ("alg twice", r#"{"alg":"HS256","alg":"none"}"#),
        ("alg twice, escaped", r#"{"alg":"HS256","\u0061lg":"none"}"#),
        ("alg missing", r#"{"typ":"JWT"}"#),
        ("alg null", r#"{"alg":null}"#),
        ("alg list", r#"{"alg":["HS256"]}"#),
        ("header list", r#"["HS256"]"#),
        ("header text", r#""HS256""#),
        ("header empty", ""),
        ("header with more after it", r#"{"alg":"HS256"} {"alg":"none"}"#),
    ] {
        shapes.push((name.to_owned(), sign(header, &good, key)));
    }
    shapes
}

/// INV-24.
fn times(signer: &Signer) -> Vec<(String, String)> {
    let now = now_s();
    let with = |more: Value| {
        let mut all = claims("chat", json!({}));
        let members = all.as_object_mut().unwrap();
        for (name, value) in more.as_object().unwrap() {
            match value {
                Value::String(text) if text == "absent" => members.remove(name),
                value => members.insert(name.clone(), value.clone()),
            };
        }
        all
    };
    let shapes = [
        ("exp missing", json!({"exp": "absent"})),
        ("iat missing", json!({"iat": "absent"})),
        ("exp and iat missing", json!({"exp": "absent", "iat": "absent"})),
        ("exp null", json!({"exp": null})),
        ("exp text", json!({"exp": format!("{}", now + 120)})),
        ("exp list", json!({"exp": [now + 120]})),
        ("exp fraction", json!({"exp": 1.5e300})),
        ("exp huge", json!({"exp": u64::MAX})),
        ("exp negative", json!({"exp": -1})),
        ("exp far", json!({"exp": now + 86_400 * 365})),
        ("exp one second too far", json!({"iat": now, "exp": now + 301})),
        ("life too short", json!({"iat": now, "exp": now + 59})),
        ("exp before iat", json!({"iat": now, "exp": now - 60})),
        ("expired", json!({"iat": now - 400, "exp": now - 200})),
        ("expired beyond the leeway", json!({"iat": now - 130, "exp": now - 11})),
        ("iat text", json!({"iat": "now"})),
        ("iat true", json!({"iat": true})),
        ("iat in the future", json!({"iat": now + 60, "exp": now + 200})),
        ("iat in milliseconds", json!({"iat": now * 1000, "exp": now * 1000 + 120})),
        ("nbf in the future", json!({"nbf": now + 100})),
        ("nbf text", json!({"nbf": "0"})),
        ("nbf null", json!({"nbf": null})),
    ];
    shapes.map(|(name, more)| (name.to_owned(), signer.token(&with(more)))).into()
}

fn names(signer: &Signer) -> Vec<(String, String)> {
    let key = signer.secret.as_bytes();
    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    let mut shapes = Vec::new();
    for (name, more) in [
        ("app of nobody", json!({"app": "missing"})),
        ("app empty", json!({"app": ""})),
        ("app null", json!({"app": null})),
        ("app list", json!({"app": ["chat"]})),
        ("app in other case", json!({"app": "Chat"})),
        ("app with NUL", json!({"app": "chat\u{0}"})),
        ("app and appId", json!({"appId": "chat"})),
        ("team null", json!({"team": null})),
        ("team empty", json!({"team": ""})),
        ("team number", json!({"team": 7})),
        ("team list", json!({"team": ["acme"]})),
        ("team with a control character", json!({"team": "ac\nme"})),
        ("team and teamId", json!({"team": "a", "teamId": "b"})),
        ("scopes empty", json!({"scopes": []})),
        ("scopes blank", json!({"scopes": " "})),
        ("scopes null", json!({"scopes": null})),
        ("scopes object", json!({"scopes": {"*": true}})),
        ("scopes numbers", json!({"scopes": [1]})),
        ("scopes and scope", json!({"scope": "*"})),
        ("scopes too many", json!({"scopes": vec!["x"; 33]})),
        ("aud of another", json!({"aud": "other"})),
        ("aud of others", json!({"aud": ["other", "more"]})),
        ("aud number", json!({"aud": 1})),
        ("iss of another", json!({"iss": "other"})),
        ("iss list", json!({"iss": ["chat"]})),
        ("jti number", json!({"jti": 1})),
        ("sub number", json!({"sub": 1})),
    ] {
        shapes.push((name.to_owned(), signer.token(&claims("chat", more))));
    }
    // Signed by one secret, and naming an app that has another.
    let other = claims("other", json!({}));
    shapes.push(("app of another, by id".to_owned(), signer.token_with_kid(&other)));
    let now = now_s();
    let end = now + 120;
    for (name, text) in [
        (
            "exp twice",
            format!(r#"{{"app":"chat","scopes":["*"],"iat":{now},"exp":1,"exp":{end}}}"#),
        ),
        (
            "app twice",
            format!(r#"{{"app":"x","app":"chat","scopes":["*"],"iat":{now},"exp":{end}}}"#),
        ),
        (
            "unknown member twice",
            format!(r#"{{"app":"chat","scopes":["*"],"iat":{now},"exp":{end},"a":1,"a":2}}"#),
        ),
        (
            "app twice, escaped",
            format!(r#"{{"app":"chat","\u0061pp":"x","scopes":["*"],"iat":{now},"exp":{end}}}"#),
        ),
        ("claims list", r#"["chat"]"#.to_owned()),
        ("claims empty", String::new()),
        ("claims null", "null".to_owned()),
        ("claims cut off", r#"{"app":"chat""#.to_owned()),
        (
            "claims with more after them",
            format!(r#"{{"app":"chat","scopes":["*"],"iat":{now},"exp":{end}}} {{}}"#),
        ),
        (
            "claims nested deep",
            format!(r#"{{"app":"chat","a":{}{}}}"#, "[".repeat(400), "]".repeat(400)),
        ),
    ] {
        shapes.push((name.to_owned(), sign(&header, &text, key)));
    }
    shapes
}

fn texts(signer: &Signer) -> Vec<(String, String)> {
    let good = signer.token(&claims("chat", json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    let (head, signature) = (format!("{}.{}", parts[0], parts[1]), parts[2]);
    let last = signature.chars().last().unwrap();
    // 32 bytes leave two bits of the last character unused: these must be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let mut changed = signature.as_bytes().to_vec();
    changed[0] = if changed[0] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let shapes = vec![
        ("no signature", format!("{head}.")),
        ("no signature and no point", head.clone()),
        ("signature cut off", good[..good.len() - 1].to_owned()),
        ("half a signature", format!("{head}.{}", &signature[..signature.len() / 2])),
        ("signature changed", format!("{head}.{changed}")),
        ("signature not canonical", format!("{head}.{}{next}", &signature[..signature.len() - 1])),
        ("signature padded", format!("{good}=")),
        ("signature longer", format!("{good}AA")),
        ("signature in ordinary base64", format!("{head}.{}+", &signature[..signature.len() - 1])),
        ("signature twice", format!("{good}.{signature}")),
        ("parts swapped", format!("{}.{}.{signature}", parts[1], parts[0])),
        ("five parts, a JWE", format!("{good}.{signature}.{signature}")),
        ("64 KiB of header", format!("{}.{}.{signature}", "A".repeat(30_000), "A".repeat(30_000))),
        ("64 KiB of points", ".".repeat(60_000)),
        ("points", "..".to_owned()),
        ("empty parts", format!("..{signature}")),
        ("blank inside", format!("{head} .{signature}")),
        ("quoted", format!("\"{good}\"")),
        ("in capitals", good.to_uppercase()),
        ("as Basic would", base64(good.as_bytes())),
        ("two tokens", format!("{good},{good}")),
        ("no JSON", "bm90.anNvbg.c2ln".to_owned()),
        ("claims of another token", {
            let other = signer.token(&claims("chat", json!({"team": "acme"})));
            let payload = other.split('.').nth(1).unwrap().to_owned();
            format!("{}.{payload}.{signature}", parts[0])
        }),
        ("as it is signed, reversed", good.chars().rev().collect()),
    ];
    shapes.into_iter().map(|(name, token)| (name.to_owned(), token)).collect()
}
