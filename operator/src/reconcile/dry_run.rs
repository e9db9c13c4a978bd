//! Asks the API server in a dry run whether it accepts the workers' Deployment, before anything of
//! a changed configuration is applied.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective},
};
use layra_crds::IngestionPipeline;

use super::{
    Context, FIELD_MANAGER, ReconcileError,
    plan::DryRun,
    world::{DryRunResult, PastWrites},
};
use crate::resources::{Kind, object_name};

/// Runs the plan's dry run, if it has one, and returns whether the plan may be applied. The result
/// goes to `past`, for the next plan. Other errors, such as an unreachable API server, are
/// returned.
pub(super) async fn accepted(
    context: &Context,
    pipeline: &IngestionPipeline,
    dry_run: Option<&DryRun>,
    past: &mut PastWrites,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let Some(dry_run) = dry_run else {
        return Ok(true);
    };
    let namespace = pipeline.namespace().unwrap_or_default();
    let resource = ApiResource::erase::<Deployment>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let name = object_name(&pipeline.name_any());
    let parameters = PatchParams {
        dry_run: true,
        force: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
    };
    let result = api
        .patch(&name, &parameters, &Patch::Apply(&dry_run.body))
        .await;
    let refusal = match result {
        Ok(_) => None,
        Err(error) => match refusal(&error) {
            Some(message) => Some(message),
            None => {
                return Err(ReconcileError::Apply {
                    kind: Kind::Deployment,
                    name,
                    source: Box::new(error),
                });
            }
        },
    };
    if let Some(message) = &refusal {
        tracing::warn!(
            deployment = name,
            message,
            "pod template refused in a dry run"
        );
    }
    let is_accepted = refusal.is_none();
    past.dry_run = Some(DryRunResult {
        template: dry_run.template.clone(),
        at: now,
        refusal,
    });
    Ok(is_accepted)
}

/// The API server's words if it refused the object itself. An invalid object is 422, a strict
/// decoding error 400, and an admission webhook answers with 400 or 403. Server-side apply reports
/// a field that is duplicated or unknown to its schema as an internal error.
pub(super) fn refusal(error: &kube::Error) -> Option<String> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    let contains = |words: &str| status.message.contains(words);
    // Also 403, but about the operator's rights, a quota or the namespace.
    let is_elsewhere = [
        "cannot patch resource",
        "cannot create resource",
        "exceeded quota",
        "being terminated",
    ]
    .into_iter()
    .any(contains);
    let is_untyped = contains("failed to create typed patch object");
    let is_refused = !is_elsewhere && (matches!(status.code, 400 | 403 | 422) || is_untyped);
    is_refused.then(|| status.message.clone())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn error(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure(message, "Any").with_code(code)))
    }

    #[test]
    fn a_refused_object_is_distinguished_from_a_failed_request() {
        let words = "Deployment.apps \"a-worker\" is invalid: spec.template.spec.tolerations[0]";
        for code in [400, 403, 422] {
            assert_eq!(refusal(&error(code, words)).as_deref(), Some(words));
        }
        let untyped = "failed to create typed patch object (rag/a-worker; apps/v1, \
                       Kind=Deployment): errors: .spec.template.spec.containers[0].env: duplicate \
                       entries for key [name=\"A\"]";
        assert_eq!(refusal(&error(500, untyped)).as_deref(), Some(untyped));
        for (code, words) in [
            (500, "etcdserver: request timed out"),
            (409, "conflict"),
            (429, "too many requests"),
            (404, "namespaces \"rag\" not found"),
            (403, "User \"layra\" cannot patch resource \"deployments\""),
            (
                403,
                "exceeded quota: pods, requested: count/deployments.apps=1",
            ),
        ] {
            assert_eq!(refusal(&error(code, words)), None, "{code}");
        }
    }
}
