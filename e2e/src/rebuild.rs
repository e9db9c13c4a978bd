//! A collection as LAYRA fills and empties it, without originals, and `layra-worker reindex` on it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use layra_crds::{REINDEX_PATH, ReindexProgress};
use milvus::v2::prelude as sdk;
use mongodb::bson::{Document, doc};
use rustix::process::{Pid, Signal, kill_process};
use sdk::{ConsistencyLevel, FieldData};

use crate::milvus_admin;
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Rows per answer and insert.
const ROWS_AT_ONCE: usize = 4000;

/// A knowledge base whose files have pages of equal length.
#[derive(Clone)]
pub struct Library {
    /// Milvus and MongoDB.
    pub stores: Stores,
    /// Its id.
    pub knowledge_base: String,
    /// Its collection.
    pub collection: String,
    /// Width of a vector.
    pub dimensions: usize,
    /// Vectors of a page.
    pub rows: usize,
}

impl Library {
    /// A vector of length 1 that only its place determines.
    #[must_use]
    pub fn vector(&self, file: &str, page: usize, row: usize) -> Vec<f32> {
        let mut hasher = DefaultHasher::new();
        (file, page, row).hash(&mut hasher);
        let mut random = fastrand::Rng::with_seed(hasher.finish());
        let vector: Vec<f32> = (0..self.dimensions).map(|_| random.f32() - 0.5).collect();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / norm).collect()
    }

    /// Adds a file to `files`, then its pages to a collection: ours, or another one.
    pub async fn add(&self, file: &str, pages: usize, collection: &str) -> Result<()> {
        let files = self.stores.mongodb.collection::<Document>("files");
        let entry = doc! { "file_id": file, "knowledge_db_id": &self.knowledge_base, "images": [] };
        files.insert_one(entry).await?;
        let rows: Vec<(usize, usize)> = (0..pages)
            .flat_map(|page| (0..self.rows).map(move |row| (page, row)))
            .collect();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            self.insert(file, rows, collection).await?;
        }
        Ok(())
    }

    async fn insert(&self, file: &str, rows: &[(usize, usize)], collection: &str) -> Result<()> {
        let vectors = rows.iter();
        let vectors = vectors.map(|(page, row)| self.vector(file, *page, *row));
        let pages = rows.iter().map(|(page, _)| i64::try_from(*page));
        let pages: Vec<i64> = pages.collect::<Result<_, _>>()?;
        let columns = vec![
            FieldData::FloatVector {
                name: "vector".into(),
                values: vectors.collect(),
            },
            FieldData::VarChar {
                name: "image_id".into(),
                values: rows.iter().map(|(page, _)| image(file, *page)).collect(),
            },
            FieldData::Int64 {
                name: "page_number".into(),
                values: pages,
            },
            FieldData::VarChar {
                name: "file_id".into(),
                values: vec![file.to_owned(); rows.len()],
            },
        ];
        let request = sdk::InsertRequest::builder()
            .collection_name(collection)
            .columns(columns)
            .build()?;
        self.stores.milvus.insert(request).await?;
        Ok(())
    }

    /// Deletes a file as LAYRA does: MongoDB first.
    pub async fn delete(&self, file: &str) -> Result<()> {
        let files = self.stores.mongodb.collection::<Document>("files");
        files.delete_one(doc! { "file_id": file }).await?;
        let request = sdk::DeleteRequest::builder()
            .collection_name(&self.collection)
            .filter(format!("file_id in ['{file}', ]"))
            .build()?;
        self.stores.milvus.delete(request).await?;
        Ok(())
    }

    /// Number of rows of each page in Milvus.
    pub async fn pages(&self) -> Result<BTreeMap<String, usize>> {
        let mut pages = BTreeMap::new();
        let mut last = 0;
        loop {
            let request = sdk::QueryRequest::builder()
                .collection_name(&self.collection)
                .filter(format!("pk > {last}"))
                .output_fields(["pk", "image_id"])
                .limit(i64::try_from(ROWS_AT_ONCE)?)
                .consistency_level(ConsistencyLevel::Strong)
                .build()?;
            let answer = self.stores.milvus.query(request).await?;
            let before = last;
            for row in answer.results().rows()? {
                last = last.max(row.get_i64("pk")?);
                *pages
                    .entry(row.get_str("image_id")?.to_owned())
                    .or_default() += 1;
            }
            if last == before {
                return Ok(pages);
            }
        }
    }

    /// Pages of these files that are not there exactly once, and pages of others.
    pub async fn violations(&self, files: &BTreeMap<String, usize>) -> Result<Vec<String>> {
        let mut found = self.pages().await?;
        let mut violations = Vec::new();
        for (file, pages) in files {
            for page in 0..*pages {
                let image = image(file, page);
                let rows = found.remove(&image).unwrap_or_default();
                if rows != self.rows {
                    violations.push(format!("{image}: {rows} rows of {}", self.rows));
                }
            }
        }
        violations.extend(
            found
                .into_iter()
                .map(|(image, rows)| format!("{image}: {rows} rows")),
        );
        Ok(violations)
    }

    /// `M` of the collection's index.
    pub async fn index_m(&self) -> Result<String> {
        milvus_admin::index_m(&self.stores.milvus, &self.collection).await
    }

    /// The state of the rebuild.
    pub async fn rebuild(&self) -> Result<Option<Document>> {
        let rebuilds = self
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        Ok(rebuilds.find_one(doc! { "_id": &self.collection }).await?)
    }
}

/// The `image_id` of a page.
#[must_use]
pub fn image(file: &str, page: usize) -> String {
    format!("{file}_page{page}")
}

/// `layra-worker reindex` or `reembed`, running.
pub struct Reindex {
    child: Child,
    address: String,
}

impl Reindex {
    /// Rebuilds one collection beside the one that serves.
    pub fn start(cli: &WorkerCli, collection: &str, late_writes: Duration) -> Result<Self> {
        Self::command(
            cli,
            &["reindex", "--method", "beside"],
            collection,
            late_writes,
        )
    }

    /// Embeds one collection again with the model of the configuration.
    pub fn reembed(cli: &WorkerCli, collection: &str, late_writes: Duration) -> Result<Self> {
        Self::command(cli, &["reembed"], collection, late_writes)
    }

    fn command(
        cli: &WorkerCli,
        command: &[&str],
        collection: &str,
        late_writes: Duration,
    ) -> Result<Self> {
        // Free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let address = format!("127.0.0.1:{port}");
        let late_writes = late_writes.as_secs().to_string();
        let arguments = [
            "--collection",
            collection,
            "--listen",
            &address,
            "--late-writes-seconds",
            &late_writes,
        ];
        let arguments = [command, &arguments[..]].concat();
        let log = cli.directory().join("reindex.log");
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(log)?;
        let child = cli
            .command(&arguments, "cache")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child, address })
    }

    /// Kills it, as the kernel does.
    pub fn kill(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended. An error if it failed.
    pub async fn finish(mut self, limit: Duration, cli: &WorkerCli) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                None if tokio::time::Instant::now() < deadline => {}
                status => {
                    let log = std::fs::read_to_string(cli.directory().join("reindex.log"))?;
                    bail!("reindex: {status:?} after {limit:?} at most\n{log}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What it reports.
    pub async fn progress(&self) -> Result<ReindexProgress> {
        let answer = reqwest::get(format!("http://{}{REINDEX_PATH}", self.address)).await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }
}

impl Drop for Reindex {
    fn drop(&mut self) {
        // An earlier error: nothing of a test stays behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
