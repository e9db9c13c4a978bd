//! Every dependency has a licence that `deny.toml` allows, and none that it bans is there.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

#[derive(Deserialize)]
struct Deny {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
    clarify: Vec<Clarified>,
}

#[derive(Deserialize)]
struct Clarified {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

#[test]
fn every_licence_is_allowed_and_nothing_banned_is_used() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deny: Deny = toml::from_str(&std::fs::read_to_string(root.join("deny.toml"))?)?;
    let allowed: Vec<Expression> = deny
        .licenses
        .allow
        .iter()
        .map(|licence| Expression::parse(licence))
        .collect::<Result<_, _>>()?;
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(&root)
        .output()?;
    ensure!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&metadata.stdout)?;
    ensure!(metadata.packages.len() > 100, "cargo metadata is short");

    let mut refused = Vec::new();
    for package in metadata.packages {
        ensure!(
            !deny
                .bans
                .deny
                .iter()
                .any(|banned| banned.name == package.name),
            "{} is banned in deny.toml",
            package.name
        );
        let clarified = deny
            .licenses
            .clarify
            .iter()
            .find(|clarified| clarified.name == package.name);
        let licence = clarified
            .map(|clarified| clarified.expression.clone())
            .or(package.license)
            .with_context(|| format!("{} names no licence", package.name))?;
        let expression = Expression::parse_mode(&licence, ParseMode::LAX)
            .with_context(|| format!("{}: {licence}", package.name))?;
        let fine = expression.evaluate(|required| {
            allowed
                .iter()
                .any(|one| one.requirements().any(|allowed| allowed.req == *required))
        });
        if !fine {
            refused.push(format!("{} {}: {licence}", package.name, package.version));
        }
    }
    ensure!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
    Ok(())
}
