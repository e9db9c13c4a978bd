//! Everything that comes from package registries: pinned by version and checksum, downloaded or
//! built once, and kept in the cache. An artifact is complete or absent, never partly there.

mod catalog;
mod packages;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

pub use catalog::{
    ALL, Artifact, BED, FILES, IMAGES, KUBECTL, MINILM, PARQUET, PDFIUM, PDFS, PROMETHEUS,
};

use super::lock::Lock;
use super::process::tail;
use super::progress::Progress;
use super::settings::{Settings, recipes};

/// The last file that is written of an artifact: the hash of its recipe.
const STAMP: &str = ".recipe";

/// Provides the artifacts that are missing, and installs the Debian packages. Downloads and
/// compilations run at the same time.
pub async fn provide(settings: &Settings, artifacts: &[Artifact]) -> Result<()> {
    provide_with(settings, artifacts, &Progress::new()).await
}

/// The same, as part of the progress of a program that does other things at the same time.
pub async fn provide_with(
    settings: &Settings,
    artifacts: &[Artifact],
    progress: &Progress,
) -> Result<()> {
    if is_complete(settings, artifacts)? {
        return Ok(());
    }
    let _lock = Lock::acquire(
        &settings.cache.join("artifacts.lock"),
        "is building artifacts",
    )
    .await?;
    let missing = missing(settings, artifacts)?;
    if !missing.is_empty() {
        progress.line(format!(
            "downloading and building once, into {}:",
            settings.cache.display()
        ));
    }
    let (compiled, fetched): (Vec<Artifact>, Vec<Artifact>) = missing
        .into_iter()
        .partition(|artifact| artifact.is_compiled);
    let compile = make_all(settings, progress, &compiled);
    let fetch = async {
        packages::install(settings, progress).await?;
        if fetched.iter().any(is_of_packages) {
            packages::update_lists(settings, progress).await?;
        }
        make_all(settings, progress, &fetched).await
    };
    // A failure of one does not stop the other: the next attempt can use its artifacts.
    let (compile, fetch) = tokio::join!(compile, fetch);
    both(fetch, compile)
}

/// Provides artifacts that are downloaded from package registries. Installs nothing: neither root
/// nor a Debian system is needed.
pub async fn fetch(settings: &Settings, artifacts: &[Artifact], progress: &Progress) -> Result<()> {
    if missing(settings, artifacts)?.is_empty() {
        return Ok(());
    }
    let lock = settings.cache.join("artifacts.lock");
    let _lock = Lock::acquire(&lock, "is building artifacts").await?;
    make_all(settings, progress, &missing(settings, artifacts)?).await
}

/// Combines two results; two errors become one.
fn both(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(first), Err(second)) => bail!("{first:#}\nand {second:#}"),
        (first, second) => first.and(second),
    }
}

/// Whether all artifacts and packages are there, so that [`provide`] has nothing to do.
pub fn is_complete(settings: &Settings, artifacts: &[Artifact]) -> Result<bool> {
    Ok(missing(settings, artifacts)?.is_empty() && packages::missing()?.is_empty())
}

fn missing(settings: &Settings, artifacts: &[Artifact]) -> Result<Vec<Artifact>> {
    let mut missing = Vec::new();
    for artifact in artifacts {
        let stamp = fs::read_to_string(artifact.path(settings).join(STAMP)).unwrap_or_default();
        if stamp != recipe_hash(artifact)? {
            missing.push(*artifact);
        }
    }
    Ok(missing)
}

/// Whether it is made from Debian packages, for which apt needs its package lists.
fn is_of_packages(artifact: &Artifact) -> bool {
    let recipe = recipes().join(artifact.name);
    recipe.join("packages.txt").exists()
}

async fn make_all(settings: &Settings, progress: &Progress, artifacts: &[Artifact]) -> Result<()> {
    for artifact in artifacts {
        progress
            .step(artifact.name, artifact.what, make(settings, artifact))
            .await?;
    }
    Ok(())
}

async fn make(settings: &Settings, artifact: &Artifact) -> Result<()> {
    let making = settings.cache.join("making").join(artifact.name);
    let (out, work) = (making.join("out"), making.join("work"));
    remove(&making)?;
    fs::create_dir_all(&out)?;
    fs::create_dir_all(&work)?;

    let log = settings
        .cache
        .join("log")
        .join(format!("{}.log", artifact.name));
    let recipe = recipes().join(artifact.name);
    let script = format!(
        ". '{}'; . '{}'",
        recipes().join("lib.sh").display(),
        recipe.join("make.sh").display()
    );
    run(
        tokio::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(&work)
            .env("OUT", &out)
            .env("RECIPE", &recipe),
        &log,
    )
    .await?;

    fs::write(out.join(STAMP), recipe_hash(artifact)?)?;
    let destination = artifact.path(settings);
    remove(&destination)?;
    fs::create_dir_all(
        destination
            .parent()
            .context("the parent directory of an artifact")?,
    )?;
    fs::rename(&out, &destination)?;
    remove(&making)?;
    link_programs(settings, artifact)
}

/// Links `bin/PROGRAM` to each program of the artifact.
fn link_programs(settings: &Settings, artifact: &Artifact) -> Result<()> {
    fs::create_dir_all(settings.cache.join("bin"))?;
    for program in artifact.programs {
        let link = settings.bin(program);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(artifact.path(settings).join(program), link)?;
    }
    Ok(())
}

/// Runs a command with its output in a log. The error shows the end of the log.
async fn run(command: &mut tokio::process::Command, log: &Path) -> Result<()> {
    fs::create_dir_all(log.parent().context("the parent directory of a log")?)?;
    let output = fs::File::create(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .status()
        .await?;
    if !status.success() {
        bail!("the log {} ends with\n{}", log.display(), tail(log, 20));
    }
    Ok(())
}

/// The hash over all files of a recipe.
fn recipe_hash(artifact: &Artifact) -> Result<String> {
    let recipes = recipes();
    let mut files = vec![recipes.join("lib.sh")];
    for entry in fs::read_dir(recipes.join(artifact.name))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_errors_are_both_reported() {
        let failure = |what: &str| Err(anyhow::anyhow!("cause").context(what.to_owned()));
        let error = both(failure("packages"), failure("etcd")).unwrap_err();
        assert_eq!(error.to_string(), "packages: cause\nand etcd: cause");
        assert_eq!(
            both(Ok(()), failure("etcd")).unwrap_err().to_string(),
            "etcd"
        );
        assert!(both(Ok(()), Ok(())).is_ok());
    }

    #[test]
    fn artifacts_from_debian_packages_are_recognised_by_their_recipe() {
        assert!(is_of_packages(&IMAGES) && is_of_packages(&PDFS));
        assert!(!is_of_packages(&PDFIUM));
    }
}
