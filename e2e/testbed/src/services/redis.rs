//! Redis, which writes its append-only file to disk every second.

use std::process::Command;

use anyhow::{Result, ensure};

use super::wire;
use crate::settings::{NODE_IP, Settings};

pub(super) fn command(settings: &Settings) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args([
            "--bind",
            NODE_IP,
            "--port",
            &settings.ports.redis.to_string(),
        ])
        // No password: only this machine and its pods reach the bridge.
        .args([
            "--protected-mode",
            "no",
            "--appendonly",
            "yes",
            "--save",
            "",
            // A process title would overwrite the environment, which holds the test-bed's mark.
            "--set-proc-title",
            "no",
            "--dir",
        ])
        .arg(settings.data("redis"));
    command
}

pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let answer = wire::line(settings.ports.redis, "PING").await?;
    ensure!(answer == "+PONG", "Redis answers {answer}");
    Ok(())
}
