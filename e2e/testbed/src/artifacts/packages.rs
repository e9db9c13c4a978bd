//! Debian packages that must be installed: container runtime, Redis, LibreOffice and tools.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::prerequisites::is_root;
use crate::progress::Progress;
use crate::settings::Settings;

const PACKAGES: [&str; 17] = [
    "buildah",
    // The page of `cargo try` is tested in it.
    "chromium",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "gcc",
    "iproute2",
    "libc6-dev",
    "libreoffice-calc-nogui",
    "libreoffice-impress-nogui",
    "libreoffice-writer-nogui",
    "nftables",
    "openssl",
    "procps",
    "redis-server",
    "runc",
    "util-linux",
];

/// Directory of apt's package lists.
const LISTS: &str = "/var/lib/apt/lists";

/// With an init system, installing a package would start its service. The policy prevents that,
/// since the test-bed starts its own services; an existing policy of the machine is respected.
const INSTALL: &str = "
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends \"$@\"
";

/// The packages that are not installed.
pub(super) fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(PACKAGES)
        .output()?;
    let known = String::from_utf8_lossy(&output.stdout);
    let is_installed = |package: &&str| {
        known
            .lines()
            .any(|line| line == format!("{package} installed"))
    };
    Ok(PACKAGES
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect())
}

/// Installs the missing packages, which needs root.
pub(super) async fn install(settings: &Settings, progress: &Progress) -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "as root: apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    let log = settings.cache.join("log/packages.log");
    let work = async {
        let mut command = tokio::process::Command::new("bash");
        command.args(["-ec", INSTALL, "install"]).args(&missing);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        super::run(&mut command, &log).await
    };
    progress
        .step(
            "packages",
            "installing Debian packages (about 165 MB)",
            work,
        )
        .await
}

/// Downloads the package lists where there are none, as in many container images. This needs root.
pub(super) async fn update_lists(settings: &Settings, progress: &Progress) -> Result<()> {
    if has_lists(Path::new(LISTS)) {
        return Ok(());
    }
    if !is_root() {
        bail!("apt has no package lists; as root: apt-get update");
    }
    let log = settings.cache.join("log/package-lists.log");
    let work = async {
        let mut command = tokio::process::Command::new("apt-get");
        super::run(command.args(["update", "-qq"]), &log).await
    };
    progress
        .step("package lists", "downloading Debian's package lists", work)
        .await
}

/// The lists may be compressed. Without any, the directory contains `partial` and `lock`.
fn has_lists(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lists_are_recognised_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_lists(&folder.path().join("absent")));
        fs::create_dir(folder.path().join("partial")).unwrap();
        fs::write(folder.path().join("lock"), "").unwrap();
        assert!(!has_lists(folder.path()));
        let list = "deb.debian.org_debian_dists_bookworm_main_binary-amd64_Packages.lz4";
        fs::write(folder.path().join(list), "").unwrap();
        assert!(has_lists(folder.path()));
    }
}
