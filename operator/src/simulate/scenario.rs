//! A pipeline in a world: everything but the trace that a simulation needs, from the pipeline's
//! YAML and the command line.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use layra_crds::IngestionPipeline;

use super::{
    policies::{Peer, Settings, scalers},
    simulation::{self, Outcome},
    trace::Trace,
    world::Setup,
};
use crate::autoscale::{Learned, Policy};

/// Everything but the trace.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) setup: Setup,
    pub(super) policy: Policy,
    /// What the core knows of the workers from the start.
    pub(super) learned: Option<Learned>,
    pub(super) settings: Settings,
}

impl Scenario {
    /// Seconds within which a document should be done.
    pub(super) fn drain_target(&self) -> u32 {
        u32::try_from(self.policy.drain_target.as_secs()).unwrap_or(u32::MAX)
    }

    /// This operator, then the peers.
    pub(super) fn run(&self, trace: &Trace, peers: &[Peer]) -> Vec<Outcome> {
        let learned = self.learned.map(|learned| Learned {
            startup_seconds: self.setup.startup_seconds.into(),
            ..learned
        });
        scalers(&self.policy, learned, peers, self.settings)
            .iter_mut()
            .map(|scaler| simulation::run(trace, &self.setup, self.drain_target(), scaler.as_mut()))
            .collect()
    }
}

/// Reads a pipeline, and refuses what cannot be simulated.
pub(super) fn read_pipeline(path: &Path) -> anyhow::Result<IngestionPipeline> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--pipeline: {file} cannot be read"))?;
    parse_pipeline(&text).with_context(|| format!("--pipeline: {file}"))
}

fn parse_pipeline(text: &str) -> anyhow::Result<IngestionPipeline> {
    let kind: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).context("no valid YAML")?;
    match kind.get("kind").and_then(|kind| kind.as_str()) {
        Some("IngestionPipeline") => {}
        Some(other) => bail!("kind: found {other}; expected IngestionPipeline"),
        None => bail!("kind: missing; expected an object of kind IngestionPipeline"),
    }
    let pipeline: IngestionPipeline =
        serde_yaml_ng::from_str(text).context("no valid IngestionPipeline")?;
    let scaling = &pipeline.spec.scaling;
    let partitions = pipeline.spec.source.kafka.partitions;
    ensure!(
        (1..=10_000).contains(&partitions),
        "spec.source.kafka.partitions: found {partitions}; expected 1 to 10000"
    );
    ensure!(
        scaling.max_replicas >= 1,
        "spec.scaling.maxReplicas: found {}; expected at least 1",
        scaling.max_replicas
    );
    ensure!(
        (0..=scaling.max_replicas).contains(&scaling.min_replicas),
        "spec.scaling.minReplicas: found {}; expected 0 to maxReplicas ({})",
        scaling.min_replicas,
        scaling.max_replicas
    );
    ensure!(
        scaling.max_replicas <= partitions,
        "spec.scaling.maxReplicas: found {}; expected at most source.kafka.partitions ({partitions}): further workers would be idle",
        scaling.max_replicas
    );
    ensure!(
        (5..=86_400).contains(&scaling.drain_target_seconds),
        "spec.scaling.drainTargetSeconds: found {}; expected 5 to 86400",
        scaling.drain_target_seconds
    );
    Ok(pipeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../docs/scaling/pipeline.yaml");

    fn refused(text: &str) -> String {
        format!("{:#}", parse_pipeline(text).unwrap_err())
    }

    #[test]
    fn the_pipeline_of_the_comparison_is_good() {
        let pipeline = parse_pipeline(GOOD).unwrap();
        assert_eq!(pipeline.spec.scaling.max_replicas, 12);
    }

    #[test]
    fn what_cannot_be_simulated_is_named() {
        assert_eq!(
            refused("kind: Pod"),
            "kind: found Pod; expected IngestionPipeline"
        );
        assert_eq!(
            refused("a: 1"),
            "kind: missing; expected an object of kind IngestionPipeline"
        );
        assert!(refused("kind: [").starts_with("no valid YAML: "));
        let error = refused("kind: IngestionPipeline\nmetadata: {name: a}\nspec: {}");
        assert!(error.contains("missing field `source`"), "{error}");
        let error = refused(&GOOD.replace("maxReplicas: 12", "maxReplicas: 13"));
        assert!(
            error.starts_with("spec.scaling.maxReplicas: found 13; expected at most"),
            "{error}"
        );
        let error = refused(&GOOD.replace("minReplicas: 0", "minReplicas: 20"));
        assert!(
            error.starts_with("spec.scaling.minReplicas: found 20"),
            "{error}"
        );
        let error = refused(&GOOD.replace("drainTargetSeconds: 600", "drainTargetSeconds: 0"));
        assert!(
            error.starts_with("spec.scaling.drainTargetSeconds: found 0"),
            "{error}"
        );
    }
}
