//! What kube-score has against the chart.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use layra_charts::{helm, values};
use layra_testbed::Settings;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Checks that the chart does not follow; `docs/decisions/0044-kube-score.md` says why.
const IGNORED: [&str; 3] = [
    "container-ephemeral-storage-request-and-limit",
    "deployment-has-host-podantiaffinity",
    "networkpolicy-targets-pod",
];

/// Every switch is on: two replicas, network policies, dashboards.
#[tokio::test]
async fn kube_score_has_nothing_against_the_chart() -> Result<()> {
    let program = Settings::from_env()?.bin("kube-score");
    let values = values::everything_with_dashboards();
    let objects = helm::template("layra-operator", "x", "rag", &values)?;
    let mut score = Command::new(&program);
    score.args(["score", "--output-format=ci", "--exit-one-on-warning"]);
    score.arg("--ignore-container-cpu-limit");
    for check in IGNORED {
        score.args(["--ignore-test", check]);
    }
    let mut child = score
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let mut input = child.stdin.take().context("standard input")?;
    // It reads everything before it writes.
    input.write_all(objects.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains("[OK]"), "it has judged nothing: {text}");
    Ok(())
}
