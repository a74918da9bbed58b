//! INV-22: the first wall between tenants, from outside: every route of the OpenAPI document, every
//! place of a request that names something, every caller who may not.
//!
//! Each case asks twice: for what another has, and for what nobody has. The answers are the same but
//! for the name that was sent, so that nothing of another can be read, changed, or known to exist.
//! `isolation.rs` has the second wall, `tokens.rs` the tokens themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use axum::http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::{
    callers::{Caller, Expected, callers},
    objects::{Foreign, Objects, snapshot},
    routes::{FILTERS, Route, routes},
    world::{Answer, World},
};

#[path = "tenancy/callers.rs"]
mod callers;
#[path = "tenancy/members.rs"]
mod members;
#[path = "tenancy/objects.rs"]
mod objects;
#[path = "tenancy/routes.rs"]
mod routes;
#[allow(dead_code, reason = "this binary needs less of it than the api's own")]
#[path = "api/world.rs"]
mod world;

/// All cases together.
const CASES_MIN: usize = 2_000;

/// Whose things a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// The caller's own.
    Own,
    /// Another's.
    Theirs,
    /// Nobody's.
    Nobodys,
}

/// A request as it is sent.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    body: Option<Value>,
    /// What of it must not tell two answers apart.
    named: Vec<String>,
}

/// A place of a request that names something: the same request for theirs and for nobody's.
struct Place {
    name: String,
    /// The kind of what it names, where that is one.
    kind: String,
    theirs: Asked,
    nobodys: Asked,
}

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    /// Names in its path, in order.
    ids: Vec<String>,
    filters: Vec<String>,
    /// Members of its bodies that name something.
    members: BTreeSet<String>,
}

/// Every operation, `GET /v1/teams` and so on.
fn operations(document: &Value) -> Result<BTreeMap<String, Operation>> {
    let mut found = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().context("paths")? {
        for (method, operation) in operations.as_object().context("operations")? {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let named = |place: &str| {
                let of_place = parameters.iter().filter(|parameter| parameter["in"] == place);
                of_place.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
            };
            let ids = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
            let operation = Operation {
                method: Method::from_bytes(method.to_uppercase().as_bytes())?,
                path: path.clone(),
                ids: ids.map(str::to_owned).collect(),
                filters: named("query"),
                members: members::naming(document, operation),
            };
            found.insert(format!("{} {path}", operation.method), operation);
        }
    }
    Ok(found)
}

/// The request of an operation, in which each place names whose thing `whose` says.
struct Composer<'a> {
    operation: &'a Operation,
    route: &'a Route,
    objects: &'a Objects,
}

impl Composer<'_> {
    fn compose(
        &self,
        kinds: &[&str],
        filter: Option<(&str, &str, Named)>,
        body: Option<&str>,
        whose: &dyn Fn(&str, usize) -> Named,
    ) -> Asked {
        let mut named = Vec::new();
        let mut pick = |kind: &str, whose: Named| {
            let value = self.objects.of(kind, whose);
            named.extend((whose != Named::Own).then(|| value.clone()));
            value
        };
        let mut path = self.operation.path.clone();
        for (number, (name, kind)) in self.operation.ids.iter().zip(kinds).enumerate() {
            let value = pick(kind, whose("path", number));
            path = path.replace(&format!("{{{name}}}"), &escaped(&value));
        }
        path = format!("{path}?{}", self.route.query);
        if let Some((name, kind, whose)) = filter {
            path = format!("{path}&{}={}", escaped(name), escaped(&pick(kind, whose)));
        }
        let body = body.map(|template| {
            let mut text = String::new();
            for (number, part) in template.split('<').enumerate() {
                match part.split_once('>').filter(|_| number > 0) {
                    None => text.push_str(part),
                    Some((kind, rest)) => {
                        text.push_str(&pick(kind, whose("body", number - 1)));
                        text.push_str(rest);
                    }
                }
            }
            serde_json::from_str(&text).unwrap()
        });
        Asked { path, body, named }
    }

    /// All places of the operation. `cursor` is of their list.
    fn places(&self, kinds: &[&str], cursor: Option<&str>) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let own = |_: &str, _: usize| Named::Own;
        let first = self.route.bodies.first().map(String::as_str);
        let plain = self.compose(kinds, None, first, &own);
        let place = |name: String, kind: &str, theirs, nobodys| Place {
            name,
            kind: kind.to_owned(),
            theirs,
            nobodys,
        };
        places.push(place("nothing".into(), "", plain.clone(), plain));
        let mut sets: Vec<BTreeSet<usize>> = (0..kinds.len()).map(|one| [one].into()).collect();
        if kinds.len() > 1 {
            sets.push((0..kinds.len()).collect());
        }
        for set in sets {
            let whose = |named: Named| {
                let set = set.clone();
                move |place: &str, number: usize| {
                    if place == "path" && set.contains(&number) { named } else { Named::Own }
                }
            };
            places.push(place(
                format!("path {set:?} {kinds:?}"),
                set.first().and_then(|first| kinds.get(*first)).copied().unwrap_or_default(),
                self.compose(kinds, None, first, &whose(Named::Theirs)),
                self.compose(kinds, None, first, &whose(Named::Nobodys)),
            ));
        }
        for filter in &self.operation.filters {
            let known = FILTERS.iter().find(|(name, ..)| name == filter);
            let (_, name, kind) =
                *known.with_context(|| format!("say what the filter `{filter}` names"))?;
            if kind.is_empty() {
                continue;
            }
            let with = |named| self.compose(kinds, Some((name, kind, named)), first, &own);
            let name = format!("filter {filter}");
            places.push(place(name, kind, with(Named::Theirs), with(Named::Nobodys)));
        }
        for body in &self.route.bodies {
            for number in 0..body.matches('<').count() {
                let whose = |named: Named| {
                    move |part: &str, other: usize| {
                        if part == "body" && other == number { named } else { Named::Own }
                    }
                };
                places.push(place(
                    format!("body {body} {number}"),
                    "",
                    self.compose(kinds, None, Some(body.as_str()), &whose(Named::Theirs)),
                    self.compose(kinds, None, Some(body.as_str()), &whose(Named::Nobodys)),
                ));
            }
        }
        if let Some(cursor) = cursor {
            let mut theirs = self.compose(kinds, None, first, &own);
            theirs.path = format!("{}&cursor={cursor}", theirs.path);
            let nobodys = self.compose(kinds, None, first, &own);
            places.push(place("cursor".into(), "", theirs, nobodys));
        }
        Ok(places)
    }
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |escaped, byte| {
        if plain(byte) {
            format!("{escaped}{}", char::from(byte))
        } else {
            format!("{escaped}%{byte:02X}")
        }
    })
}

