//! The number format of stored vectors: which servers have it, and how vectors are converted.
//!
//! An existing collection keeps its format, whatever the settings say.

use std::sync::PoisonError;

use half::{bf16, f16};
use layra_crds::VectorType;
use milvus::v2::prelude as sdk;
use sdk::{DataType, FieldData, FieldSchema, ResultRow, SearchVectors};

use super::Vectors;
use super::models::Use;
use crate::runtime::failure::{Failure, Reason, Stage};

/// Name of the column.
const FIELD: &str = "vector";

impl Vectors {
    /// Fails if the server is too old for the format of new collections.
    pub(super) async fn check_server(&self) -> Result<(), Failure> {
        if self.vector_type.needs().is_none() {
            return Ok(());
        }
        let request = sdk::GetServerVersionRequest::builder().build()?;
        let answer = self.client.server_version(request).await?;
        check_version(self.vector_type, answer.version())
    }

    /// Fails if the collection's vectors are of another model, or not like the model's. Notes their
    /// format, and returns the id of the collection.
    pub(super) async fn check_vectors(
        &self,
        collection: &str,
        wanted: Use,
    ) -> Result<i64, Failure> {
        let (id, found, vector_type) = self.id_width_and_type(collection).await?;
        self.check_model(collection, id, wanted).await?;
        if found != self.dimensions {
            let message = format!(
                "collection {collection} has vectors of width {found}, the model's have {}: the \
                 collection was created for another model. Use that model, or delete the knowledge \
                 base",
                self.dimensions
            );
            return Err(Failure::permanent(
                Stage::Milvus,
                Reason::DimensionMismatch,
                message,
            ));
        }
        self.note_type(collection, vector_type);
        Ok(id)
    }

    /// The width of a collection's vectors, and their format. `None`: it does not exist.
    pub(crate) async fn vectors_of(
        &self,
        collection: &str,
    ) -> Result<Option<(usize, VectorType)>, Failure> {
        if !self.has_collection(collection).await? {
            return Ok(None);
        }
        let (_, width, vector_type) = self.id_width_and_type(collection).await?;
        Ok(Some((width, vector_type)))
    }

    /// The format of a collection's vectors.
    pub(super) async fn type_of(&self, collection: &str) -> Result<VectorType, Failure> {
        let known = self.types().get(collection).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let (_, _, found) = self.id_width_and_type(collection).await?;
        self.note_type(collection, found);
        Ok(found)
    }

    pub(super) fn note_type(&self, collection: &str, vector_type: VectorType) {
        self.types().insert(collection.to_owned(), vector_type);
    }

    pub(super) fn forget_type(&self, collection: &str) {
        self.types().remove(collection);
    }

