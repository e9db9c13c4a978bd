//! Every link of every Markdown file leads somewhere: the file, its heading, and the test that it
//! names exist. Every page of the book is in its table of contents, and every row of
//! `docs/guide-coverage.md` says what it is. Nothing is asked over a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use layra_testbed::settings::repository;

/// Folders whose Markdown is not this project's: what is built, and files that workers are tested with.
const OTHERS: [&str; 3] = ["target", "dist", "fieldfiles"];

/// The Markdown files below a folder.
fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !OTHERS.contains(&name.as_ref()) {
                found.extend(pages(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(found)
}

/// A page without its blocks of code.
fn prose(page: &str) -> String {
    let mut in_code = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !is_fence && !in_code
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The text and the target of each link.
fn links(page: &str) -> Vec<(String, String)> {
    let text = prose(page);
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("](") {
        let label = before.rsplit_once('[').map_or("", |(_, label)| label);
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        found.push((label.to_owned(), target.to_owned()));
        rest = after;
    }
    found
}

/// The anchors that GitHub gives to the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut times = BTreeMap::new();
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let numbered = headings.map(|heading| {
        let anchor = anchor(heading);
        let earlier = times.entry(anchor.clone()).or_insert(0);
        *earlier += 1;
        match *earlier {
            1 => anchor,
            again => format!("{anchor}-{}", again - 1),
        }
    });
    numbered.collect()
}

fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

/// Fails if a link of this page leads nowhere.
fn check(page: &Path, label: &str, target: &str) -> Result<()> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return Ok(());
    }
    let (path, heading) = match target.split_once('#') {
        Some((path, heading)) => (path, Some(heading)),
        None => (target, None),
    };
    let file = if path.is_empty() {
        page.to_owned()
    } else {
        page.parent().context("a folder")?.join(path)
    };
    let file = file
        .canonicalize()
        .with_context(|| format!("{target}: no such file"))?;
    let root = repository().canonicalize()?;
    ensure!(file.starts_with(root), "{target} is not in the repository");
    if let Some(heading) = heading {
        let anchors = anchors(&read_to_string(&file)?);
        ensure!(anchors.contains(heading), "{target}: no such heading");
    }
    // Names of tests are code.
    if let Some(name) = label.strip_prefix('`').and_then(|it| it.strip_suffix('`'))
        && file.extension().is_some_and(|extension| extension == "rs")
    {
        let is_there = read_to_string(&file)?.contains(&format!("fn {name}("));
        ensure!(is_there, "{target}: no test {name}");
    }
    Ok(())
}

#[test]
fn every_link_of_every_page_leads_somewhere() -> Result<()> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages(repository())? {
        for (label, target) in links(&read_to_string(&page)?) {
            count += 1;
            if let Err(error) = check(&page, &label, &target) {
                wrong.push(format!("{}: {error:#}", page.display()));
            }
        }
    }
    ensure!(count > 500, "found {count} links");
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_wrong_link_is_found() {
    let page = repository().join("docs/guide-coverage.md");
    for (label, target) in [
        ("x", "no-such-file.md"),
        ("x", "alerts.md#no-such-heading"),
        ("x", "#no-such-heading"),
        ("x", "../../../../../../../../../etc/passwd"),
        ("`no_such_test`", "../crds/tests/rules.rs"),
    ] {
        assert!(check(&page, label, target).is_err(), "{target}");
    }
    assert!(check(&page, "x", "connections.md#kafkas-secret").is_ok());
    assert!(check(&page, "x", "#quick-wins").is_ok());
}

#[test]
fn headings_have_the_anchors_of_github_and_code_has_none() {
    let page = "# A b: `c`\n```\n# no heading\n[x](y)\n```\n## D-e\n## D-e\n[f](g#h)";
    let anchors: Vec<String> = anchors(page).into_iter().collect();
    assert_eq!(anchors, ["a-b-c", "d-e", "d-e-1"]);
    assert_eq!(links(page), [("f".to_owned(), "g#h".to_owned())]);
}

/// Each folder of the book that has a table of contents lists its pages there.
#[test]
fn every_page_is_in_the_table_of_contents() -> Result<()> {
    for folder in ["docs", "docs/decisions", "docs/runbooks"] {
        let folder = repository().join(folder);
        let contents = links(&read_to_string(folder.join("README.md"))?);
        for page in pages(&folder)? {
            if page.parent() == Some(folder.as_path()) && !page.ends_with("README.md") {
                let name = page.file_name().unwrap_or_default().to_string_lossy();
                let is_listed = contents.iter().any(|(_, target)| *target == name);
                ensure!(is_listed, "{}/README.md lacks {name}", folder.display());
            }
        }
    }
    Ok(())
}

/// Every row says what it is, one of the kinds of the introduction, and where that is shown.
#[test]
fn every_row_of_the_coverage_has_a_kind_and_a_proof() -> Result<()> {
    let text = read_to_string(repository().join("docs/guide-coverage.md"))?;
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
    let rows = text.lines().filter(|line| line.starts_with("| "));
    for row in rows.filter(|row| !row.starts_with("| the guide asks for |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, kind, proof] = cells[..] else {
            anyhow::bail!("{row} has {} cells", cells.len());
        };
        ensure!(kinds.iter().any(|it| kind.starts_with(it)), "{row}");
        ensure!(!proof.is_empty(), "{row}");
    }
    Ok(())
}