/// An answer without what differs from request to request.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Told {
    fn of(answer: &Answer, asked: &Asked) -> Told {
        let mut body = answer.body.clone();
        if let Some(body) = body.as_object_mut() {
            body.remove("request_id");
            body.remove("as_of");
            // A preview looks back from now.
            if let Some(affected) = body.get_mut("affected").and_then(Value::as_object_mut) {
                affected.remove("from");
            }
            // What is counted goes on by itself, once a second.
            let items = body.get_mut("items").and_then(Value::as_array_mut);
            for quota in items.into_iter().flatten().filter_map(Value::as_object_mut) {
                if quota.remove("used").is_some() {
                    quota.remove("remaining");
                }
            }
        }
        // What was made has an id, a time and a version of its own: only its form is compared.
        let made = answer.status.is_success() && asked.body.is_some();
        let body = match &body {
            Value::Object(members) if made => format!("{:?}", members.keys().collect::<Vec<_>>()),
            Value::Null => answer.text.clone(),
            body => body.to_string(),
        };
        let headers = headers(&answer.headers).into_iter();
        Told {
            status: answer.status.as_u16(),
            headers: headers.map(|(name, value)| (name, unnamed(&value, asked))).collect(),
            body: unnamed(&body, asked),
        }
    }
}

fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let own = ["x-request-id", "date", "content-length"];
    headers
        .iter()
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect()
}

/// The text without the names that were sent.
fn unnamed(text: &str, asked: &Asked) -> String {
    asked.named.iter().fold(text.to_owned(), |text, name| text.replace(name, "NAMED"))
}

/// What a case came to: its fault, if it has one.
async fn look(
    world: &World,
    operation: &Operation,
    caller: &Caller,
    place: &Place,
    objects: &Objects,
) -> Result<Option<String>> {
    let ask = async |asked: &Asked| {
        let body = asked.body.clone();
        let headers: Vec<(&str, &str)> =
            caller.header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let method = operation.method.clone();
        let answer = world.send(method, &asked.path, &caller.credential(), &headers, body).await?;
        Ok::<_, anyhow::Error>((Told::of(&answer, asked), answer.body["code"].clone()))
    };
    let (theirs, code) = ask(&place.theirs).await?;
    let (nobodys, _) = ask(&place.nobodys).await?;
    let fault = |what: &str| Ok(Some(format!("{what}: {theirs:?} and for nobody's {nobodys:?}")));
    // A cursor is a place of the caller's own list, so its page is another one.
    if theirs != nobodys && (place.name != "cursor" || theirs.status >= 400) {
        return fault("what exists is told apart");
    }
    if theirs.status >= 500 {
        return fault("it failed");
    }
    match caller.expected {
        Expected::Dead if theirs.status != 401 => return fault("it was let in"),
        Expected::NoScope if theirs.status != 403 || code != "scope_missing" => {
            return fault("it needs no scope");
        }
        _ => {}
    }
    if let Some(secret) = objects.told_by(&theirs.body, caller.foreign) {
        return fault(&format!("it tells `{secret}`"));
    }
    Ok(None)
}

