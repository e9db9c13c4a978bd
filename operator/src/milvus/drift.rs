//! The differences between an index and the spec. Pure.

use layra_crds::{IndexSpec, IndexType};

/// An index as Milvus describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundIndex {
    /// For example `HNSW`.
    pub(super) index_type: String,
    /// For example `IP`.
    pub(super) metric: String,
    /// HNSW's `M`.
    pub(super) m: Option<u32>,
    /// HNSW's `efConstruction`.
    pub(super) ef_construction: Option<u32>,
}

/// The differences as text, `None` if there are none.
pub(super) fn difference(found: Option<&FoundIndex>, want: &IndexSpec) -> Option<String> {
    let Some(found) = found else {
        return Some(format!(
            "there is no index, want {}",
            want.index_type.as_str()
        ));
    };
    let mut parts = Vec::new();
    if found.index_type != want.index_type.as_str() {
        parts.push(format!(
            "type is {}, want {}",
            found.index_type,
            want.index_type.as_str()
        ));
    }
    if found.metric != want.metric.as_str() {
        parts.push(format!(
            "metric is {}, want {}",
            found.metric,
            want.metric.as_str()
        ));
    }
    if want.index_type == IndexType::Hnsw && found.index_type == want.index_type.as_str() {
        let numbers = [
            ("M", found.m, want.m),
            (
                "efConstruction",
                found.ef_construction,
                want.ef_construction,
            ),
        ];
        for (name, is, want) in numbers {
            if is != Some(want) {
                let is = is.map_or_else(|| "not set".to_owned(), |value| value.to_string());
                parts.push(format!("{name} is {is}, want {want}"));
            }
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use layra_crds::MetricType;

    use super::*;

    fn hnsw(m: u32, ef_construction: u32) -> FoundIndex {
        FoundIndex {
            index_type: "HNSW".into(),
            metric: "IP".into(),
            m: Some(m),
            ef_construction: Some(ef_construction),
        }
    }

    #[test]
    fn an_equal_index_has_no_drift() {
        assert_eq!(
            difference(Some(&hnsw(32, 500)), &IndexSpec::default()),
            None
        );
    }

    #[test]
    fn each_difference_is_named() {
        let want = IndexSpec {
            metric: MetricType::Cosine,
            ..IndexSpec::default()
        };
        assert_eq!(
            difference(Some(&hnsw(16, 200)), &want).unwrap(),
            "metric is IP, want COSINE; M is 16, want 32; efConstruction is 200, want 500"
        );
    }

    #[test]
    fn the_parameters_of_another_index_type_are_not_compared() {
        let want = IndexSpec {
            index_type: IndexType::Flat,
            ..IndexSpec::default()
        };
        assert_eq!(
            difference(Some(&hnsw(16, 500)), &want).unwrap(),
            "type is HNSW, want FLAT"
        );
    }

    #[test]
    fn a_collection_without_an_index_drifts() {
        assert_eq!(
            difference(None, &IndexSpec::default()).unwrap(),
            "there is no index, want HNSW"
        );
    }
}
