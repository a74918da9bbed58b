//! Requests and their answers, through the router and over a socket.

use std::{collections::HashMap, io::Write as _, net::SocketAddr};

use anyhow::Result;
use domain::event::BODY_BYTES_MAX;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::World;

const GZIP: &[(&str, &str)] = &[("content-encoding", "gzip")];
const ZSTD: &[(&str, &str)] = &[("content-encoding", "zstd")];

fn event(id: &str, team: &str) -> Value {
    json!({"id": id, "type": "api.call", "subject": team, "data": {"n": 1}})
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(body, 3).unwrap()
}

/// One event and white space up to `length` bytes.
fn padded(length: usize) -> Vec<u8> {
    let mut body = event("padded", "t").to_string().into_bytes();
    body.resize(length, b' ');
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_answered_and_nothing_else_is_logged() -> Result<()> {
    let world = World::start().await?;
    let single = world.post(&[], event("1", "a").to_string()).await?;
    assert_eq!(single.status, 200, "{}", single.body);
    assert_eq!((&single.body["accepted"], &single.body["rejected"]), (&json!(1), &json!(0)));

    let teams = ["a", "b", "c", "d", "e"];
    let many: Vec<Value> = (0..100).map(|n| event(&format!("m{n}"), teams[n % 5])).collect();
    let all = world
        .post(
            &[("content-type", "application/cloudevents-batch+json")],
            Value::from(many).to_string(),
        )
        .await?;
    assert_eq!((all.status.as_u16(), &all.body["accepted"]), (200, &json!(100)));

    let part = json!([event("2", "a"), {"type": "x", "subject": "a"}, event("3", "b"), 7]);
    let part = world
        .send("/v1/events/ingest", &[("x-api-key", &world.key.text)], part.to_string())
        .await?;
    assert_eq!(
        (part.status.as_u16(), &part.body["accepted"], &part.body["rejected"]),
        (207, &json!(2), &json!(2))
    );
    assert_eq!(part.statuses(), ["accepted", "rejected", "accepted", "rejected"]);
    assert_eq!(part.body["results"][1]["code"], "id_missing");
    assert_eq!(part.body["results"][3]["index"], 3);

    let none = world.post(&[], r#"[{"id":"4"},{"id":"5"}]"#).await?;
    assert_eq!((none.status.as_u16(), none.code()), (400, "all_rejected"));
    assert_eq!(none.headers["content-type"], "application/problem+json");
    assert_eq!(none.statuses(), ["rejected", "rejected"]);
    assert_eq!(none.body["results"][1]["id"], "5");
    let only = world.post(&[], r#"{"id":"6","type":"x"}"#).await?;
    assert_eq!((only.status.as_u16(), only.code()), (400, "subject_missing"));
    let broken = world.post(&[], format!("[{},{{\"id\":]", event("7", "a"))).await?;
    assert_eq!((broken.status.as_u16(), broken.code()), (400, "json_invalid"));
    assert!(broken.body["detail"].as_str().unwrap().contains("at byte"), "{}", broken.body);
    let lines = format!("{}\n{{\"id\":\n{}\n", event("8", "a"), event("9", "c"));
    let lines =
        world.post(&[("content-type", "application/x-ndjson; charset=utf-8")], lines).await?;
    assert_eq!(
        (lines.status.as_u16(), lines.statuses()),
        (207, vec!["accepted", "rejected", "accepted"])
    );

    let (logged, _) = world.logged()?;
    let by_id: HashMap<&str, String> =
        logged.iter().map(|event| (event.id.as_str(), event.receipt())).collect();
    assert_eq!(by_id.len(), logged.len(), "no event is in the log twice");
    let results = [&single, &all, &part, &lines]
        .map(|answer| answer.body["results"].as_array().unwrap().clone())
        .concat();
    let accepted: Vec<&Value> =
        results.iter().filter(|result| result["status"] == "accepted").collect();
    assert_eq!((accepted.len(), logged.len()), (105, 105));
    for result in accepted {
        assert_eq!(result["receipt"], by_id[result["id"].as_str().unwrap()], "{result}");
    }
    assert_eq!(world.metric("weir_ingest_events_accepted_total"), 105);
    assert_eq!(world.metric("weir_ingest_events_rejected_total{code=\"id_missing\"}"), 1);
    assert_eq!(world.metric("weir_ingest_requests_total{status=\"207\"}"), 2);
    assert_eq!(world.budget.used(), 0);
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_a_limit_however_they_come() -> Result<()> {
    let world = World::start().await?;
    for (length, status) in [
        (BODY_BYTES_MAX - 1, 200),
        (BODY_BYTES_MAX, 200),
        (BODY_BYTES_MAX + 1, 413),
        (10 << 20, 413),
    ] {
        let body = padded(length);
        for (headers, body) in [(&[][..], body.clone()), (GZIP, gzip(&body)), (ZSTD, zstd(&body))] {
            let answer = world.post(headers, body).await?;
            assert_eq!(answer.status, status, "{headers:?} {length}: {}", answer.body);
            assert_eq!(answer.code(), if status == 200 { "ok" } else { "body_too_large" });
        }
    }
    // 1 GiB of spaces in less than 1.1 MB, and the same again within itself.
    let bomb = gzip(&vec![b' '; 1 << 30]);
    for bomb in [gzip(&bomb), bomb, zstd(&vec![b' '; 1 << 30])] {
        let answer =
            world.post(if bomb.starts_with(&[0x1f, 0x8b]) { GZIP } else { ZSTD }, bomb).await?;
        let small = answer.code() == "body_not_utf8";
        assert!(answer.status == 413 || small, "{}", answer.body);
    }
    // Frames without content do not go on for ever.
    let empty = zstd(b"");
    let empties = empty.repeat(BODY_BYTES_MAX / empty.len() + 1);
    assert_eq!(world.post(ZSTD, empties).await?.status, 413);

    // Several frames, and events split into many pieces.
    let address = world.serve().await?;
    let (one, two) = (event("1", "t").to_string(), event("2", "t").to_string());
    let frames = |compress: fn(&[u8]) -> Vec<u8>| {
        [compress(one.as_bytes()), compress(b"\n"), compress(two.as_bytes())].concat()
    };
    for (headers, body) in [
        (GZIP, frames(gzip)),
        (ZSTD, frames(zstd)),
        (&[][..], format!("{one}\n{two}").into_bytes()),
    ] {
        let answer = in_pieces(address, &world.key.text, headers, &body).await?;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"accepted\":2"),
            "{answer}"
        );
    }
    for (headers, body) in [(GZIP, gzip(one.as_bytes())), (ZSTD, zstd(one.as_bytes()))] {
        let cut = world.post(headers, body[..body.len() - 3].to_vec()).await?;
        assert_eq!((cut.status.as_u16(), cut.code()), (400, "encoding_broken"));
        let plain = world.post(headers, one.clone()).await?;
        assert_eq!((plain.status.as_u16(), plain.code()), (400, "encoding_broken"));
    }
    let unknown = world.post(&[("content-encoding", "br")], one.clone()).await?;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (415, "encoding_unsupported"));
    for content_type in
        ["multipart/form-data; boundary=x", "application/json; charset=latin1", "image/png"]
    {
        let answer = world.post(&[("content-type", content_type)], one.clone()).await?;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (415, "content_type_unsupported"),
            "{content_type}"
        );
    }
    assert_eq!(world.budget.used(), 0);
    world.stop().await?;
    Ok(())
}

