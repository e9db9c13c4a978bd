//! The vector index that the object asks for, and how a found one differs from it.
//!
//! The workers create, the operator checks and the rebuild judges by the same [`ResolvedIndex`].

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::MetricType;

/// A vector index. The values of an HNSW index come from `preset` or from `m` and
/// `efConstruction`. Without any of them, `preset: Accurate` applies.
// None of its fields is nullable: the API server removes a null, and `has` is false in the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.preset) || (!has(self.m) && !has(self.efConstruction))")
        .message("stores.milvus.index has a preset and explicit values. Remove preset, or remove m and efConstruction; where an earlier version stored them as defaults, write `m: null` and `efConstruction: null`"),
    validation = Rule::new("!has(self.preset) || self.type == 'HNSW'")
        .message("stores.milvus.index.preset is for type: HNSW. Remove it, or use HNSW"),
    validation = Rule::new("!has(self.nlist) || self.type == 'IVF_FLAT'")
        .message("stores.milvus.index.nlist is for type: IVF_FLAT. Remove it, or use IVF_FLAT")
)]
pub struct IndexSpec {
    /// Type of index: `HNSW`, `FLAT` or `IVF_FLAT`. Default: `HNSW`.
    #[serde(default, rename = "type")]
    #[schemars(with = "String", length(max = 32))]
    #[x_kube(validation = Rule::new("self in ['HNSW', 'FLAT', 'IVF_FLAT']")
        .message("stores.milvus.index.type must be HNSW, FLAT or IVF_FLAT: other types of index are not supported, because they need settings and servers that are not tested"))]
    pub index_type: IndexType,

    /// Similarity metric: `IP` or `COSINE`. Default: `IP`, the inner product, which late
    /// interaction needs.
    #[serde(default)]
    pub metric: MetricType,

    /// Values of an HNSW index, from small and quick to build to large and precise: `Economy` (M 8,
    /// efConstruction 100), `Balanced` (16, 300), `Accurate` (32, 500) or `Maximum` (64, 1000; Milvus
    /// up to 2.3.3 refuses more than 512). Not together with `m` and `efConstruction`.
    /// Without any of them: `Accurate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IndexPreset")]
    pub preset: Option<IndexPreset>,

    /// HNSW: edges of a node in the graph. More edges give better recall, a slower build and more
    /// memory. Without `preset` and without this: 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 4, max = 64))]
    pub m: Option<u32>,

    /// HNSW: candidates examined for each edge while the graph is built. Milvus up to 2.3.3
    /// takes at most 512. Without `preset` and without this: 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 8, max = 4096))]
    pub ef_construction: Option<u32>,

    /// `IVF_FLAT`: number of clusters of vectors. A search compares the vectors of some of them:
    /// LAYRA's own of 8, `layra-worker search` of `--ef`. Without this: 128, as in Milvus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = 65_536))]
    pub nlist: Option<u32>,
}

/// Type of a vector index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexType {
    /// A navigable graph: fast and approximate.
    #[default]
    #[serde(rename = "HNSW")]
    Hnsw,
    /// No index: every vector is compared. Exact, but slow above a few hundred thousand vectors.
    #[serde(rename = "FLAT")]
    Flat,
    /// Clusters of vectors: a search compares all vectors of the nearest clusters. Quick to build.
    #[serde(rename = "IVF_FLAT")]
    IvfFlat,
}

impl IndexType {
    /// Its name in Milvus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hnsw => "HNSW",
            Self::Flat => "FLAT",
            Self::IvfFlat => "IVF_FLAT",
        }
    }
}

/// Values of an HNSW index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexPreset {
    /// M 8, efConstruction 100.
    Economy,
    /// M 16, efConstruction 300.
    Balanced,
    /// M 32, efConstruction 500.
    Accurate,
    /// M 64, efConstruction 1000.
    Maximum,
}

impl IndexPreset {
    /// `M` and `efConstruction`.
    #[must_use]
    pub fn values(self) -> (u32, u32) {
        match self {
            Self::Economy => (8, 100),
            Self::Balanced => (16, 300),
            Self::Accurate => (32, 500),
            Self::Maximum => (64, 1000),
        }
    }
}

/// An index with all its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedIndex {
    /// Type and parameters.
    pub kind: IndexKind,
    /// Similarity metric.
    pub metric: MetricType,
}