    fn types(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, VectorType>> {
        self.found_types
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn id_width_and_type(
        &self,
        collection: &str,
    ) -> Result<(i64, usize, VectorType), Failure> {
        let request = sdk::DescribeCollectionRequest::builder()
            .collection_name(collection)
            .build()?;
        let answer = self.client.describe_collection(request).await?;
        let fields = answer.description().get_schema().get_fields();
        let field = fields.iter().find(|field| field.get_name() == FIELD);
        let width = field.map_or(0, FieldSchema::get_dimension);
        let vector_type = from_milvus(field.map(FieldSchema::get_data_type)).ok_or_else(|| {
            let message = format!(
                "collection {collection} has no column `{FIELD}` in a known format: it is not a \
                 collection of pages. Delete the knowledge base, or change \
                 stores.milvus.collection"
            );
            Failure::permanent(Stage::Milvus, Reason::DimensionMismatch, message)
        })?;
        let id = answer.description().get_collection_id();
        Ok((id, usize::try_from(width).unwrap_or(0), vector_type))
    }
}

/// Fails if a server of this version does not have the format. A version that is not one of
/// Milvus' own is trusted: the server refuses what it does not know.
fn check_version(vector_type: VectorType, version: &str) -> Result<(), Failure> {
    let Some((major, minor)) = vector_type.needs() else {
        return Ok(());
    };
    match parse(version) {
        Some(found) if found < (major, minor) => {
            let name = vector_type.as_str();
            let message = format!(
                "stores.milvus.vectorType: {name} needs Milvus {major}.{minor} or later, the \
                 server is {version}. Upgrade it, or use Float32"
            );
            Err(Failure::fatal(Stage::Milvus, Reason::MilvusTooOld, message))
        }
        Some(_) => Ok(()),
        None => {
            tracing::warn!(version, "unknown version of Milvus");
            Ok(())
        }
    }
}

/// Major and minor version of `v2.4.0-rc.1` and the like.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The format's type in Milvus.
pub(super) fn in_milvus(vector_type: VectorType) -> DataType {
    match vector_type {
        VectorType::Float32 => DataType::FloatVector,
        VectorType::Float16 => DataType::Float16Vector,
        VectorType::BFloat16 => DataType::BFloat16Vector,
        VectorType::Int8 => DataType::Int8Vector,
    }
}

fn from_milvus(data_type: Option<DataType>) -> Option<VectorType> {
    let all = VectorType::ALL.into_iter();
    let mut same = all.filter(|vector_type| Some(in_milvus(*vector_type)) == data_type);
    same.next()
}

/// The column of some vectors.
pub(super) fn column<'a>(
    vector_type: VectorType,
    vectors: impl Iterator<Item = &'a [f32]>,
) -> FieldData {
    let name = FIELD.to_owned();
    match vector_type {
        VectorType::Float32 => FieldData::FloatVector {
            name,
            values: vectors.map(<[f32]>::to_vec).collect(),
        },
        VectorType::Float16 => FieldData::Float16Vector {
            name,
            values: vectors.map(to_f16).collect(),
        },
        VectorType::BFloat16 => FieldData::BFloat16Vector {
            name,
            values: vectors.map(to_bf16).collect(),
        },
        VectorType::Int8 => FieldData::Int8Vector {
            name,
            values: vectors.map(to_int8).collect(),
        },
    }
}

/// The vectors of a question: Milvus compares only vectors of the same format.
pub(super) fn search_vectors(vector_type: VectorType, question: &[Vec<f32>]) -> SearchVectors {
    let vectors = question.iter().map(Vec::as_slice);
    match vector_type {
        VectorType::Float32 => SearchVectors::Float(question.to_vec()),
        VectorType::Float16 => SearchVectors::Float16(vectors.map(to_f16).collect()),
        VectorType::BFloat16 => SearchVectors::BFloat16(vectors.map(to_bf16).collect()),
        VectorType::Int8 => SearchVectors::Int8(vectors.map(to_int8).collect()),
    }
}

/// The vector of a row.
pub(super) fn read(vector_type: VectorType, row: &ResultRow<'_>) -> Result<Vec<f32>, Failure> {
    Ok(match vector_type {
        VectorType::Float32 => row.get_float_vector(FIELD)?.to_vec(),
        VectorType::Float16 => from_f16(row.get_float16_vector(FIELD)?),
        VectorType::BFloat16 => from_bf16(row.get_bfloat16_vector(FIELD)?),
        VectorType::Int8 => from_int8(row.get_int8_vector(FIELD)?),
    })
}

/// A vector as it is read after it was stored in this format.
pub(crate) fn rounded(vector_type: VectorType, vector: &[f32]) -> Vec<f32> {
    match vector_type {
        VectorType::Float32 => vector.to_vec(),
        VectorType::Float16 => from_f16(&to_f16(vector)),
        VectorType::BFloat16 => from_bf16(&to_bf16(vector)),
        VectorType::Int8 => from_int8(&to_int8(vector)),
    }
}

fn to_f16(vector: &[f32]) -> Vec<u16> {
    let values = vector.iter();
    values
        .map(|value| f16::from_f32(*value).to_bits())
        .collect()
}

fn from_f16(bits: &[u16]) -> Vec<f32> {
    let values = bits.iter();
    values.map(|bits| f16::from_bits(*bits).to_f32()).collect()
}

fn to_bf16(vector: &[f32]) -> Vec<u16> {
    let values = vector.iter();
    values
        .map(|value| bf16::from_f32(*value).to_bits())
        .collect()
}

fn from_bf16(bits: &[u16]) -> Vec<f32> {
    let values = bits.iter();
    values.map(|bits| bf16::from_bits(*bits).to_f32()).collect()
}

/// Each vector has its own scale, so that its largest number becomes 127. The cosine does not see
/// the scale.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the largest number becomes 127"
)]
fn to_int8(vector: &[f32]) -> Vec<i8> {
    let largest = vector
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let values = vector.iter();
    values.map(|value| (value * scale).round() as i8).collect()
}

