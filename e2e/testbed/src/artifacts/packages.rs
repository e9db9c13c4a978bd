//! Debian packages that must be installed: the container runtime, Redis, LibreOffice and tools.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::prerequisites::is_root;
use crate::progress::Progress;
use crate::settings::Settings;

const PACKAGES: [&str; 16] = [
    "buildah",
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

/// Where apt keeps what it knows of packages.
const LISTS: &str = "/var/lib/apt/lists";

/// Package installation starts services where there is an init system: not here, the bed starts
/// its own. A policy of the machine's owner is left alone.
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

/// Installs what is missing; needs root then.
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
        .step("packages", "Debian packages (about 165 MB)", work)
        .await
}

/// Fetches the lists of packages where there are none, as in many container images; needs root
/// then.
pub(super) async fn update_lists(settings: &Settings, progress: &Progress) -> Result<()> {
    if has_lists(Path::new(LISTS)) {
        return Ok(());
    }
    if !is_root() {
        bail!("apt knows no package; as root: apt-get update");
    }
    let log = settings.cache.join("log/package-lists.log");
    let work = async {
        let mut command = tokio::process::Command::new("apt-get");
        super::run(command.args(["update", "-qq"]), &log).await
    };
    progress
        .step("package lists", "Debian's lists of packages", work)
        .await
}

/// They may be compressed; an empty folder has `partial` and `lock` in it.
fn has_lists(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_there_when_one_of_packages_is() {
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