/// Type and parameters of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// A navigable graph.
    Hnsw {
        /// Edges of a node.
        m: u32,
        /// Candidates examined for each edge.
        ef_construction: u32,
    },
    /// No index.
    Flat,
    /// Clusters of vectors.
    IvfFlat {
        /// Number of clusters.
        nlist: u32,
    },
}

/// An index as Milvus describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundIndex {
    /// For example `HNSW`.
    pub index_type: String,
    /// For example `IP`.
    pub metric: String,
    /// The parameters that are numbers, for example `M`.
    pub parameters: BTreeMap<String, u32>,
}

impl FoundIndex {
    /// Type and metric as Milvus or a client of it spells them, and all parameters.
    pub fn new<'a>(
        index_type: &str,
        metric: &str,
        parameters: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let types = [IndexType::Hnsw, IndexType::Flat, IndexType::IvfFlat];
        let metrics = [MetricType::Ip, MetricType::Cosine];
        let numbers = parameters.into_iter();
        Self {
            index_type: spelled(index_type, &types.map(IndexType::as_str)),
            metric: spelled(metric, &metrics.map(MetricType::as_str)),
            parameters: numbers
                .filter_map(|(name, value)| Some((name.clone(), value.parse().ok()?)))
                .collect(),
        }
    }
}

/// A name as Milvus spells it: clients leave the underscores out, or write capitals otherwise.
fn spelled(found: &str, known: &[&str]) -> String {
    let letters = |name: &str| name.replace('_', "").to_ascii_uppercase();
    let known = known.iter().find(|name| letters(name) == letters(found));
    (*known.unwrap_or(&found)).to_owned()
}

impl IndexSpec {
    /// The index with all its values: the preset's, the explicit ones, or those of `Accurate`.
    #[must_use]
    pub fn resolved(&self) -> ResolvedIndex {
        let kind = match self.index_type {
            IndexType::Hnsw => {
                let (m, ef_construction) = self.preset.unwrap_or(IndexPreset::Accurate).values();
                IndexKind::Hnsw {
                    m: self.m.unwrap_or(m),
                    ef_construction: self.ef_construction.unwrap_or(ef_construction),
                }
            }
            IndexType::Flat => IndexKind::Flat,
            IndexType::IvfFlat => IndexKind::IvfFlat {
                nlist: self.nlist.unwrap_or(128),
            },
        };
        ResolvedIndex {
            kind,
            metric: self.metric,
        }
    }

    /// The same index, written with explicit values, which workers of earlier versions understand.
    #[must_use]
    pub fn written_out(&self) -> Self {
        let mut explicit = Self {
            index_type: self.index_type,
            metric: self.metric,
            ..Self::default()
        };
        match self.resolved().kind {
            IndexKind::Hnsw { m, ef_construction } => {
                explicit.m = Some(m);
                explicit.ef_construction = Some(ef_construction);
            }
            IndexKind::Flat => {}
            IndexKind::IvfFlat { nlist } => explicit.nlist = Some(nlist),
        }
        explicit
    }
}

impl ResolvedIndex {
    /// Its type.
    #[must_use]
    pub fn index_type(&self) -> IndexType {
        match self.kind {
            IndexKind::Hnsw { .. } => IndexType::Hnsw,
            IndexKind::Flat => IndexType::Flat,
            IndexKind::IvfFlat { .. } => IndexType::IvfFlat,
        }
    }

    /// Its parameters by their names in Milvus.
    #[must_use]
    pub fn parameters(&self) -> Vec<(&'static str, u32)> {
        match self.kind {
            IndexKind::Hnsw { m, ef_construction } => {
                vec![("M", m), ("efConstruction", ef_construction)]
            }
            IndexKind::Flat => Vec::new(),
            IndexKind::IvfFlat { nlist } => vec![("nlist", nlist)],
        }
    }

