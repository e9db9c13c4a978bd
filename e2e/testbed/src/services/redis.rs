//! Redis, with every write on disk before the next second.

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
        // Open on the bridge, which only this machine and its pods reach.
        .args([
            "--protected-mode",
            "no",
            "--appendonly",
            "yes",
            "--save",
            "",
            // A title is written over the environment, with the bed's mark in it.
            "--set-proc-title",
            "no",
            "--dir",
        ])
        .arg(settings.data("redis"));
    command
}

pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let answer = wire::line(settings.ports.redis, "PING").await?;
    ensure!(answer == "+PONG", "Redis says {answer}");
    Ok(())
}
