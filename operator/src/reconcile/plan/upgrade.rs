//! The worker image after an upgrade of the operator: ready workers keep theirs until they are
//! replaced for another reason. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use layra_autoscaler::Phase;
use layra_crds::{IngestionPipeline, OnUpgrade};

use crate::{
    reconcile::{pods::WorkerPod, world::World},
    resources,
};

/// The operator's default image with which a worker is ready: an upgrade need not replace it.
pub(super) fn kept_image<'a>(pipeline: &IngestionPipeline, world: &'a World) -> Option<&'a str> {
    let worker = &pipeline.spec.worker;
    let is_ready = |pod: &WorkerPod| pod.phase == Phase::Ready && !pod.terminating;
    let may_stay = worker.image.is_none()
        && worker.rollout.on_upgrade == OnUpgrade::WhenReplaced
        && world.pods.iter().any(is_ready);
    let live = world.live.deployment.as_deref();
    live.filter(|_| may_stay).and_then(resources::default_image)
}

/// What to say about workers that keep the default image of an earlier version.
pub(super) fn held(wanted: &Deployment, default_image: &str) -> Option<String> {
    let kept = resources::default_image(wanted).filter(|image| *image != default_image)?;
    Some(format!(
        "They keep the image {kept} of another version of the operator, whose own is {default_image}, until none of them is ready or they are replaced for another reason. To replace them now, set worker.rollout.onUpgrade: AtOnce."
    ))
}