    /// How a found index differs from this one, for people. `None`: it does not.
    #[must_use]
    pub fn difference(&self, found: Option<&FoundIndex>) -> Option<String> {
        let want_type = self.index_type().as_str();
        let Some(found) = found else {
            return Some(format!("there is no index, want {want_type}"));
        };
        let mut parts = Vec::new();
        if found.index_type != want_type {
            parts.push(format!("type is {}, want {want_type}", found.index_type));
        }
        if found.metric != self.metric.as_str() {
            let want = self.metric.as_str();
            parts.push(format!("metric is {}, want {want}", found.metric));
        }
        if found.index_type == want_type {
            for (name, want) in self.parameters() {
                let is = found.parameters.get(name);
                if is != Some(&want) {
                    let is = is.map_or_else(|| "not set".to_owned(), u32::to_string);
                    parts.push(format!("{name} is {is}, want {want}"));
                }
            }
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hnsw(m: u32, ef_construction: u32) -> FoundIndex {
        FoundIndex {
            index_type: "HNSW".into(),
            metric: "IP".into(),
            parameters: BTreeMap::from([
                ("M".into(), m),
                ("efConstruction".into(), ef_construction),
            ]),
        }
    }

    fn resolved(yaml: &str) -> ResolvedIndex {
        let spec: IndexSpec = serde_yaml_ng::from_str(yaml).unwrap();
        spec.resolved()
    }

    #[test]
    fn a_preset_gives_both_values_and_neither_means_accurate() {
        for (yaml, m, ef_construction) in [
            ("{}", 32, 500),
            ("{preset: Economy}", 8, 100),
            ("{preset: Balanced}", 16, 300),
            ("{preset: Accurate}", 32, 500),
            ("{preset: Maximum}", 64, 1000),
            ("{m: 16}", 16, 500),
            ("{m: 16, efConstruction: 200}", 16, 200),
        ] {
            let kind = IndexKind::Hnsw { m, ef_construction };
            assert_eq!(resolved(yaml).kind, kind, "{yaml}");
        }
        assert_eq!(
            resolved("{type: IVF_FLAT}").parameters(),
            [("nlist", 128)],
            "as in Milvus"
        );
        // Objects that earlier versions stored have the values of HNSW with each type.
        assert_eq!(
            resolved("{type: FLAT, m: 32, efConstruction: 500}").kind,
            IndexKind::Flat
        );
    }

    #[test]
    fn written_out_it_is_the_same_index_without_a_preset() {
        for yaml in [
            "{}",
            "{preset: Economy}",
            "{type: FLAT, m: 9}",
            "{type: IVF_FLAT}",
        ] {
            let spec: IndexSpec = serde_yaml_ng::from_str(yaml).unwrap();
            let explicit = spec.written_out();
            assert_eq!(explicit.resolved(), spec.resolved(), "{yaml}");
            assert_eq!(explicit.preset, None, "{yaml}");
        }
    }

    #[test]
    fn an_index_is_known_however_a_client_spells_it() {
        let text = |text: &str| text.to_owned();
        let parameters = BTreeMap::from([(text("M"), text("32")), (text("mmap"), text("true"))]);
        for (found, expected) in [
            (("Hnsw", "Ip"), ("HNSW", "IP")),
            (("HNSW", "COSINE"), ("HNSW", "COSINE")),
            (("IvfFlat", "Cosine"), ("IVF_FLAT", "COSINE")),
            (("Flat", "L2"), ("FLAT", "L2")),
            (("DiskAnn", "MaxSimIp"), ("DiskAnn", "MaxSimIp")),
        ] {
            let found = FoundIndex::new(found.0, found.1, &parameters);
            assert_eq!((&*found.index_type, &*found.metric), expected);
            assert_eq!(found.parameters, BTreeMap::from([(text("M"), 32)]));
        }
    }

    #[test]
    fn an_equal_index_has_no_drift() {
        assert_eq!(resolved("{}").difference(Some(&hnsw(32, 500))), None);
    }

    #[test]
    fn each_difference_is_named() {
        assert_eq!(
            resolved("{metric: COSINE}")
                .difference(Some(&hnsw(16, 200)))
                .unwrap(),
            "metric is IP, want COSINE; M is 16, want 32; efConstruction is 200, want 500"
        );
        let found = FoundIndex {
            index_type: "IVF_FLAT".into(),
            metric: "IP".into(),
            ..FoundIndex::default()
        };
        assert_eq!(
            resolved("{type: IVF_FLAT}")
                .difference(Some(&found))
                .unwrap(),
            "nlist is not set, want 128"
        );
    }

    #[test]
    fn the_parameters_of_another_index_type_are_not_compared() {
        assert_eq!(
            resolved("{type: FLAT}")
                .difference(Some(&hnsw(16, 500)))
                .unwrap(),
            "type is HNSW, want FLAT"
        );
    }

    #[test]
    fn a_collection_without_an_index_drifts() {
        assert_eq!(
            resolved("{}").difference(None).unwrap(),
            "there is no index, want HNSW"
        );
    }
}
