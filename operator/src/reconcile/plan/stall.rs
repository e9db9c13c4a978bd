//! Why a pipeline waits for an edit before it goes on. Pure.

use layra_crds::IngestionPipeline;

use super::{conditions::Verdict, confirmation, conflict};
use crate::reconcile::{reason::Reason, world::World};

/// What a pipeline waits for.
pub(super) struct Stall {
    pub(super) verdict: Verdict,
    /// The number of workers meanwhile; `None`: as many as there are.
    pub(super) replicas: Option<i32>,
}

impl Stall {
    /// A conflict comes first: workers that take each other's messages must stop.
    pub(super) fn judge(pipeline: &IngestionPipeline, world: &World) -> Option<Self> {
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

    /// Whether no object is changed meanwhile.
    pub(super) fn holds_objects(&self) -> bool {
        self.replicas.is_none()
    }
}
