//! What the images say about their parts, read in a running container.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use auditable_info::{Limits, audit_info_from_file};
use layra_testbed::{LICENCES, SBOM};
use serde_json::Value;

use crate::scene::on_stage;

/// The names in a list of components.
fn names(components: &Value) -> BTreeSet<String> {
    let components = components.as_array().into_iter().flatten();
    let names = components.filter_map(|of| of["name"].as_str());
    names.map(str::to_owned).collect()
}

/// Checks the image that a process of this machine runs from: the binary lists its crates, and the
/// bill of materials names all of them and `others`.
pub fn check(pid: u32, program: &str, others: &[&str]) -> Result<()> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let crates = audit_info_from_file(&process.join("exe"), Limits::default())
        .with_context(|| format!("the crates in {program}"))?;
    let doc = process.join("root/usr/share/doc");
    let sbom = fs::read(doc.join(program).join(SBOM)).context("the bill of materials")?;
    let sbom: Value = serde_json::from_slice(&sbom)?;
    ensure!(sbom["metadata"]["component"]["name"] == program, "{sbom}");
    let listed = names(&sbom["components"]);
    for package in &crates.packages {
        let is_listed = package.root || listed.contains(&package.name);
        ensure!(is_listed, "{} is not listed", package.name);
    }
    for other in others {
        ensure!(listed.contains(*other), "{other} is not listed");
    }
    let licences = fs::read_to_string(doc.join(program).join(LICENCES))?;
    ensure!(licences.contains("MIT License"), "no licence");
    ensure!(doc.join(program).join("LICENSE").exists(), "no LICENSE");
    Ok(())
}

#[tokio::test]
async fn the_operators_image_says_what_it_is_made_of() -> Result<()> {
    on_stage("parts", async |stage| {
        // On a cluster elsewhere it cannot be looked into.
        match stage.scene.operator_process().await? {
            Some(pid) => check(pid, "layra-operator", &["zlib1g"]),
            None => Ok(()),
        }
    })
    .await
}
