//! The licences of all crates in a program, each text once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use spdx::{Expression, ParseMode};

use super::Crate;

/// How deep in a crate licences are looked for: some contain a library in C with its own.
const DEPTH: usize = 3;
/// Starts of the names of files with licences and notices.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];
/// Folders that are not part of what is compiled.
const SKIPPED: [&str; 7] = [
    "tests", "test", "examples", "benches", "doc", "docs", "fuzz",
];
const LINE: &str = "==========================================================================";

pub(super) fn write(crates: &[Crate]) -> Result<String> {
    let (root, others) = crates.split_first().context("no crate")?;
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let shipped = others
        .iter()
        .filter(|of| of.is_published && !of.is_for_build);
    for of in shipped {
        let title = format!("{} {}", of.name, of.version);
        let texts = texts(of).with_context(|| title.clone())?;
        ensure!(!texts.is_empty(), "{title} has no licence");
        for text in texts {
            let crates = by_text.entry(text).or_default();
            if crates.last() != Some(&title) {
                crates.push(title.clone());
            }
        }
    }
    let mut parts: Vec<(Vec<String>, String)> =
        by_text.into_iter().map(|(text, of)| (of, text)).collect();
    parts.sort();
    let mut all = format!(
        "Crates in {} {}, with their licences and notices. {} of others that are only used to \
         compile it are not listed.\n",
        root.name,
        root.version,
        others.iter().filter(|of| of.is_for_build).count()
    );
    for (crates, text) in parts {
        write!(all, "\n{LINE}\n{}\n{LINE}\n\n{text}\n", crates.join("\n"))?;
    }
    Ok(all)
}

/// The licences and notices of a crate: the files that it has, else the texts of its expression.
fn texts(of: &Crate) -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect(&of.folder, DEPTH, &mut found)?;
    if found.is_empty() {
        let expression = of
            .licence
            .as_deref()
            .context("neither file nor expression")?;
        let expression = Expression::parse_mode(expression, ParseMode::LAX)?;
        for one in expression.requirements() {
            let id = one.req.license.id();
            let id = id.with_context(|| format!("{} is not known", one.req))?;
            found.push(tidy(id.text()));
        }
    }
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if depth > 1 && !SKIPPED.contains(&name.as_ref()) {
                collect(&path, depth - 1, found)?;
            }
        } else if is_licence(&name) {
            found.push(tidy(&String::from_utf8_lossy(&fs::read(&path)?)));
        }
    }
    Ok(())
}

/// Whether this is the name of a licence, and not of a program about licences.
fn is_licence(name: &str) -> bool {
    let upper = name.to_uppercase();
    let is_text = match upper.rsplit_once('.') {
        Some((_, ending)) => !["RS", "C", "H", "PY", "SH", "TOML", "JSON"].contains(&ending),
        None => true,
    };
    is_text && NAMES.iter().any(|start| upper.starts_with(start))
}

/// Without differences that nobody sees, so that a text is listed once.
fn tidy(text: &str) -> String {
    let lines = text.lines().map(str::trim_end);
    let lines: Vec<&str> = lines.collect();
    lines.join("\n").trim_matches('\n').to_owned()
}
