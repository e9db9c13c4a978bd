//! Builds the container images that ship from the `Containerfile`s of the repository and imports
//! them into the test-bed's container runtime. Tags are content hashes: an existing image is not
//! rebuilt.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::artifacts::{self, PDFIUM};
use super::bill::{Bill, SECTION, parts};
use super::cargo::build_release;
use super::progress::Progress;
use super::settings::{Settings, repository};

const OPERATOR: &str = "layra-operator";
const WORKER: &str = "layra-worker";
/// In no image: the kubectl plugin, for people's machines.
const CLI: &str = "kubectl-layra";
const CLI_PACKAGE: &str = "layra-cli";
/// The folder of `dist/` with the licences and the bill of materials of each program.
const DOC: &str = "doc";
/// The directory, next to a binary, in which debuggers look for its line tables.
const DEBUG: &str = ".debug";
/// The only library that the binaries need and that distroless/cc lacks.
const ZLIB: &str = "/lib/x86_64-linux-gnu/libz.so.1";

/// Its licence, on Debian.
const ZLIB_LICENCE: &str = "/usr/share/doc/zlib1g/copyright";

/// Folders with the fonts of the worker's image: of every image, and of those that are not slim.
const FONTS: [&str; 2] = ["fonts", "fonts-noto"];

/// Full names of the images, as pods refer to them.
#[derive(Clone, Debug)]
pub struct Images {
    /// The operator's image.
    pub operator: String,
    /// The worker's image.
    pub worker: String,
}

impl Images {
    /// Images named by `LAYRA_E2E_OPERATOR_IMAGE` and `LAYRA_E2E_WORKER_IMAGE`, if both are set.
    pub(super) fn from_env() -> Option<Self> {
        let image = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self {
            operator: image("LAYRA_E2E_OPERATOR_IMAGE")?,
            worker: image("LAYRA_E2E_WORKER_IMAGE")?,
        })
    }

    /// Builds both images and imports them into the running test-bed.
    pub(super) async fn build(settings: &Settings) -> Result<Self> {
        let progress = Progress::new();
        let dist = dist(settings).await?;
        let mut names = Vec::new();
        for component in [OPERATOR, WORKER] {
            let containerfile = containerfile(component)?;
            let tag = content_hash(settings, &containerfile, &contents(&dist, component)?)?;
            let name = format!("localhost/{component}:{tag}");
            if !is_imported(settings, &name).await? {
                let work = import(settings, &dist, &containerfile, &name);
                progress
                    .step(component, "building the container image", work)
                    .await?;
            }
            names.push(name);
        }
        let [operator, worker] = names.try_into().ok().context("one name per component")?;
        Ok(Self { operator, worker })
    }
}

/// Builds the binaries and collects them in `dist/` of the repository, with everything else that
/// the images contain. The kubectl plugin is among them.
pub async fn dist(settings: &Settings) -> Result<PathBuf> {
    artifacts::provide(settings, &[artifacts::IMAGES, PDFIUM]).await?;
    let programs = [OPERATOR, WORKER, CLI];
    let built = build_release(&programs, &Progress::new()).await?;
    let dist = repository().join("dist");
    fs::create_dir_all(dist.join(DEBUG))?;
    for component in programs {
        let bill = bill(settings, component, "").await?;
        bill.write(&dist.join(DOC).join(component))?;
        Box::pin(strip(&built.join(component), &dist, component, &bill)).await?;
    }
    copy_licences(settings, &dist)?;
    fs::copy(
        PDFIUM.path(settings).join("libpdfium.so"),
        dist.join("libpdfium.so"),
    )?;
    fs::copy(ZLIB, dist.join("libz.so.1")).with_context(|| format!("copying {ZLIB}"))?;
    let copy = Command::new("cp")
        .arg("--recursive")
        .args(FONTS.map(|folder| artifacts::IMAGES.path(settings).join(folder)))
        .arg(&dist)
        .output();
    succeeded(copy.await?)?;
    Ok(dist)
}

