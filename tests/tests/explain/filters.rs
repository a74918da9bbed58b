//! Events by who, what and when, and usage by app and feature: each asked for, and nothing else found.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use axum::http::Method;
use serde_json::{Value, json};

use crate::{all, settled, world::World};

/// An event of two teams, which two apps report around one moment.
struct Sent {
    app: &'static str,
    team: &'static str,
    user: &'static str,
    feature: Option<&'static str>,
    event_type: &'static str,
    source: &'static str,
    time: &'static str,
    /// So many tokens or words; what is no number is rejected.
    number: &'static str,
}

const BEFORE: &str = "2026-05-01T23:59:59.999999Z";
const MOMENT: &str = "2026-05-02T00:00:00Z";
const AFTER: &str = "2026-05-02T00:00:00.000001Z";
const LATER: &str = "2026-05-02T00:00:00.000002Z";
/// The numbers are powers of two: a sum says which events are in it. An event's id is `filter-` and
/// its place in this list.
#[rustfmt::skip]
const SENT: [Sent; 7] = [
    Sent { app: "chat", team: "gale", user: "ann", feature: Some("answer"), event_type: "llm.call", source: "chat-tool", time: BEFORE, number: "1" },
    Sent { app: "chat", team: "gale", user: "bob", feature: Some("answer"), event_type: "llm.call", source: "chat-tool", time: MOMENT, number: "2" },
    Sent { app: "chat", team: "gale", user: "ann", feature: Some("draft"), event_type: "llm.call", source: "web", time: AFTER, number: "4" },
    Sent { app: "search", team: "hugo", user: "bob", feature: Some("answer"), event_type: "llm.call", source: "web", time: MOMENT, number: "8" },
    Sent { app: "search", team: "gale", user: "ann", feature: Some("draft"), event_type: "words", source: "web", time: AFTER, number: "16" },
    Sent { app: "search", team: "gale", user: "cid", feature: None, event_type: "llm.call", source: "chat-tool", time: LATER, number: "32" },
    Sent { app: "search", team: "gale", user: "ann", feature: Some("draft"), event_type: "llm.call", source: "web", time: MOMENT, number: "many" },
];

/// Questions for events, and the numbers of those that are found.
const EVENTS: [(&str, &[usize]); 22] = [
    ("user=ann", &[0, 2, 4, 6]),
    ("user=bob", &[1, 3]),
    ("user=an", &[]),
    ("team=gale", &[0, 1, 2, 4, 5, 6]),
    ("team=hugo", &[3]),
    ("team=gale&type=llm.call", &[0, 1, 2, 5, 6]),
    ("team=gale&type=words", &[4]),
    ("team=gale&type=llm", &[]),
    ("source=chat-tool", &[0, 1, 5]),
    ("source=web", &[2, 3, 4, 6]),
    ("id=filter-3", &[3]),
    ("id=filter-6", &[6]),
    ("id=filter-", &[]),
    ("app=chat", &[0, 1, 2]),
    ("app=search", &[3, 4, 5, 6]),
    ("user=ann&source=web&app=search", &[4, 6]),
    ("user=bob&team=gale&type=llm.call&source=chat-tool&id=filter-1&app=chat", &[1]),
    ("user=bob&team=gale&type=llm.call&source=chat-tool&id=filter-1&app=search", &[]),
    ("user=ann&outcome=rejected", &[6]),
    ("user=ann&outcome=rated", &[0, 2]),
    ("user=ann&outcome=unpriced", &[4]),
    ("user=cid&outcome=rejected", &[]),
];

/// From when and until when, and what is found of team `gale`: of a border itself, `from` has what `to`
/// has not.
const TIMES: [(&str, &str, &[usize]); 10] = [
    (BEFORE, "", &[0, 1, 2, 4, 5, 6]),
    (MOMENT, "", &[1, 2, 4, 5, 6]),
    (AFTER, "", &[2, 4, 5]),
    (LATER, "", &[5]),
    ("", BEFORE, &[]),
    ("", MOMENT, &[0]),
    ("", AFTER, &[0, 1, 6]),
    ("", LATER, &[0, 1, 2, 4, 6]),
    (MOMENT, AFTER, &[1, 6]),
    (MOMENT, MOMENT, &[]),
];

/// Values that usage is grouped by, the sum of the numbers of its events, and how many they are.
type Group = (&'static [Option<&'static str>], i64, i64);

