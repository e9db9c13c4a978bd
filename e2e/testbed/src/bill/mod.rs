//! What an image says about its own parts: a software bill of materials, the licences, and the crates
//! of the binary in the binary itself.
//!
//! All of it follows from `Cargo.lock` and the sources. The same sources give the same bytes.

mod auditable;
mod cyclonedx;
mod licences;
pub(crate) mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cargo::{DependencyGraph, Metadata, Package};
use crate::settings::repository;

pub use auditable::SECTION;

/// Name of the bill of materials, as scanners look for it.
pub const SBOM: &str = "sbom.cdx.json";
/// Name of the licences of all parts.
pub const LICENCES: &str = "THIRD-PARTY-LICENCES.txt";

/// The crates of a program.
#[derive(Debug)]
pub struct Bill {
    /// The program's own crate first, then the others by name and version.
    crates: Vec<Crate>,
    /// What else is in the image, but for its base.
    parts: Vec<Part>,
}

/// A library or a font in an image, which is no crate.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Where it comes from, without the version, for example `pkg:deb/debian/zlib1g`.
    pub origin: String,
    /// Whether some of the images with the program lack it.
    pub is_optional: bool,
}

/// A crate of a program.
#[derive(Debug)]
struct Crate {
    name: String,
    version: String,
    licence: Option<String>,
    /// Whether it comes from the registry, and not from this repository.
    is_published: bool,
    /// SHA-256 of what the registry has, from `Cargo.lock`.
    checksum: Option<String>,
    /// Whether it takes part in the build only, as macros and build scripts do.
    is_for_build: bool,
    /// Positions of its dependencies in the list.
    dependencies: Vec<usize>,
    folder: PathBuf,
}

impl Bill {
    /// Reads the crates of a package of the workspace, which is built with more `features` than the
    /// default ones.
    pub async fn of(package: &str, features: &str) -> Result<Self> {
        let metadata = Metadata::with_features(features).await?;
        let lock = fs::read_to_string(repository().join("Cargo.lock"))?;
        let graph = metadata.resolve.as_ref().context("cargo metadata")?;
        let packages = metadata.packages.iter();
        let packages: BTreeMap<&str, &Package> = packages.map(|of| (of.id.as_str(), of)).collect();
        let mut roots = packages.values().copied().filter(|of| of.name == package);
        let root = roots
            .next()
            .with_context(|| format!("no crate {package}"))?;
        let in_program = reached(root, &packages, |of| {
            let normal = graph.normal_dependencies(&of.id);
            normal.filter(|id| !packages[id].is_proc_macro()).collect()
        });
        let all = reached(root, &packages, |of| dependencies(graph, of));
        let mut ids: Vec<&str> = all.into_iter().collect();
        ids.sort_by_key(|id| (*id != root.id, &packages[id].name, &packages[id].version));
        let position = |id: &str| ids.iter().position(|other| *other == id);
        let checksums = checksums(&lock);
        let crates = ids.iter().map(|id| {
            let of = packages[id];
            let folder = of.manifest_path.parent().context("a folder")?;
            let key = (of.name.as_str(), of.version.as_str());
            // The sources of a library in C, which the build script of another crate compiles.
            let has_library = of.name.ends_with("-src");
            let mut dependencies: Vec<usize> = dependencies(graph, of)
                .into_iter()
                .filter_map(position)
                .collect();
            dependencies.sort_unstable();
            dependencies.dedup();
            Ok(Crate {
                name: of.name.clone(),
                version: of.version.clone(),
                licence: of.license.clone(),
                is_published: of.source.is_some(),
                checksum: checksums.get(&key).map(|&checksum| checksum.to_owned()),
                is_for_build: !in_program.contains(id) && !has_library,
                dependencies,
                folder: folder.to_owned(),
            })
        });
        Ok(Self {
            crates: crates.collect::<Result<_>>()?,
            parts: Vec::new(),
        })
    }

    /// The same, with what else is in the image.
    #[must_use]
    pub fn with(self, parts: Vec<Part>) -> Self {
        Self { parts, ..self }
    }

    /// The bill of materials in the format `CycloneDX` 1.5, as JSON.
    pub fn sbom(&self) -> Result<String> {
        cyclonedx::write(&self.crates, &self.parts)
    }

    /// The licences of all crates in the program.
    pub fn licences(&self) -> Result<String> {
        licences::write(&self.crates)
    }

    /// The content of [`SECTION`], which `cargo auditable` and scanners read.
    pub fn section(&self) -> Result<Vec<u8>> {
        auditable::write(&self.crates)
    }

    /// Name and version of each crate, the program's own first.
    pub fn crates(&self) -> impl Iterator<Item = (&str, &str)> {
        let crates = self.crates.iter();
        crates.map(|of| (of.name.as_str(), of.version.as_str()))
    }

    /// Writes what the image of a program carries into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(SBOM), self.sbom()?)?;
        fs::write(folder.join(LICENCES), self.licences()?)?;
        fs::copy(repository().join("LICENSE"), folder.join("LICENSE"))?;
        Ok(())
    }
}

/// What a crate needs, to be compiled and in the program.
fn dependencies<'a>(graph: &'a DependencyGraph, of: &'a Package) -> Vec<&'a str> {
    let normal = graph.normal_dependencies(&of.id);
    normal.chain(graph.build_dependencies(&of.id)).collect()
}

/// Ids of `root` and of everything that it needs, directly or not.
fn reached<'a>(
    root: &'a Package,
    packages: &BTreeMap<&'a str, &'a Package>,
    next: impl Fn(&'a Package) -> Vec<&'a str>,
) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from([root.id.as_str()]);
    let mut open = vec![root];
    while let Some(package) = open.pop() {
        for id in next(package) {
            if found.insert(id) {
                open.extend(packages.get(id));
            }
        }
    }
    found
}

/// The checksums of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let packages = lock.split("[[package]]").skip(1);
    let found = packages.filter_map(|package| {
        let value = |key: &str| {
            let mut lines = package.lines();
            let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            value.map(|value| value.trim_matches('"'))
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    });
    found.collect()
}
