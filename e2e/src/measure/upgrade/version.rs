//! A version of the product: its charts and its images. That of before is built from the repository.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use layra_testbed::settings::repository;
use layra_testbed::{Images, Testbed, cargo, target_directory};
use tokio::process::Command;

use crate::cluster::Scene;

/// The version before, as long as there is no release: the main branch before the changes of
/// 2026-11-28 that are described in the changelog.
const VERSION_BEFORE: &str = "048dd142fd9eeecdb01b39d1f939da9a13cf87dd";

/// Charts and images that belong together.
pub(super) struct Version {
    /// A tag, or a commit.
    pub(super) name: String,
    charts: PathBuf,
    pub(super) images: Images,
}

impl Version {
    /// The version of the working tree.
    pub(super) async fn present(testbed: &Testbed) -> Result<Self> {
        Ok(Self {
            name: git(&["describe", "--always", "--dirty", "--tags"]).await?,
            charts: repository().join("charts"),
            images: testbed.images().await?,
        })
    }

    /// The version at a revision: by default the newest release before the present commit, else
    /// [`VERSION_BEFORE`]. Its own tool builds the images and imports them into the test-bed.
    pub(super) async fn before(testbed: &Testbed, revision: Option<&str>) -> Result<Self> {
        ensure!(
            !testbed.is_external(),
            "images of the version before cannot be imported into your own servers"
        );
        let released = git(&["describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"]).await;
        let name = match (revision, released) {
            (Some(revision), _) => revision.to_owned(),
            (None, Ok(tag)) => tag,
            (None, Err(_)) => VERSION_BEFORE.to_owned(),
        };
        let commit = git(&["rev-parse", "--verify", &format!("{name}^{{commit}}")])
            .await
            .with_context(|| format!("this clone does not have {name}: fetch it"))?;
        let folder = target_directory().await?.join("version-before");
        let source = exported(&folder, &commit).await?;
        println!(
            "building the version before, {name}: the first time takes as long as a release build"
        );
        let images = images(&source, &folder.join("target")).await?;
        let is_commit = name == commit;
        Ok(Self {
            name: if is_commit {
                commit[..12].to_owned()
            } else {
                name
            },
            charts: source.join("charts"),
            images,
        })
    }

    /// Installs the definition, or upgrades it.
    pub(super) async fn install_definition(&self, scene: &Scene) -> Result<()> {
        let chart = self.charts.join("layra-crds").display().to_string();
        // The cluster has one definition: another release may have installed it.
        let arguments = ["upgrade", "--install", "layra-crds", &chart];
        let shared = ["--take-ownership", "--wait", "--timeout", "120s"];
        scene.helm(&[&arguments[..], &shared].concat()).await?;
        Ok(())
    }

    /// Installs the operator, or upgrades it, with the images of this version.
    pub(super) async fn install_operator(&self, scene: &Scene) -> Result<()> {
        let chart = self.charts.join("layra-operator").display().to_string();
        let values = [
            of_image("image", &self.images.operator)?,
            of_image("workerImage", &self.images.worker)?,
            "fullnameOverride=layra-operator".to_owned(),
        ];
        let mut arguments = vec!["upgrade", "--install", scene.release(), &chart];
        for value in &values {
            arguments.extend(["--set", value]);
        }
        arguments.extend(["--wait", "--timeout", "180s"]);
        scene.helm(&arguments).await?;
        Ok(())
    }
}

fn of_image(key: &str, image: &str) -> Result<String> {
    let (repository, tag) = image
        .rsplit_once(':')
        .with_context(|| format!("image {image} has no tag"))?;
    Ok(format!("{key}.repository={repository},{key}.tag={tag}"))
}

/// The files of a commit, below `folder`.
async fn exported(folder: &Path, commit: &str) -> Result<PathBuf> {
    let source = folder.join(&commit[..12]);
    if source.exists() {
        return Ok(source);
    }
    std::fs::create_dir_all(folder)?;
    // An interrupted export must not look like a complete one.
    let partial = tempfile::TempDir::new_in(folder)?;
    let archive = folder.join(format!("{}.tar", &commit[..12]));
    let output = format!("--output={}", archive.display());
    git(&["archive", "--format=tar", &output, commit]).await?;
    let unpacked = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(&archive)
        .current_dir(partial.path())
        .status()
        .await
        .context("running tar")?;
    ensure!(
        unpacked.success(),
        "{} cannot be unpacked",
        archive.display()
    );
    std::fs::remove_file(&archive)?;
    std::fs::rename(partial.keep(), &source)?;
    Ok(source)
}

/// Builds and imports the images of a source folder, with the command of that version.
async fn images(source: &Path, target: &Path) -> Result<Images> {
    let output = cargo()
        .current_dir(source)
        .args(["testbed", "images"])
        .env("CARGO_TARGET_DIR", target)
        .env_remove("LAYRA_E2E_OPERATOR_IMAGE")
        .env_remove("LAYRA_E2E_WORKER_IMAGE")
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("starting cargo")?;
    ensure!(
        output.status.success(),
        "the version before cannot be built in {}",
        source.display()
    );
    let printed = String::from_utf8(output.stdout)?;
    let named = |component: &str| {
        let mut lines = printed.lines().map(str::trim);
        let line = lines.find(|line| line.contains(component));
        line.map(str::to_owned)
            .with_context(|| format!("cargo testbed images names no {component}: {printed}"))
    };
    Ok(Images {
        operator: named("layra-operator:")?,
        worker: named("layra-worker:")?,
    })
}

/// Runs `git` in the repository, and returns what it prints.
async fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .current_dir(repository())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("running git")?;
    ensure!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