/// Questions for usage, and all groups of the answer.
const USAGE: [(&str, &[Group]); 4] = [
    ("meter=tokens&group_by=app", &[(&[Some("chat")], 7, 3), (&[Some("search")], 40, 2)]),
    (
        "meter=tokens&group_by=feature",
        &[(&[None], 32, 1), (&[Some("answer")], 11, 3), (&[Some("draft")], 4, 1)],
    ),
    (
        "meter=tokens&group_by=app,feature",
        &[
            (&[Some("chat"), Some("answer")], 3, 2),
            (&[Some("chat"), Some("draft")], 4, 1),
            (&[Some("search"), None], 32, 1),
            (&[Some("search"), Some("answer")], 8, 1),
        ],
    ),
    ("meter=words&group_by=feature,app", &[(&[Some("draft"), Some("search")], 16, 1)]),
];

/// All of it; so many events were accepted before.
pub async fn find_what_is_asked_for(world: &World, accepted: u32) -> Result<()> {
    for app in ["chat", "search"] {
        send(world, app).await?;
    }
    settled(world, accepted + u32::try_from(SENT.len())?).await?;
    for (question, wanted) in EVENTS {
        assert_eq!(found(world, question).await?, wanted, "{question}");
    }
    for (from, to, wanted) in TIMES {
        let bound = |name: &str, time: &str| match time {
            "" => String::new(),
            time => format!("&{name}={time}"),
        };
        let question = format!("team=gale{}{}", bound("from", from), bound("to", to));
        assert_eq!(found(world, &question).await?, wanted, "{question}");
    }
    for (question, wanted) in USAGE {
        assert_eq!(grouped(world, question).await?, groups(question, wanted)?, "{question}");
    }
    Ok(())
}

/// Sends the events of an app with a key of it.
async fn send(world: &World, app: &str) -> Result<()> {
    world.post("/v1/apps", json!({"app": app})).await?.expect(201)?;
    let key = json!({"app": app, "scopes": ["events:write"]});
    let key = world.post("/v1/api-keys", key).await?.expect(201)?;
    let key = key["key"].as_str().context("a key")?;
    let events: Vec<Value> =
        SENT.iter().enumerate().filter(|(_, sent)| sent.app == app).map(event).collect();
    let events = Some(json!(events));
    world.send(Method::POST, "/v1/events", key, &[], events).await?.expect(200).map(drop)
}

fn event((number, sent): (usize, &Sent)) -> Value {
    let member = if sent.event_type == "words" { "words" } else { "tokens" };
    json!({"id": format!("filter-{number}"), "type": sent.event_type, "source": sent.source, "subject": sent.team,
        "user": sent.user, "feature": sent.feature, "time": sent.time, "data": {member: sent.number, "model": "own"}})
}

/// The numbers of the events that a question finds, page by page, each as often as it is found.
async fn found(world: &World, question: &str) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for event in all(world, &format!("/v1/events?limit=2&{question}"), "").await? {
        let id = event["id"].as_str().context("an id")?;
        numbers.push(id.strip_prefix("filter-").with_context(|| format!("{event}"))?.parse()?);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

type Groups = BTreeMap<String, (Value, Value)>;

/// Each group as text, with its quantity and its events.
async fn grouped(world: &World, question: &str) -> Result<Groups> {
    let days = "from=2026-05-01T12:00:00Z&to=2026-05-03T00:00:00Z";
    let rows = all(world, &format!("/v1/usage?limit=2&{days}&{question}"), "").await?;
    let groups: Groups = rows
        .iter()
        .map(|row| (row["group"].to_string(), (row["quantity"].clone(), row["events"].clone())))
        .collect();
    assert_eq!(groups.len(), rows.len(), "a group is there twice: {rows:?}");
    Ok(groups)
}

/// The groups that a question wants, as [`grouped`] tells them.
fn groups(question: &str, wanted: &[Group]) -> Result<Groups> {
    let (_, names) = question.split_once("group_by=").context("names")?;
    let group = |(values, quantity, events): &Group| {
        let group: BTreeMap<&str, _> = names.split(',').zip(*values).collect();
        (json!(group).to_string(), (json!(quantity.to_string()), json!(events)))
    };
    Ok(wanted.iter().map(group).collect())
}