/// A vector of unit length, as the model's are.
fn from_int8(vector: &[i8]) -> Vec<f32> {
    let squares = vector.iter().map(|value| f32::from(*value).powi(2));
    let length = squares.sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    let values = vector.iter();
    values.map(|value| f32::from(*value) / length).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn unit(width: usize) -> impl Strategy<Value = Vec<f32>> {
        vec(-1.0_f32..1.0, width).prop_filter_map("too short", |vector| {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            (length > 0.1).then(|| vector.iter().map(|value| value / length).collect())
        })
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    proptest! {
        #[test]
        fn a_stored_vector_points_where_it_pointed(vector in unit(128), other in unit(128)) {
            for (vector_type, difference) in [
                (VectorType::Float32, 0.0),
                (VectorType::Float16, 1e-3),
                (VectorType::BFloat16, 8e-3),
                (VectorType::Int8, 2e-2),
            ] {
                let stored = rounded(vector_type, &vector);
                prop_assert_eq!(stored.len(), vector.len());
                let off = (dot(&stored, &other) - dot(&vector, &other)).abs();
                prop_assert!(off <= difference, "{:?} is off by {}", vector_type, off);
                let again = rounded(vector_type, &stored);
                let off = again.iter().zip(&stored).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                prop_assert!(off <= 1e-6, "a copy is not equal: {}", off);
            }
        }

        #[test]
        fn every_vector_uses_all_of_int8(vector in unit(16)) {
            let stored = to_int8(&vector);
            prop_assert_eq!(stored.iter().map(|value| value.unsigned_abs()).max(), Some(127));
            prop_assert!(rounded(VectorType::Int8, &vector).iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn a_vector_without_a_direction_stays_one() {
        assert_eq!(rounded(VectorType::Int8, &[0.0, 0.0]), [0.0, 0.0]);
    }

    #[test]
    fn each_format_has_its_column_and_its_question() {
        let rows = [vec![1.0_f32, -0.5], vec![0.25, 0.0]];
        let column = |vector_type| column(vector_type, rows.iter().map(Vec::as_slice));
        let FieldData::Float16Vector { name, values } = column(VectorType::Float16) else {
            panic!("not a column of Float16");
        };
        assert_eq!((name.as_str(), values.len()), ("vector", 2));
        assert_eq!(values[0], [0x3c00, 0xb800]);
        let FieldData::BFloat16Vector { values, .. } = column(VectorType::BFloat16) else {
            panic!("not a column of BFloat16");
        };
        assert_eq!(values[0], [0x3f80, 0xbf00]);
        let FieldData::Int8Vector { values, .. } = column(VectorType::Int8) else {
            panic!("not a column of Int8");
        };
        assert_eq!(values, [[127, -64], [127, 0]]);
        assert_eq!(
            search_vectors(VectorType::Int8, &rows),
            SearchVectors::Int8(vec![vec![127, -64], vec![127, 0]])
        );
        for vector_type in VectorType::ALL {
            assert_eq!(from_milvus(Some(in_milvus(vector_type))), Some(vector_type));
        }
        assert_eq!(from_milvus(Some(DataType::BinaryVector)), None);
        assert_eq!(from_milvus(None), None);
    }

    #[test]
    fn an_old_server_is_refused_with_a_sentence_and_an_unknown_one_is_not() {
        for (vector_type, version) in [
            (VectorType::Float16, "v2.3.5"),
            (VectorType::BFloat16, "2.3.21"),
            (VectorType::Int8, "v2.5.11"),
        ] {
            let failure = check_version(vector_type, version).unwrap_err();
            assert_eq!(failure.reason, Reason::MilvusTooOld);
            assert!(!failure.rejects_document(), "no document is to blame");
            for words in [vector_type.as_str(), version, "needs Milvus 2."] {
                assert!(failure.message.contains(words), "{failure}");
            }
        }
        for (vector_type, version) in [
            (VectorType::Float32, "v2.3.5"),
            (VectorType::Float16, "v2.4.0-rc.1"),
            (VectorType::BFloat16, "2.10.0"),
            (VectorType::Int8, "v2.6.0"),
            (VectorType::Int8, "3.0-20260301-abcdef"),
            (VectorType::Int8, "master"),
        ] {
            assert_eq!(check_version(vector_type, version), Ok(()), "{version}");
        }
    }
}
