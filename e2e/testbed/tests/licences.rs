//! Checks that `deny.toml` allows the licence of every dependency and bans none of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use layra_testbed::Metadata;
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

#[tokio::test]
async fn every_licence_is_allowed_and_no_dependency_is_banned() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deny: Deny = toml::from_str(&std::fs::read_to_string(root.join("deny.toml"))?)?;
    let allowed: Vec<Expression> = deny
        .licenses
        .allow
        .iter()
        .map(|licence| Expression::parse(licence))
        .collect::<Result<_, _>>()?;
    let metadata = Metadata::with_dependencies().await?;
    ensure!(
        metadata.packages.len() > 100,
        "cargo metadata lists too few packages"
    );

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
            .with_context(|| format!("{} has no licence", package.name))?;
        let expression = Expression::parse_mode(&licence, ParseMode::LAX)
            .with_context(|| format!("{}: {licence}", package.name))?;
        let is_allowed = expression.evaluate(|required| {
            allowed
                .iter()
                .any(|one| one.requirements().any(|allowed| allowed.req == *required))
        });
        if !is_allowed {
            refused.push(format!("{} {}: {licence}", package.name, package.version));
        }
    }
    ensure!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
    Ok(())
}
