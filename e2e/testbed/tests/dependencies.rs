//! Checks which dependencies a crate must not have, directly or indirectly. This guards the
//! statements of `docs/architecture.md` about the crates.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use layra_testbed::Metadata;

/// Packages of the workspace, each with forbidden dependencies.
const FORBIDDEN: [(&str, &[&str]); 11] = [
    // The aliases compile this crate before anything else happens: it must stay small.
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
    // The scaling decision is computed without any I/O.
    ("layra-autoscaler", CLIENTS),
    ("layra-simulator", CLIENTS),
    // The kubectl plugin is small, and nothing of it is in the operator's image.
    ("layra-cli", STORES),
    ("layra-operator", &["layra-simulator"]),
    // Pages are rendered and embedded without a server.
    ("layra-rendering", SERVERS),
    ("layra-embedding", SERVERS),
    ("layra-embedding", &["tokio"]),
    // A first look compiles soon, and needs no server.
    ("layra-try", SERVERS),
    ("layra-try", &["layra-crds", "reqwest", "rustls"]),
    ("layra-search", &["tokio", "serde", "candle-core"]),
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

#[tokio::test]
async fn no_crate_depends_on_what_it_must_not_use() -> Result<()> {
    let metadata = Metadata::with_dependencies().await?;
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    for (package, forbidden) in FORBIDDEN {
        let found: Vec<&str> = all_dependencies(&metadata, package)?
            .iter()
            .map(|id| names[id])
            .filter(|name| forbidden.contains(name))
            .collect();
        ensure!(found.is_empty(), "{package} depends on {found:?}");
    }
    Ok(())
}

/// Ids of a package and of everything that it is compiled with, except for tests and build scripts.
fn all_dependencies<'a>(metadata: &'a Metadata, package: &str) -> Result<BTreeSet<&'a str>> {
    let graph = metadata.resolve.as_ref().context("a dependency graph")?;
    let start = metadata
        .packages
        .iter()
        .find(|candidate| candidate.name == package)
        .with_context(|| format!("there is no package {package}"))?;
    let mut found = BTreeSet::new();
    let mut next = vec![start.id.as_str()];
    while let Some(id) = next.pop() {
        if found.insert(id) {
            next.extend(graph.normal_dependencies(id));
        }
    }
    Ok(found)
}
