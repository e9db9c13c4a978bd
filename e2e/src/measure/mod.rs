//! Measurements on real servers: the worker compared with a Python script that has LAYRA's stages,
//! several workers compared with one, the memory of a worker, the wait of a single file, an upgrade
//! under load, and hours of work with faults. All speeds are ratios of values that were measured in the same run.

pub mod collections;
pub mod fairness;
pub mod gap;
pub mod ingest;
mod kills;
pub mod memory;
mod processes;
pub mod queries;
pub mod reindex;
pub mod scaling;
pub mod soak;
pub mod tune;
pub mod upgrade;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use milvus::v2::prelude::{ConsistencyLevel, QueryRequest};
use redis::AsyncCommands;

use crate::layra::{Upload, collection_of};
use crate::pdf;
use crate::stores::Stores;

const MINUTE: Duration = Duration::from_mins(1);

/// Rows of a collection that a search finds at this moment.
async fn searchable_rows(stores: &Stores, collection: &str) -> Result<i64> {
    let query = QueryRequest::builder()
        .collection_name(collection)
        .output_fields(["count(*)"])
        .consistency_level(ConsistencyLevel::Strong)
        .build()?;
    let answer = stores.milvus.query(query).await?;
    let rows = answer.results().rows()?;
    let row = rows.into_iter().next().context("a count")?;
    Ok(row.get_i64("count(*)")?)
}

/// The `count` smallest PDFs of a directory, smallest first.
fn smallest_pdfs(directory: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pdf") {
            files.push((std::fs::metadata(&path)?.len(), path));
        }
    }
    files.sort();
    files.truncate(count);
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// A document of short pages.
fn short_document(number: usize, pages: usize) -> Vec<u8> {
    let texts: Vec<String> = (0..pages)
        .map(|page| format!("Document {number}, page {page}."))
        .collect();
    pdf::with_pages(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether LAYRA's progress display shows all of them as completed. A failed one is an error.
async fn completed(stores: &Stores, uploads: &[Upload]) -> Result<bool> {
    let mut redis = stores.redis.clone();
    for upload in uploads {
        let key = format!("task:{}", upload.task_id);
        let status: Option<String> = redis.hget(key, "status").await?;
        ensure!(
            status.as_deref() != Some("failed"),
            "{} failed",
            upload.filename
        );
        if status.as_deref() != Some("completed") {
            return Ok(false);
        }
    }
    Ok(true)
}
