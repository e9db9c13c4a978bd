//! Checks that the machine has what a command needs, before anything is downloaded, built or
//! started. Everything that is missing is reported at once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Result, bail};

const WITHOUT_ROOT: &str = "root: the kubelet, the container runtime and the bridge need it. Without \
     root, use your own servers: set KUBECONFIG and the LAYRA_E2E_* variables (`cargo testbed env` \
     lists those of a running test-bed)";

/// What a command is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Compile what has no client of a server, and download files.
    Try,
    /// Compile, and run unit tests with the files that they read.
    UnitTests,
    /// Build and start servers, too.
    Servers,
}

/// Fails with the list of everything that is missing.
pub fn check(purpose: Purpose) -> Result<()> {
    let mut missing = missing_for_downloads();
    if purpose != Purpose::Try {
        missing.extend(missing_for_unit_tests());
    }
    if purpose == Purpose::Servers {
        missing.extend(missing_for_servers());
    }
    if !missing.is_empty() {
        bail!("this machine lacks:\n  - {}", missing.join("\n  - "));
    }
    Ok(())
}

fn missing_for_downloads() -> Vec<String> {
    let missing = [
        tool("cargo", &["--version"], "cargo: https://rustup.rs"),
        tool("cc", &["--version"], "cc: apt-get install gcc libc6-dev"),
        // PDFium and the model come in Python wheels.
        tool(
            "python3",
            &["-c", "import venv, ensurepip"],
            "python3 with venv: apt-get install python3-venv",
        ),
    ];
    missing.into_iter().flatten().collect()
}

fn missing_for_unit_tests() -> Vec<String> {
    let missing = [
        // Kafka's client and OpenSSL are compiled with these.
        tool("make", &["--version"], "make: apt-get install make"),
        tool("c++", &["--version"], "c++: apt-get install g++"),
        tool(
            "perl",
            &["-MIPC::Cmd", "-e1"],
            "perl with its modules: apt-get install perl",
        ),
        // The documents of the tests come from Debian packages.
        tool("apt-get", &["--version"], "apt-get: a Debian system"),
    ];
    missing.into_iter().flatten().collect()
}

fn missing_for_servers() -> Vec<String> {
    let missing = [
        debian(),
        (!is_root()).then(|| WITHOUT_ROOT.to_owned()),
        go(),
        java(),
        tool(
            "javac",
            &["-version"],
            "javac: apt-get install openjdk-17-jdk-headless",
        ),
        tool("mvn", &["--version"], "mvn: apt-get install maven"),
    ];
    missing.into_iter().flatten().collect()
}

/// Whether this process runs as root.
#[must_use]
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn debian() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let is_debian = release.lines().any(|line| line == "ID=debian");
    (!is_debian || std::env::consts::ARCH != "x86_64")
        .then(|| "Debian 12 on x86-64: servers and images are built from its packages".to_owned())
}

fn go() -> Option<String> {
    let hint = "Go 1.26 or newer (Kubernetes and MinIO are built with it): https://go.dev/dl";
    let found = output("go", &["env", "GOVERSION"]);
    let version = found
        .as_deref()
        .and_then(|text| leading_number(text.trim().strip_prefix("go1.")?));
    version
        .is_none_or(|minor| minor < 26)
        .then(|| hint.to_owned())
}

fn java() -> Option<String> {
    let hint = "Java 17 or newer: apt-get install openjdk-17-jdk-headless";
    let found = output("java", &["--version"]);
    let version = found
        .as_deref()
        .and_then(|text| leading_number(text.split(' ').nth(1)?));
    version
        .is_none_or(|major| major < 17)
        .then(|| hint.to_owned())
}

/// The number at the start of a text.
fn leading_number(text: &str) -> Option<u32> {
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
    fn a_version_is_parsed_up_to_the_first_character_that_is_not_a_digit() {
        assert_eq!(leading_number("26.8"), Some(26));
        assert_eq!(leading_number("26rc1"), Some(26));
        assert_eq!(leading_number("17.0.15 2025-04-15"), Some(17));
        assert_eq!(leading_number("x"), None);
    }
}