/// The crates and other parts of an image's program, which is built with more `features` than the
/// default ones.
pub async fn bill(settings: &Settings, program: &str, features: &str) -> Result<Bill> {
    match program {
        CLI => Bill::of(CLI_PACKAGE, features).await,
        OPERATOR => {
            let bill = Bill::of(program, features).await?;
            Ok(bill.with(parts::of_every_image().await?))
        }
        _ => {
            let bill = Bill::of(program, features).await?;
            let mut parts = parts::of_every_image().await?;
            parts.extend(parts::of_worker(settings)?);
            Ok(bill.with(parts))
        }
    }
}

/// The licences of what is in images and not from crates.
fn copy_licences(settings: &Settings, dist: &Path) -> Result<()> {
    let doc = dist.join(DOC);
    for (from, to) in [
        (
            artifacts::IMAGES.path(settings).join("licences"),
            doc.join("fonts"),
        ),
        (PDFIUM.path(settings).join("licences"), doc.join("pdfium")),
    ] {
        fs::create_dir_all(&to)?;
        for file in files_below(&from)? {
            let name = file.file_name().context("a file")?;
            fs::copy(&file, to.join(name))?;
        }
    }
    fs::create_dir_all(doc.join("zlib"))?;
    fs::copy(ZLIB_LICENCE, doc.join("zlib/copyright"))
        .with_context(|| format!("copying {ZLIB_LICENCE}"))?;
    Ok(())
}

/// Puts the stripped binary, with its crates in it, into `dist/` and its debug information into
/// `dist/.debug/NAME.debug`, where debuggers and `addr2line` find it by themselves.
async fn strip(binary: &Path, dist: &Path, component: &str, bill: &Bill) -> Result<()> {
    let debug = dist.join(DEBUG).join(format!("{component}.debug"));
    let stripped = dist.join(component);
    let objcopy = async |arguments: &[&OsStr]| {
        let output = Command::new("objcopy").args(arguments).output();
        succeeded(output.await.context("running objcopy (binutils)")?)
    };
    objcopy(&[
        "--only-keep-debug".as_ref(),
        binary.as_os_str(),
        debug.as_os_str(),
    ])
    .await?;
    let mut link = OsString::from("--add-gnu-debuglink=");
    link.push(&debug);
    let crates = tempfile::NamedTempFile::new_in(dist)?;
    fs::write(crates.path(), bill.section()?)?;
    let mut section = OsString::from(format!("--add-section={SECTION}="));
    section.push(crates.path());
    objcopy(&[
        "--strip-all".as_ref(),
        &link,
        &section,
        binary.as_os_str(),
        stripped.as_os_str(),
    ])
    .await?;
    Ok(())
}

/// The files of `dist/` that an image contains.
fn contents(dist: &Path, component: &str) -> Result<Vec<PathBuf>> {
    let mut contents = vec![dist.join(component), dist.join("libz.so.1")];
    contents.extend(files_below(&dist.join(DOC).join(component))?);
    contents.extend(files_below(&dist.join(DOC).join("zlib"))?);
    if component == WORKER {
        for folder in ["fonts", "pdfium"] {
            contents.extend(files_below(&dist.join(DOC).join(folder))?);
        }
        contents.push(dist.join("libpdfium.so"));
        for folder in FONTS {
            contents.extend(files_below(&dist.join(folder))?);
        }
    }
    Ok(contents)
}

/// All files below a directory, sorted by name.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn containerfile(component: &str) -> Result<PathBuf> {
    let folder = component
        .strip_prefix("layra-")
        .context("components are named layra-*")?;
    Ok(repository().join(folder).join("Containerfile"))
}

