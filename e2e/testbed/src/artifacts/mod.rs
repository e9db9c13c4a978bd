//! Everything from outside: fetched or built once from package registries, pinned by version and
//! checksum, kept in the cache. Never makes a thing twice, never leaves half a thing.

mod catalog;
mod packages;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

pub use catalog::{ALL, Artifact, BED, FILES, IMAGES, KUBECTL, MINILM, PDFIUM, PDFS};

use super::lock::Lock;
use super::process::tail;
use super::progress::Progress;
use super::settings::{Settings, recipes};

/// Written as the last file of an artifact: the hash of the recipe that made it.
const STAMP: &str = ".recipe";

/// Makes those of the artifacts that are not there yet, and installs Debian's packages. Downloads
/// go on while something is compiled.
pub async fn provide(settings: &Settings, artifacts: &[Artifact]) -> Result<()> {
    provide_with(settings, artifacts, &Progress::new()).await
}

/// The same among the steps of a program that does something else beside it.
pub async fn provide_with(
    settings: &Settings,
    artifacts: &[Artifact],
    progress: &Progress,
) -> Result<()> {
    if is_complete(settings, artifacts)? {
        return Ok(());
    }
    let _lock = Lock::acquire(&settings.cache.join("artifacts.lock"), "makes artifacts").await?;
    let missing = missing(settings, artifacts)?;
    if !missing.is_empty() {
        progress.line(format!("Into {} (once):", settings.cache.display()));
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
    // One lane's failure does not end the other: what it makes is of use for the next attempt.
    let (compile, fetch) = tokio::join!(compile, fetch);
    both(fetch, compile)
}

/// The error of either, or of both.
fn both(first: Result<()>, second: Result<()>) -> Result<()> {
    match (first, second) {
        (Err(first), Err(second)) => bail!("{first:#}\nand {second:#}"),
        (first, second) => first.and(second),
    }
}

/// Whether [`provide`] would do nothing.
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

/// Whether it is made from Debian packages, which apt must know to download them.
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
    fs::create_dir_all(destination.parent().context("an artifact has a folder")?)?;
    fs::rename(&out, &destination)?;
    remove(&making)?;
    link_programs(settings, artifact)
}

/// `bin/PROGRAM` points to the artifact's program.
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

/// Runs a command with its output in a log; shows the log's end when it fails.
async fn run(command: &mut tokio::process::Command, log: &Path) -> Result<()> {
    fs::create_dir_all(log.parent().context("a log has a folder")?)?;
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

/// The hash over everything that decides how an artifact is made.
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
    fn two_failures_are_both_told() {
        let failure = |what: &str| Err(anyhow::anyhow!("cause").context(what.to_owned()));
        let told = both(failure("packages"), failure("etcd")).unwrap_err();
        assert_eq!(told.to_string(), "packages: cause\nand etcd: cause");
        assert_eq!(
            both(Ok(()), failure("etcd")).unwrap_err().to_string(),
            "etcd"
        );
        assert!(both(Ok(()), Ok(())).is_ok());
    }

    #[test]
    fn artifacts_of_packages_are_known_by_their_recipe() {
        assert!(is_of_packages(&IMAGES) && is_of_packages(&PDFS));
        assert!(!is_of_packages(&PDFIUM));
    }
}
