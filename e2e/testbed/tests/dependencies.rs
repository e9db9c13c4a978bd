//! Checks which dependencies a crate must not have, directly or indirectly. This guards the
//! statements of `docs/architecture.md` about the crates.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

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

/// With a feature more in the tests than in the images, everything above a shared dependency would be
/// compiled twice. A dependency of tests that asks for one is listed under `[dependencies]` of
/// `layra-e2e` or `layra-charts`, which no image contains.
#[test]
fn shared_dependencies_have_the_same_features_in_tests_and_images() -> Result<()> {
    let images = features("normal,build")?;
    let tests = features("normal,build,dev")?;
    let others: Vec<&String> = images.difference(&tests).collect();
    ensure!(others.is_empty(), "other features in tests: {others:?}");
    Ok(())
}

/// Each crate of the workspace's tree with its features.
fn features(edges: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--offline"])
        .args(["--prefix", "none", "--format", "{p} {f}", "--edges", edges])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo tree: {errors}");
    let listed = String::from_utf8(output.stdout)?;
    // A crate that was listed before is marked.
    let crates = listed.lines().map(|line| line.trim_end_matches(" (*)"));
    Ok(crates.map(str::to_owned).collect())
}
