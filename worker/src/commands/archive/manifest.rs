//! The manifest of an archive: what it holds, with counts and checksums. It is written last. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::document::Fingerprint;
use crate::stores::milvus::Row;

/// The only version so far.
const VERSION: u32 = 1;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) knowledge_base: String,
    pub(super) collection: String,
    /// RFC 3339.
    pub(super) archived_at: String,
    /// Width of the vectors.
    pub(super) dimensions: usize,
    /// The model of the vectors, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<Fingerprint>,
    /// Rows of all parts.
    pub(super) rows: u64,
    /// Whether MongoDB had the knowledge base.
    pub(super) has_knowledge_base: bool,
    /// Parquet files with the rows.
    pub(super) vectors: Vec<Part>,
    /// Files with MongoDB's documents: one in each line, as canonical extended JSON.
    pub(super) documents: Vec<Part>,
    /// What the rows of each file are.
    pub(super) files: BTreeMap<String, Content>,
}

/// An object of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// The end of its key.
    pub(super) name: String,
    /// Rows or documents.
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// A set of rows, whatever their order and their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Content {
    pub(super) rows: u64,
    /// The sum of the rows' checksums, as hex digits.
    digest: String,
}

impl Content {
    fn add(&mut self, row: &Row) {
        let sum = u128::from_str_radix(&self.digest, 16).unwrap_or_default();
        self.digest = format!("{:032x}", sum.wrapping_add(checksum(row)));
        self.rows += 1;
    }
}

/// Adds rows to the contents of their files.
pub(super) fn add(files: &mut BTreeMap<String, Content>, rows: &[Row]) {
    for row in rows {
        // Most rows are of a file that is known: its id is not copied.
        if !files.contains_key(&row.file_id) {
            files.insert(row.file_id.clone(), Content::default());
        }
        if let Some(content) = files.get_mut(&row.file_id) {
            content.add(row);
        }
    }
}

/// A checksum of all that a restored row has in common with the archived one: not of its key.
fn checksum(row: &Row) -> u128 {
    let mut hasher = Sha256::new();
    for text in [&row.image_id, &row.file_id] {
        hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(text);
    }
    hasher.update(row.page.to_le_bytes());
    for value in &row.vector {
        hasher.update(value.to_bits().to_le_bytes());
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize()[..16]);
    u128::from_le_bytes(first)
}

/// The SHA-256 of some bytes, as hex digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl Manifest {
    pub(super) fn new(knowledge_base: &str, collection: &str, dimensions: usize) -> Self {
        Self {
            version: VERSION,
            knowledge_base: knowledge_base.to_owned(),
            collection: collection.to_owned(),
            archived_at: String::new(),
            dimensions,
            model: None,
            rows: 0,
            has_knowledge_base: false,
            vectors: Vec::new(),
            documents: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// Reads a manifest. An error is a sentence.
    pub(super) fn parse(bytes: &[u8], expected_sha256: &str) -> Result<Self, String> {
        if sha256(bytes) != expected_sha256 {
            return Err("the manifest was changed after the archive was written".to_owned());
        }
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("the manifest cannot be read: {error}"))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(format!(
                "the manifest has version {version}, which this worker does not know"
            ));
        }
        let rows: u64 = manifest.files.values().map(|content| content.rows).sum();
        if rows != manifest.rows {
            return Err("the manifest contradicts itself in the number of rows".to_owned());
        }
        Ok(manifest)
    }
}

impl Part {
    pub(super) fn new(name: String, count: usize, bytes: &[u8]) -> Self {
        Self {
            name,
            count: u64::try_from(count).unwrap_or(u64::MAX),
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            sha256: sha256(bytes),
        }
    }

    /// Whether an object holds what was written.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        u64::try_from(bytes.len()) == Ok(self.bytes) && sha256(bytes) == self.sha256
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::fingerprint::a_fingerprint;

    fn row(file: &str, page: i64, value: f32) -> Row {
        Row {
            pk: 7,
            image_id: format!("{file}-{page}"),
            page,
            file_id: file.to_owned(),
            vector: vec![value, 0.5],
        }
    }

    fn contents(rows: &[Row]) -> BTreeMap<String, Content> {
        let mut files = BTreeMap::new();
        add(&mut files, rows);
        files
    }

    proptest! {
        /// Restored rows have other keys and another order.
        #[test]
        fn contents_do_not_depend_on_keys_and_order(
            rows in proptest::collection::vec((0..3_u8, 0..9_i64, any::<f32>()), 1..30),
            by in any::<usize>(),
        ) {
            let rows: Vec<Row> =
                rows.into_iter().map(|(file, page, value)| row(&file.to_string(), page, value)).collect();
            let mut moved = rows.clone();
            moved.rotate_left(by % rows.len());
            for row in &mut moved {
                row.pk = 9;
            }
            prop_assert_eq!(contents(&rows), contents(&moved));
        }

        /// One bit of one vector, a row less or a row twice: each is another content.
        #[test]
        fn any_difference_is_another_content(
            rows in proptest::collection::vec((0..9_i64, any::<u32>()), 1..20),
            which in any::<proptest::sample::Index>(),
            bit in 0..32_u32,
        ) {
            let rows: Vec<Row> =
                rows.into_iter().map(|(page, bits)| row("f", page, f32::from_bits(bits))).collect();
            let which = which.index(rows.len());
            let mut flipped = rows.clone();
            flipped[which].vector[0] = f32::from_bits(rows[which].vector[0].to_bits() ^ (1 << bit));
            prop_assert_ne!(contents(&rows), contents(&flipped));
            let mut less = rows.clone();
            less.remove(which);
            prop_assert_ne!(contents(&rows), contents(&less));
            let mut twice = rows.clone();
            twice.push(rows[which].clone());
            prop_assert_ne!(contents(&rows), contents(&twice));
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_not_if_it_was_changed() {
        let mut manifest = Manifest::new("u_kb", "colqwenu_kb", 2);
        add(&mut manifest.files, &[row("f", 0, 1.0), row("g", 0, 2.0)]);
        manifest.rows = 2;
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let sum = sha256(&bytes);
        assert_eq!(Manifest::parse(&bytes, &sum), Ok(manifest.clone()));
        assert!(
            Manifest::parse(b"{}", &sum)
                .unwrap_err()
                .contains("changed")
        );
        manifest.model = Some(a_fingerprint("minilm", "1"));
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let sum = sha256(&bytes);
        assert_eq!(Manifest::parse(&bytes, &sum), Ok(manifest.clone()));
        manifest.rows = 3;
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let error = Manifest::parse(&bytes, &sha256(&bytes)).unwrap_err();
        assert!(error.contains("number of rows"), "{error}");
        manifest.version = 2;
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let error = Manifest::parse(&bytes, &sha256(&bytes)).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
    }
}