/// The cursor of the second page of another's list.
async fn their_cursor(world: &World, composer: &Composer<'_>, kinds: &[&str]) -> Result<String> {
    let theirs = composer.compose(kinds, None, None, &|_, _| Named::Theirs);
    let page = world.get(&format!("{}&limit=1", theirs.path)).await?.expect(200)?;
    let page = if page["next_cursor"].is_null() { nested(&page) } else { page };
    let cursor = page["next_cursor"].as_str();
    Ok(cursor.with_context(|| format!("{} has one page: {page}", theirs.path))?.to_owned())
}

/// The page within an answer that has one.
fn nested(answer: &Value) -> Value {
    let members = answer.as_object().into_iter().flat_map(serde_json::Map::values);
    members
        .into_iter()
        .find(|member| member["next_cursor"].is_string())
        .cloned()
        .unwrap_or(json!({}))
}

/// Whether a case is one of its caller: some would only do what they may. A token of one team
/// shares apps, sources and meters with the other teams of its tenant.
fn is_asked(operation: &Operation, caller: &Caller, place: &Place) -> bool {
    if caller.expected != Expected::Nothing {
        return true;
    }
    let shared = ["app", "source", "event_type", "event_id", "meter", "feature", "model"];
    if caller.foreign == Foreign::Team && shared.contains(&place.kind.as_str()) {
        return false;
    }
    operation.method == Method::GET || place.name != "nothing"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reaches_what_is_not_theirs_by_any_route() -> Result<()> {
    let world = World::all().await?;
    let objects = Objects::make(&world).await?;
    let callers = callers(&world, &objects).await?;
    // As the last look of the task that decides about aliases would have it, and not in the middle.
    sqlx::query("UPDATE team_aliases SET waiting = false, effective_at = clock_timestamp()")
        .execute(&world.admin)
        .await?;
    let before = snapshot(&world, &objects).await?;
    let operations = operations(&world.document)?;
    let (mut routes, mut faults, mut cases) = (routes(), Vec::new(), 0);
    for name in operations.keys() {
        if !routes.iter().any(|route| route.operation == name) {
            faults.push(format!("{name} is not in the matrix: say what its places name"));
        }
    }
    // Who changed what is asked first, before a caller has named things of others in changes of its
    // own; and what reports usage or buys credits makes teams, which others would then see as their
    // own.
    routes.sort_by_key(|route| match (route.scope, route.operation) {
        ("audit:read", _) => 0,
        ("events:write", _) | (_, "POST /v1/credits/purchase") => 2,
        _ => 1,
    });
    let mut by_caller: BTreeMap<&str, usize> = BTreeMap::new();
    for route in &routes {
        let Some(operation) = operations.get(route.operation) else {
            faults.push(format!("{} is not in the document", route.operation));
            continue;
        };
        ensure!(route.ids.len() == operation.ids.len(), "{}: its path", route.operation);
        for member in members::uncovered(&operation.members, &route.bodies) {
            faults.push(format!("{}: no body names a `{member}`", route.operation));
        }
        let variants = route.ids.iter().map(|kinds| kinds.split('|').count()).max().unwrap_or(1);
        for variant in 0..variants {
            let kinds: Vec<&str> = route
                .ids
                .iter()
                .copied()
                .map(|kinds| kinds.split('|').nth(variant).unwrap_or(kinds))
                .collect();
            let composer = Composer { operation, route, objects: &objects };
            let paged = operation.filters.iter().any(|filter| filter == "cursor");
            let cursor =
                if paged { Some(their_cursor(&world, &composer, &kinds).await?) } else { None };
            for place in composer.places(&kinds, cursor.as_deref())? {
                for caller in callers.iter().filter(|caller| caller.scope != Some(route.scope)) {
                    if !is_asked(operation, caller, &place) {
                        continue;
                    }
                    cases += 1;
                    *by_caller.entry(caller.name).or_default() += 1;
                    let fault = look(&world, operation, caller, &place, &objects).await?;
                    let name = format!("{} as {}, {}", route.operation, caller.name, place.name);
                    faults.extend(fault.map(|fault| format!("{name}: {fault}")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {cases}:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(snapshot(&world, &objects).await?, before, "nothing of theirs has changed");
    println!("{cases} cases of {} operations: {by_caller:?}", operations.len());
    assert!(cases >= CASES_MIN, "{cases} cases");
    world.stop().await
}