/// Twelve digits of a hash over the binary, the base image, the fonts and the `Containerfile`.
fn content_hash(settings: &Settings, containerfile: &Path, contents: &[PathBuf]) -> Result<String> {
    let base = artifacts::IMAGES.path(settings).join("base.tar");
    let mut hash = Sha256::new();
    for file in [containerfile, &base]
        .into_iter()
        .chain(contents.iter().map(PathBuf::as_path))
    {
        hash.update(fs::read(file).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(format!("{:x}", hash.finalize())[..12].to_owned())
}

async fn import(settings: &Settings, dist: &Path, containerfile: &Path, name: &str) -> Result<()> {
    // Each build uses its own store, so that the machine's images stay untouched.
    let folder = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(&settings.cache)?;
    let base = folder.path().join("base");
    fs::create_dir(&base)?;
    fs::write(base.join("Containerfile"), "FROM scratch\nADD base.tar /\n")?;
    fs::hard_link(
        artifacts::IMAGES.path(settings).join("base.tar"),
        base.join("base.tar"),
    )?;
    let archive = folder.path().join("image.tar");

    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(folder.path().join("store"));
        command.arg("--runroot").arg(folder.path().join("run"));
        command
            .args(["--storage-driver", "vfs"])
            .stdin(Stdio::null());
        command
    };
    let build = || {
        let mut command = buildah();
        command.args(["build", "--isolation", "chroot", "--quiet"]);
        command
    };
    let base_name = "localhost/base:1";
    succeeded(
        build()
            .args(["--tag", base_name])
            .arg(&base)
            .output()
            .await?,
    )?;
    let base_argument = format!("BASE={base_name}");
    let image = build()
        .args(["--build-arg", &base_argument, "--tag", name, "--file"])
        .arg(containerfile)
        .arg(dist)
        .output();
    succeeded(image.await?)?;
    let target = format!("oci-archive:{}:{name}", archive.display());
    succeeded(
        buildah()
            .args(["push", "--quiet", name, &target])
            .output()
            .await?,
    )?;
    succeeded(
        ctr(settings)
            .args(["images", "import"])
            .arg(&archive)
            .output()
            .await?,
    )?;
    wait_until_imported(settings, name).await
}

/// Pods can use an image only after the runtime has registered it.
async fn wait_until_imported(settings: &Settings, name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_imported(settings, name).await? {
        ensure!(
            Instant::now() < deadline,
            "the container runtime does not register {name}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn is_imported(settings: &Settings, name: &str) -> Result<bool> {
    let filter = format!("name=={name}");
    let output = succeeded(
        ctr(settings)
            .args(["images", "list", &filter])
            .output()
            .await?,
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("io.cri-containerd.image=managed"))
}

fn ctr(settings: &Settings) -> Command {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(settings.state.join("kubernetes/containerd.sock"));
    command.args(["--namespace", "k8s.io"]).stdin(Stdio::null());
    command
}

fn succeeded(output: Output) -> Result<Output> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_image_covers_its_fonts() {
        let dist = tempfile::tempdir().unwrap();
        let fonts = dist.path().join("fonts");
        fs::create_dir_all(fonts.join("b")).unwrap();
        for font in ["b/two.ttf", "a.ttf", "b/one.ttf"] {
            fs::write(fonts.join(font), font).unwrap();
        }
        fs::create_dir(dist.path().join("fonts-noto")).unwrap();
        let doc = dist.path().join(DOC);
        for folder in [WORKER, OPERATOR, "zlib", "fonts", "pdfium"] {
            fs::create_dir_all(doc.join(folder)).unwrap();
            fs::write(doc.join(folder).join("licence"), folder).unwrap();
        }
        let worker = contents(dist.path(), WORKER).unwrap();
        let expected = ["a.ttf", "b/one.ttf", "b/two.ttf"].map(|font| fonts.join(font));
        assert_eq!(worker[worker.len() - 3..], expected);
        assert!(worker.contains(&doc.join(WORKER).join("licence")));
        let operator = contents(dist.path(), OPERATOR).unwrap();
        assert_eq!(operator.len(), 4, "{operator:?}");
    }
}
