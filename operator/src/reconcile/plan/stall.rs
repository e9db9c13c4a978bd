//! Why a pipeline waits for an edit before it goes on. Pure.

use layra_crds::IngestionPipeline;

use super::{conditions::Verdict, confirmation, conflict};
use crate::reconcile::world::World;

/// What a pipeline waits for.
pub(super) struct Stall {
    pub(super) verdict: Verdict,
    /// The number of workers meanwhile; `None`: as many as there are.
    pub(super) replicas: Option<i32>,
}

impl Stall {
    /// A conflict comes first: workers that take each other's messages must stop.
    pub(super) fn judge(pipeline: &IngestionPipeline, world: &World) -> Option<Self> {
        let conflict = conflict::judge(pipeline, &world.rivals).map(|verdict| Self {
            verdict,
            replicas: Some(0),
        });
        conflict.or_else(|| {
            confirmation::judge(pipeline).map(|verdict| Self {
                verdict,
                replicas: None,
            })
        })
    }

    /// Whether no object is changed meanwhile.
    pub(super) fn holds_objects(&self) -> bool {
        self.replicas.is_none()
    }
}
