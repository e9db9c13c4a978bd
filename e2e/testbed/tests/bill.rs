//! What the images say about their parts: every crate of the program, with its checksum and licence.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use std::collections::BTreeSet;
use std::process::Command;

use layra_testbed::{Bill, SECTION, cargo};
use serde_json::Value;

/// The crates of a package, as another command of cargo lists them: name and version.
async fn tree(package: &str) -> BTreeSet<(String, String)> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--prefix", "none", "--format", "{p}"]);
    command.args([
        "--target",
        "x86_64-unknown-linux-gnu",
        "--edges",
        "normal,build",
    ]);
    let output = command.args(["--package", package]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let crates = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some((name.to_owned(), version.to_owned()))
    });
    crates.collect()
}

fn names(components: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names = components.iter();
    let names = names.map(|of| (text(&of["name"]), text(&of["version"])));
    names.collect()
}

#[tokio::test]
async fn the_bill_of_materials_names_every_crate_of_the_program() {
    for package in ["layra-operator", "layra-worker", "layra-cli"] {
        let bill = Bill::of(package, "").await.unwrap();
        let sbom: Value = serde_json::from_str(&bill.sbom().unwrap()).unwrap();
        assert_eq!(sbom["metadata"]["component"]["name"], package);
        let components = sbom["components"].as_array().unwrap();
        let mut listed = names(components);
        listed.extend(names(&[sbom["metadata"]["component"].clone()]));
        let expected = tree(package).await;
        assert!(expected.len() > 50, "{package}: {}", expected.len());
        let missing: Vec<_> = expected.difference(&listed).collect();
        assert!(missing.is_empty(), "{package}: {missing:?}");
        for component in components {
            let is_ours = component["purl"].is_null();
            let starts = component["name"].as_str().unwrap().starts_with("layra-");
            assert_eq!(is_ours, starts, "{component}");
            assert_eq!(
                component["hashes"][0]["content"].is_null(),
                is_ours,
                "{component}"
            );
        }
        let same = Bill::of(package, "").await.unwrap();
        assert_eq!(same.sbom().unwrap(), bill.sbom().unwrap());
    }
}

#[tokio::test]
async fn a_program_has_the_licence_of_every_crate_in_it() {
    let bill = Bill::of("layra-worker", "").await.unwrap();
    let licences = bill.licences().unwrap();
    for (name, text) in [
        ("tokio", "MIT License"),
        // Libraries in C come with crates.
        ("rdkafka-sys", "librdkafka"),
        ("openssl-src", "Apache License"),
    ] {
        let (_, version) = bill.crates().find(|(of, _)| *of == name).unwrap();
        let title = format!("\n{name} {version}\n");
        assert!(licences.contains(&title), "{name}");
        assert!(licences.contains(text), "{text}");
    }
    assert!(
        !licences.contains("\nclap_derive "),
        "it is only for the build"
    );
}

#[tokio::test]
async fn readers_of_cargo_auditable_find_the_crates_in_a_binary() {
    let bill = Bill::of("layra-operator", "").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (section, binary) = (folder.path().join("section"), folder.path().join("binary"));
    std::fs::write(&section, bill.section().unwrap()).unwrap();
    let add = format!("--add-section={SECTION}={}", section.display());
    let copied = Command::new("objcopy")
        .args([add.as_str(), "--strip-all", "/bin/true"])
        .arg(&binary)
        .status();
    assert!(copied.unwrap().success());
    let info = auditable_info::audit_info_from_file(&binary, auditable_info::Limits::default());
    let info = info.unwrap();
    let root = info.packages.iter().find(|package| package.root).unwrap();
    assert_eq!(root.name, "layra-operator");
    let found = info.packages.iter();
    let found: BTreeSet<_> = found
        .map(|of| (of.name.clone(), of.version.to_string()))
        .collect();
    let expected = bill
        .crates()
        .map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(found, expected.collect());
}
