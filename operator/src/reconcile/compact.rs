//! A Kubernetes object in a watch cache, kept as JSON. A Deployment as a Rust type takes 30 kB, of
//! which its volumes, mostly absent fields, are 25; its JSON has 5.

use std::{borrow::Cow, marker::PhantomData, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::Value;

/// An object of type `K`, with the part of its metadata that a cache needs.
#[derive(Clone, Debug)]
pub(super) struct Compact<K> {
    metadata: ObjectMeta,
    json: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned> Compact<K> {
    /// The whole object, without its managed fields.
    pub(super) fn object(&self) -> Option<Arc<K>> {
        // It was read once before it was stored.
        serde_json::from_str(&self.json).ok().map(Arc::new)
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Compact<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        K::deserialize(&value).map_err(D::Error::custom)?;
        let all = ObjectMeta::deserialize(&value["metadata"]).map_err(D::Error::custom)?;
        Ok(Self {
            metadata: ObjectMeta {
                name: all.name,
                namespace: all.namespace,
                uid: all.uid,
                resource_version: all.resource_version,
                labels: all.labels,
                ..ObjectMeta::default()
            },
            json: value.to_string().into(),
            kind: PhantomData,
        })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Compact<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_object_is_whole_and_its_metadata_suffices_for_a_cache() {
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "a-worker",
                "namespace": "rag",
                "uid": "1",
                "resourceVersion": "7",
                "labels": {"app.kubernetes.io/instance": "a"},
                "annotations": {"ingest.layra.io/applied-hash": "x"},
                "managedFields": [{"manager": "layra-operator"}],
            },
            "spec": {
                "replicas": 3,
                "selector": {},
                "template": {"spec": {"containers": [], "volumes": [{"name": "tmp", "emptyDir": {}}]}},
            },
            "status": {"readyReplicas": 2},
        });
        let compact: Compact<Deployment> = serde_json::from_value(deployment.clone()).unwrap();
        assert_eq!(compact.name_any(), "a-worker");
        assert_eq!(compact.resource_version().as_deref(), Some("7"));
        assert_eq!(compact.labels()["app.kubernetes.io/instance"], "a");

        let mut whole: Deployment = serde_json::from_value(deployment).unwrap();
        whole.metadata.managed_fields = None;
        assert_eq!(*compact.object().unwrap(), whole);
    }

    #[test]
    fn what_is_not_of_the_type_is_an_error_of_the_watch() {
        let body = json!({"metadata": {"name": "a"}, "spec": {"replicas": "three"}});
        assert!(serde_json::from_value::<Compact<Deployment>>(body).is_err());
    }
}
