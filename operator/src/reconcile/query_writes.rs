//! Deletes objects of the pods that answer questions when they are no longer wanted.

use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Preconditions, PropagationPolicy},
};

use super::{Context, apply::resource, plan::Unwanted};

/// Deletes these objects. A failed deletion is planned again.
pub(super) async fn delete(context: &Context, unwanted: &[Unwanted]) {
    for Unwanted { kind, name, uid } in unwanted {
        let client = context.client.clone();
        let resource = resource(*kind);
        let api: Api<DynamicObject> = Api::namespaced_with(client, &context.namespace, &resource);
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let kind = kind.word();
        match api.delete(name, &parameters).await {
            Ok(_) => tracing::info!(kind, object = name, "object removed"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(kind, object = name, %error, "object not removed"),
        }
    }
}