/// Sends a body in chunks of seven bytes, and reads the answer as text.
async fn in_pieces(
    address: SocketAddr,
    key: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<String> {
    let mut request =
        format!("POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {key}\r\n")
            .into_bytes();
    for (name, value) in headers {
        request.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    request.extend(b"transfer-encoding: chunked\r\n\r\n");
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request).await?;
    for piece in body.chunks(7) {
        stream
            .write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
            .await?;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_socket() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = World::start().await?;
    let url = format!("http://{}/v1/events", world.serve().await?);
    let client = reqwest::Client::new();
    let post = |body: Vec<u8>| client.post(&url).bearer_auth(&world.key.text).body(body).send();
    let answer = post(event("1", "t").to_string().into_bytes()).await?;
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("x-request-id"));
    // The client sees the answer although it is still sending when it is given.
    for _ in 0..5 {
        let answer = post(vec![b' '; 10 << 20]).await?;
        assert_eq!(answer.status(), 413);
        let body: Value = answer.json().await?;
        assert_eq!(body["code"], "body_too_large");
        assert!(body["request_id"].is_string());
    }
    assert_eq!(client.get(&url).send().await?.status(), 405);
    world.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_has_every_form_and_status() -> Result<()> {
    let world = World::start().await?;
    let service = ingest::Service::open(crate::world::config(), &world.context).await?;
    let (_, document) = service.router().split_for_parts();
    let document = serde_json::to_value(document)?;
    for path in ["/v1/events", "/v1/events/ingest"] {
        let post = &document["paths"][path]["post"];
        for status in ["200", "207", "400", "401", "403", "413", "415", "429", "503"] {
            assert!(post["responses"][status].is_object(), "{path} {status}");
        }
    }
    let content = &document["paths"]["/v1/events"]["post"]["requestBody"]["content"];
    for form in [
        "application/json",
        "application/x-ndjson",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    ] {
        assert!(content[form].is_object(), "{form}");
    }
    // The examples are taken as they stand.
    let examples = content["application/json"]["examples"].as_object().unwrap();
    assert_eq!(examples.len(), 4);
    for (name, example) in examples {
        let answer = world.post(&[], example["value"].to_string()).await?;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
    }
    for (form, example) in content.as_object().unwrap() {
        let Some(example) = example.get("example") else { continue };
        let body = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
        assert_eq!(world.post(&[("content-type", form)], body).await?.status, 200, "{form}");
    }
    world.stop().await?;
    Ok(())
}
