//! What `cargo faults`, `cargo measure` and `cargo scaling` have in common: a namespace with an
//! operator on the test-bed, removed at the end.

use std::cell::Cell;

use anyhow::Result;
use layra_testbed::{Ended, Testbed, artifacts, describe_testbed, unless_interrupted};

use crate::cluster::Scene;
use crate::stores::Stores;

/// What happens to a test-bed that the command has started itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTestbed {
    /// It keeps running for the next command.
    Keep,
    /// It is stopped.
    Stop,
}

/// Runs `work` in a separate namespace. When interrupted, prints what is left running.
pub async fn in_namespace<T>(
    namespace: &str,
    new_testbed: NewTestbed,
    work: impl AsyncFnOnce(&Testbed, &Scene, &Stores) -> Result<T>,
) -> Result<Ended<T>> {
    let is_open = Cell::new(false);
    let run = Box::pin(async {
        let testbed = Testbed::obtain().await?;
        artifacts::provide(testbed.settings(), artifacts::FILES).await?;
        let images = testbed.images().await?;
        let stores = Stores::prepare(&testbed).await?;
        is_open.set(true);
        let scene = Scene::open(&testbed, &images, namespace).await?;
        let result = Box::pin(work(&testbed, &scene, &stores)).await;
        scene.close().await?;
        if testbed.is_new() && new_testbed == NewTestbed::Stop {
            Testbed::down().await?;
        }
        result
    });
    let left = || {
        let testbed = describe_testbed()?;
        Ok(if is_open.get() {
            format!("{testbed}\nThe namespace {namespace} stays; the next run replaces it.")
        } else {
            testbed
        })
    };
    unless_interrupted(run, left).await
}
