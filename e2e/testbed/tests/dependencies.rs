//! What a crate cannot name, because nothing that it depends on brings it: sentences about the
//! architecture that hold as long as this passes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Packages of the workspace, and what must not be among all that they are compiled with.
const NEVER: [(&str, &[&str]); 8] = [
    // What the aliases compile before anything else happens is small.
    (
        "layra-testbed",
        &[
            "k8s-openapi",
            "kube",
            "milvus-sdk-rust",
            "mongodb",
            "object_store",
            "rdkafka",
            "redis",
            "reqwest",
            "rustls",
        ],
    ),
    // How many workers there should be is decided without looking anywhere.
    ("layra-autoscaler", CLIENTS),
    ("layra-simulator", CLIENTS),
    // People's tools are small, and none of them is in the operator's image.
    ("layra-cli", STORES),
    ("layra-operator", &["layra-simulator"]),
    // Pages are drawn and embedded without a server.
    ("layra-rendering", SERVERS),
    ("layra-embedding", SERVERS),
    ("layra-embedding", &["tokio"]),
];
const CLIENTS: &[&str] = &["k8s-openapi", "kube", "rdkafka", "tokio"];
const STORES: &[&str] = &[
    "milvus-sdk-rust",
    "mongodb",
    "object_store",
    "rdkafka",
    "redis",
    "reqwest",
];
const SERVERS: &[&str] = &[
    "k8s-openapi",
    "kube",
    "milvus-sdk-rust",
    "mongodb",
    "object_store",
    "rdkafka",
    "redis",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

#[test]
fn no_crate_brings_what_another_must_not_name() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    for (package, never) in NEVER {
        let reached = reached(&metadata, package)?;
        let found: Vec<&str> = reached
            .iter()
            .map(|id| names[id])
            .filter(|name| never.contains(name))
            .collect();
        ensure!(found.is_empty(), "{package} is compiled with {found:?}");
    }
    Ok(())
}

/// Everything that a package is compiled with, its tests and build scripts apart.
fn reached<'a>(metadata: &'a Metadata, package: &str) -> Result<BTreeSet<&'a str>> {
    let start = metadata
        .packages
        .iter()
        .find(|candidate| candidate.name == package)
        .with_context(|| format!("there is no package {package}"))?;
    let mut reached = BTreeSet::new();
    let mut next = vec![start.id.as_str()];
    while let Some(id) = next.pop() {
        if !reached.insert(id) {
            continue;
        }
        let nodes = metadata.resolve.nodes.iter();
        let dependencies = nodes
            .filter(|node| node.id == id)
            .flat_map(|node| &node.deps);
        let normal = dependencies.filter(|dependency| {
            let mut kinds = dependency.dep_kinds.iter();
            kinds.any(|kind| kind.kind.is_none())
        });
        next.extend(normal.map(|dependency| dependency.pkg.as_str()));
    }
    Ok(reached)
}
