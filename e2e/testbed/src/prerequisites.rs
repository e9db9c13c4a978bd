//! What the machine must have before anything is fetched, built or started. Everything that is
//! missing is named at once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Result, bail};

const WITHOUT_ROOT: &str = "root: the node agent (kubelet), the container runtime and the bridge \
     need it. Without root, use servers that you have: set KUBECONFIG and the LAYRA_E2E_* \
     variables (`cargo testbed env` of a running bed shows them all)";

/// Fails with the list of everything that is missing.
pub fn check() -> Result<()> {
    let missing: Vec<String> = [
        debian(),
        (!is_root()).then(|| WITHOUT_ROOT.to_owned()),
        tool("apt-get", &["--version"], "apt: this is no Debian"),
        go(),
        java(),
        tool(
            "javac",
            &["-version"],
            "javac: apt-get install openjdk-17-jdk-headless",
        ),
        tool("mvn", &["--version"], "mvn: apt-get install maven"),
        tool(
            "python3",
            &["-c", "import venv, ensurepip"],
            "python3 with venv: apt-get install python3-venv",
        ),
        tool("cargo", &["--version"], "cargo: https://rustup.rs"),
        // Kafka's client and OpenSSL are compiled with these.
        tool("make", &["--version"], "make: apt-get install make"),
        tool("c++", &["--version"], "c++: apt-get install g++"),
        tool(
            "perl",
            &["-MIPC::Cmd", "-e1"],
            "perl with its modules: apt-get install perl",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !missing.is_empty() {
        bail!(
            "this machine lacks what the test-bed needs:\n  - {}",
            missing.join("\n  - ")
        );
    }
    Ok(())
}

/// Whether this process may do everything on this machine.
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn debian() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is_debian = release.lines().any(|line| line == "ID=debian");
    (!is_debian || std::env::consts::ARCH != "x86_64")
        .then(|| "Debian 12 on x86-64: servers and images are made from its packages".to_owned())
}

fn go() -> Option<String> {
    let hint = "Go 1.26 or newer (Kubernetes and MinIO are built with it): https://go.dev/dl";
    let found = output("go", &["env", "GOVERSION"]);
    let version = found
        .as_deref()
        .and_then(|text| minor_version(text.trim().strip_prefix("go1.")?));
    version
        .is_none_or(|minor| minor < 26)
        .then(|| hint.to_owned())
}

fn java() -> Option<String> {
    let hint = "Java 17 or newer: apt-get install openjdk-17-jdk-headless";
    let found = output("java", &["--version"]);
    let version = found
        .as_deref()
        .and_then(|text| minor_version(text.split(' ').nth(1)?));
    version
        .is_none_or(|major| major < 17)
        .then(|| hint.to_owned())
}

/// The number that a text starts with.
fn minor_version(text: &str) -> Option<u32> {
    text.split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn tool(program: &str, arguments: &[&str], hint: &str) -> Option<String> {
    output(program, arguments)
        .is_none()
        .then(|| hint.to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_up_to_the_first_sign_that_is_no_digit() {
        assert_eq!(minor_version("26.8"), Some(26));
        assert_eq!(minor_version("26rc1"), Some(26));
        assert_eq!(minor_version("17.0.15 2025-04-15"), Some(17));
        assert_eq!(minor_version("x"), None);
    }
}
