//! Checks the links of `docs/guide-coverage.md`: the files, their headings and their tests exist.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use layra_testbed::settings::repository;

/// The text and the target of each link.
fn links(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let label = before.rsplit_once('[').map_or("", |(_, label)| label);
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        found.push((label, target));
        rest = after;
    }
    found
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

fn check(folder: &Path, label: &str, target: &str) -> Result<()> {
    let (path, heading) = match target.split_once('#') {
        Some((path, heading)) => (path, Some(heading)),
        None => (target, None),
    };
    let file: PathBuf = folder.join(path);
    let text = std::fs::read_to_string(&file).with_context(|| format!("{target}: no such file"))?;
    if let Some(heading) = heading {
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        ensure!(
            headings.any(|line| anchor(line) == heading),
            "{target}: no such heading"
        );
    }
    // Names of tests are code.
    if let Some(name) = label.strip_prefix('`').and_then(|it| it.strip_suffix('`'))
        && file.extension().is_some_and(|extension| extension == "rs")
    {
        ensure!(
            text.contains(&format!("fn {name}(")),
            "{target}: no test {name}"
        );
    }
    Ok(())
}

#[test]
fn every_link_of_the_coverage_of_the_guide_leads_somewhere() -> Result<()> {
    let docs = repository().join("docs");
    let text = std::fs::read_to_string(docs.join("guide-coverage.md"))?;
    let links = links(&text);
    ensure!(links.len() > 50, "found {} links", links.len());
    let wrong: Vec<String> = links
        .iter()
        .filter_map(|(label, target)| check(&docs, label, target).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_wrong_link_is_found() {
    let docs = repository().join("docs");
    for (label, target) in [
        ("x", "no-such-file.md"),
        ("x", "operations.md#no-such-heading"),
        ("`no_such_test`", "../crds/tests/rules.rs"),
    ] {
        assert!(check(&docs, label, target).is_err(), "{target}");
    }
    assert!(check(&docs, "x", "operations.md#lars-guide").is_err());
    assert!(check(&docs, "x", "operations.md#layras-operations-guide").is_ok());
}

/// Every row says what it is: one of the kinds of the introduction.
#[test]
fn every_row_has_a_kind() -> Result<()> {
    let docs = repository().join("docs");
    let text = std::fs::read_to_string(docs.join("guide-coverage.md"))?;
    let kinds = [
        "alert",
        "automatic",
        "field",
        "command",
        "metric",
        "condition",
        "check",
        "refused",
        "not ours",
        "not yet",
    ];
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let kind = row.split(" | ").nth(1).unwrap_or_default();
        let is_head = kind == "here";
        ensure!(
            is_head || kinds.iter().any(|it| kind.starts_with(it)),
            "{row}"
        );
    }
    Ok(())
}
