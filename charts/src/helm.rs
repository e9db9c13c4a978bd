//! Runs Helm, as it is in the cache of the test-bed.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

/// What `helm template` makes of a chart with these values, as text.
pub fn template(chart: &str, release: &str, namespace: &str, values: &Value) -> Result<String> {
    let chart = crate::path(chart);
    let arguments = [
        OsStr::new("template"),
        release.as_ref(),
        chart.as_ref(),
        "--namespace".as_ref(),
        namespace.as_ref(),
        "--values=-".as_ref(),
    ];
    run("helm", &arguments, &values.to_string())
}

/// Fails with what `helm lint --strict` has against a chart with these values.
pub fn lint(chart: &str, values: &Value) -> Result<()> {
    let chart = crate::path(chart);
    let arguments = [
        OsStr::new("lint"),
        chart.as_ref(),
        "--strict".as_ref(),
        "--values=-".as_ref(),
    ];
    run("helm", &arguments, &values.to_string()).map(|_| ())
}

/// The objects of a text with several YAML documents.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let objects: Vec<Value> = documents.collect::<Result<_, _>>()?;
    Ok(objects.into_iter().filter(Value::is_object).collect())
}

/// Runs `helm` or `kubectl` with an input and returns its output.
pub fn run(program: &str, arguments: &[&OsStr], input: &str) -> Result<String> {
    let path = find(program)?;
    let mut child = Command::new(&path)
        .args(arguments)
        // Neither is asked about a cluster.
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    let mut stdin = child.stdin.take().context("standard input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// `LAYRA_TOOLS` or the cache of the test-bed has the program.
fn find(program: &str) -> Result<PathBuf> {
    let cache = || {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/layra-testbed/bin"))
    };
    let folder = std::env::var_os("LAYRA_TOOLS").map(PathBuf::from);
    let path = folder
        .or_else(cache)
        .context("HOME is not set")?
        .join(program);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo testbed artifacts`",
        path.display()
    );
    Ok(path)
}
