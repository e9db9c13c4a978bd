//! The pods that answer questions.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GpuSpec;

/// Port of LAYRA's model server in the query pods.
pub const MODEL_SERVER_PORT: u16 = 8005;
/// Minutes for which the links of an answer are valid, unless the object says otherwise.
pub const DEFAULT_LINK_MINUTES: u32 = 60;

/// Pods that run `layra-worker serve`: LAYRA's model server, and searches over HTTP. They have the
/// image, the configuration, the Secrets and the `podTemplate` of the workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || !has(self.minReplicas) && !has(self.maxReplicas)")
        .message("query.replicas fixes the number of replicas, and query.minReplicas and query.maxReplicas let it follow the requests. Set one or the other"),
    validation = Rule::new("!has(self.minReplicas) || has(self.maxReplicas)")
        .message("query.minReplicas needs query.maxReplicas. For a fixed number of replicas set query.replicas instead"),
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("query.minReplicas must not exceed query.maxReplicas")
)]
pub struct QuerySpec {
    /// A fixed number of replicas. Default: 1, unless `maxReplicas` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: Option<i32>,

    /// Smallest number of replicas if it follows the requests. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,

    /// Largest number of replicas. With it their number follows the requests in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,

    /// Requests that a replica should answer at the same time. More of them for 15 seconds add
    /// replicas; what has sufficed for five minutes removes some. Default: 16.
    #[serde(default = "default_requests")]
    #[schemars(range(min = 1, max = 512))]
    pub requests_per_replica: u32,

    /// CPU and memory of each replica. Default: those of a worker, as it loads the same model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// GPUs of each replica. Absent: questions are embedded on the CPU, with the operator's default
    /// image if workers have GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,

    /// Key of a Secret with the tokens that may search, as a YAML list. Absent: nobody may search;
    /// LAYRA's requests need no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_secret_ref: Option<TokensSecretRef>,

    /// Origins whose web pages may call `/v1`, for example `https://app.example.com`; `*`: all. A
    /// page needs a token like everybody else. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new(ALLOWED_ORIGINS)
        .message("query.allowedOrigins must be `*` or of the form https://app.example.com or http://app.example.com:8080, as browsers send it: lower case, without a path and without a default port"))]
    pub allowed_origins: Vec<String>,

    /// Minutes for which the links of an answer to page images and originals are valid, up to a
    /// week. Default: 60.
    #[serde(default = "default_link_minutes")]
    #[schemars(range(min = 1, max = 10_080))]
    pub link_minutes: u32,

    /// Whether everyone may read the bucket of `documents.objectStore`. Links then have no signature
    /// and no end. Default: false.
    #[serde(default)]
    pub public_bucket: bool,

    /// How the replicas are reached.
    #[serde(default)]
    pub service: QueryServiceSpec,
}

/// What browsers send as the origin of a page.
const ALLOWED_ORIGINS: &str = "self.all(origin, origin == '*' || \
     origin.matches('^https?://([-a-z0-9._]+|\\\\[[0-9a-f:]+\\\\])(:[1-9][0-9]{0,4})?$') && \
     !origin.matches('^(http://.*:80|https://.*:443)$'))";

/// Key of a Secret with the tokens that may search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokensSecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret. Default: `tokens.yaml`.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// The Service of the query pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryServiceSpec {
    /// Name of the Service. LAYRA asks `model-server`. Default: the name of the pipeline, followed
    /// by `-query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("query.service.name must consist of lower-case letters, digits and `-`, begin with a letter and not end with `-`, because it becomes a DNS name"))]
    pub name: Option<String>,

    /// Port of LAYRA's model server. LAYRA asks 8005. Searches are at port 9090. Default: 8005.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65_535))]
    #[x_kube(validation = Rule::new("self != 9090")
        .message("query.service.port must not be 9090: searches, metrics and probes are there. LAYRA asks 8005"))]
    pub port: u16,
}

/// The query pods, in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryStatus {
    /// Desired number of replicas.
    #[serde(default)]
    pub desired_replicas: i32,

    /// Number of ready replicas.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Where LAYRA's model server is reached in the cluster: `NAME.NAMESPACE.svc:PORT`.
    #[serde(default)]
    pub address: String,

    /// Why there are as many replicas. Its numbers are from the time of the decision.
    #[serde(default)]
    pub message: String,
}

/// What a query pod reports to the operator, where a worker reports its counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryCounts {
    /// Requests in progress.
    pub in_flight: u64,
}

impl QuerySpec {
    /// The fewest and the most replicas.
    #[must_use]
    pub fn bounds(&self) -> (i32, i32) {
        if let Some(most) = self.max_replicas {
            (self.min_replicas.unwrap_or(1), most)
        } else {
            let fixed = self.replicas.unwrap_or(1);
            (fixed, fixed)
        }
    }

    /// Whether the number of replicas follows the requests.
    #[must_use]
    pub fn follows_requests(&self) -> bool {
        let (fewest, most) = self.bounds();
        fewest < most
    }
}

impl Default for QueryServiceSpec {
    fn default() -> Self {
        Self {
            name: None,
            port: default_port(),
        }
    }
}

fn default_requests() -> u32 {
    16
}

fn default_link_minutes() -> u32 {
    DEFAULT_LINK_MINUTES
}

fn default_key() -> String {
    "tokens.yaml".to_owned()
}

fn default_port() -> u16 {
    MODEL_SERVER_PORT
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_spec_is_one_replica_at_the_port_that_layra_asks() {
        let spec: QuerySpec = serde_json::from_value(json!({})).unwrap();
        assert_eq!((spec.bounds(), spec.follows_requests()), ((1, 1), false));
        assert_eq!((spec.service.port, spec.requests_per_replica), (8005, 16));
    }

    #[test]
    fn bounds_make_the_number_follow_the_requests() {
        let bounds = |spec: serde_json::Value| {
            let spec: QuerySpec = serde_json::from_value(spec).unwrap();
            (spec.bounds(), spec.follows_requests())
        };
        assert_eq!(bounds(json!({"replicas": 3})), ((3, 3), false));
        assert_eq!(bounds(json!({"maxReplicas": 4})), ((1, 4), true));
        let both = json!({"minReplicas": 2, "maxReplicas": 2});
        assert_eq!(bounds(both), ((2, 2), false));
    }
}
