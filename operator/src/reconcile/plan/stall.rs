//! Why a pipeline waits for an edit before it goes on. Pure.

use kube::ResourceExt;
use layra_crds::{IngestionPipeline, LONGEST_PIPELINE_NAME};

use super::{conditions::Verdict, confirmation, conflict};
use crate::reconcile::{reason::Reason, world::World};

/// Whether the workers' objects can have names that consist of the pipeline's and a suffix.
pub(crate) fn has_short_name(pipeline: &IngestionPipeline) -> bool {
    pipeline.name_any().len() <= LONGEST_PIPELINE_NAME
}

/// What a pipeline waits for.
pub(super) struct Stall {
    pub(super) verdict: Verdict,
    /// The number of workers meanwhile; `None`: as many as there are.
    pub(super) replicas: Option<i32>,
}

impl Stall {
    /// A name that allows no worker comes first, then a conflict: workers that take each other's
    /// messages must stop.
    pub(super) fn judge(pipeline: &IngestionPipeline, world: &World) -> Option<Self> {
        if !has_short_name(pipeline) {
            return Some(Self::for_name(pipeline));
        }
        let stopped = |verdict| Self {
            verdict,
            replicas: Some(0),
        };
        let unconfirmed = confirmation::unconfirmed(pipeline);
        match (conflict::judge(pipeline, &world.rivals), unconfirmed) {
            (Some(conflict), None) => Some(stopped(conflict)),
            // The change may be the one that the conflict asks for.
            (Some(conflict), Some(change)) => Some(stopped(Verdict {
                message: format!("{} {change}", conflict.message),
                ..conflict
            })),
            (None, unconfirmed) => conflict::kept(pipeline, world).map(stopped).or_else(|| {
                unconfirmed.map(|change| Self {
                    verdict: Verdict::no(
                        Reason::ChangeNotConfirmed,
                        format!(
                            "{change} Until then the workers keep their configuration and their number."
                        ),
                    ),
                    replicas: None,
                })
            }),
        }
    }

    fn for_name(pipeline: &IngestionPipeline) -> Self {
        let message = format!(
            "metadata.name has {} characters, and at most {LONGEST_PIPELINE_NAME} are possible: the names of the workers' objects consist of it and a suffix. Create the pipeline under a shorter name, and delete this one.",
            pipeline.name_any().len()
        );
        Self {
            verdict: Verdict::no(Reason::NameTooLong, message),
            replicas: None,
        }
    }

    /// Whether no object is changed meanwhile.
    pub(super) fn holds_objects(&self) -> bool {
        self.replicas.is_none()
    }
}
