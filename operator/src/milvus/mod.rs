//! The operator's access to Milvus: finds the collections of a pipeline whose index differs from the
//! spec. It only reads; it never creates, changes, loads or drops anything.

mod clients;
mod drift;

use std::time::Duration;

use layra_crds::{DriftedCollection, MilvusSpec};
use milvus::v2::prelude::{
    ClientV2, DescribeIndexRequest, Error, IndexDesc, IndexType, MetricType,
};

pub(crate) use clients::MilvusClients;

use drift::{FoundIndex, difference};

/// The vector field of a collection.
const VECTOR_FIELD: &str = "vector";
/// For a whole check, however many collections there are.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexReport {
    /// Number of the pipeline's collections.
    pub(crate) collections: usize,
    /// Collections whose index differs from the spec, sorted by name.
    pub(crate) drifted: Vec<DriftedCollection>,
}

impl MilvusClients {
    /// Compares the index of each of the pipeline's collections with the one in the spec.
    pub(crate) async fn check_indexes(
        &self,
        spec: &MilvusSpec,
        token: Option<&str>,
        authorities: Option<&str>,
    ) -> Result<IndexReport, MilvusError> {
        tokio::time::timeout(CHECK_TIMEOUT, self.check(spec, token, authorities))
            .await
            .unwrap_or_else(|_| Err(MilvusError::Unreachable("the check timed out".to_owned())))
    }

    async fn check(
        &self,
        spec: &MilvusSpec,
        token: Option<&str>,
        authorities: Option<&str>,
    ) -> Result<IndexReport, MilvusError> {
        let server = self.server(&spec.uri, token, authorities);
        let listing = server.listing().await?;
        let mut names: Vec<&String> = listing
            .collections
            .iter()
            .filter(|name| spec.owns_collection(name))
            .collect();
        names.sort_unstable();

        let mut report = IndexReport {
            collections: names.len(),
            drifted: Vec::new(),
        };
        for name in names {
            let _permit = server.permit().await;
            let found = vector_index(&listing.client, name).await?;
            if let Some(difference) = difference(found.as_ref(), &spec.index) {
                report.drifted.push(DriftedCollection {
                    name: name.clone(),
                    difference,
                });
            }
        }
        Ok(report)
    }
}

/// Why a check has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MilvusError {
    /// No answer, or an unexpected one.
    #[error("{0}")]
    Unreachable(String),
    /// The token was rejected.
    #[error("{0}")]
    Unauthenticated(String),
}

/// The index of the vector field, `None` if there is none.
async fn vector_index(
    client: &ClientV2,
    collection: &str,
) -> Result<Option<FoundIndex>, MilvusError> {
    let request = DescribeIndexRequest::builder()
        .collection_name(collection)
        .field_name(VECTOR_FIELD)
        .build()
        .map_err(|error| from_client(&error))?;
    match client.describe_index(request).await {
        Ok(response) => Ok(response
            .indexes()
            .iter()
            .find(|index| index.get_field_name() == VECTOR_FIELD)
            .map(found_index)),
        Err(error) if is_index_missing(&error) => Ok(None),
        Err(error) => Err(from_client(&error)),
    }
}

fn found_index(index: &IndexDesc) -> FoundIndex {
    let number = |key| {
        index
            .get_extra_params()
            .get(key)
            .and_then(|value| value.parse().ok())
    };
    FoundIndex {
        index_type: match index.get_index_type() {
            IndexType::Hnsw => "HNSW".to_owned(),
            IndexType::Flat => "FLAT".to_owned(),
            other => format!("{other:?}"),
        },
        metric: match index.get_metric_type() {
            MetricType::Ip => "IP".to_owned(),
            MetricType::Cosine => "COSINE".to_owned(),
            other => format!("{other:?}"),
        },
        m: number("M"),
        ef_construction: number("efConstruction"),
    }
}

/// Code 700 since Milvus 2.3, or the older code.
fn is_index_missing(error: &Error) -> bool {
    matches!(error, Error::Server(server) if server.code() == 700 || server.legacy_code() == 25)
}

fn from_client(error: &Error) -> MilvusError {
    let text = error.to_string();
    if text.contains("auth check failure") || text.contains("Unauthenticated") {
        MilvusError::Unauthenticated(text)
    } else {
        MilvusError::Unreachable(text)
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::IndexSpec;

    use super::*;

    #[tokio::test]
    async fn an_absent_milvus_is_reported_within_seconds() {
        let spec = MilvusSpec {
            // Nothing listens on port 1.
            uri: "http://127.0.0.1:1".into(),
            token_secret_ref: None,
            ca_secret_ref: None,
            collection: "colqwen{knowledge_db_id}".into(),
            index: IndexSpec::default(),
        };
        let started = std::time::Instant::now();
        let result = MilvusClients::default()
            .check_indexes(&spec, None, None)
            .await;
        assert!(
            matches!(result, Err(MilvusError::Unreachable(_))),
            "{result:?}"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
