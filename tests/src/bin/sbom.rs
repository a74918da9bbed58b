//! Prints what `weir` is made of, as CycloneDX has it: every package of another that is built into
//! the program, with its version, licence and checksum, and what it depends on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// The platform of the released program.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", PLATFORM])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document =
        document(&serde_json::from_slice(&output.stdout)?, include_str!("../../../Cargo.lock"))?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    Ok(())
}

/// Packages that `weir` is built from: those that its own reach by other than tests' dependencies.
fn reached(nodes: &BTreeMap<&str, &Value>, root: &str) -> BTreeSet<String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(id.as_str()).filter(|_| reached.insert(id.clone())) else {
            continue;
        };
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array();
            if kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev")) {
                open.extend(dependency["pkg"].as_str().map(str::to_owned));
            }
        }
    }
    reached
}

/// SHA-256 of each package from a registry, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")))?;
        Some(line.trim_matches('"').to_owned())
    };
    let package =
        |text| Some(((field(text, "name")?, field(text, "version")?), field(text, "checksum")?));
    packages.filter_map(package).collect()
}

fn document(metadata: &Value, lock: &str) -> Result<Value> {
    let packages = metadata["packages"].as_array().context("packages")?;
    let id = |package: &Value| package["id"].as_str().unwrap_or_default().to_owned();
    let weir = packages.iter().find(|one| one["name"] == "cli").context("the program")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("what depends on what")?;
    let nodes = nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let (reached, checksums) = (reached(&nodes, &id(weir)), checksums(lock));
    let purl = |one: &Value| {
        let text = |name: &str| one[name].as_str().unwrap_or_default();
        format!("pkg:cargo/{}@{}", text("name"), text("version"))
    };
    let purls: BTreeMap<String, String> = packages.iter().map(|one| (id(one), purl(one))).collect();
    let (mut components, mut dependencies) = (Vec::new(), Vec::new());
    for package in packages.iter().filter(|one| reached.contains(&id(one))) {
        let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let on = nodes.get(id(package).as_str()).and_then(|node| node["dependencies"].as_array());
        let on = on.into_iter().flatten().filter_map(Value::as_str);
        let on = on.filter(|id| reached.contains(*id)).filter_map(|id| purls.get(id));
        dependencies.push(json!({"ref": purl(package), "dependsOn": on.collect::<Vec<_>>()}));
        if package["source"].is_null() {
            continue;
        }
        let checksum = checksums.get(&(text("name"), text("version")));
        let checksum = checksum.with_context(|| format!("{} has no checksum", purl(package)))?;
        components.push(json!({
            "type": "library", "bom-ref": purl(package), "purl": purl(package),
            "name": text("name"), "version": text("version"),
            "licenses": [{"expression": text("license").replace('/', " OR ")}],
            "hashes": [{"alg": "SHA-256", "content": checksum}],
        }));
    }
    ensure!(components.len() > 100, "only {} packages", components.len());
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": purl(weir), "name": "weir", "version": weir["version"],
            "licenses": [{"expression": "Apache-2.0"}]}},
        "components": components, "dependencies": dependencies,
    }))
}
