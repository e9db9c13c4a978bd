//! The life of collections: what an audit finds and repairs, and an archive that comes back.
//!
//! Each test has a database, a bucket and a form of collections of its own: an audit sees all of
//! them, and would see what other tests do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_e2e::audit::Audit;
use layra_e2e::clients::{bucket, create_bucket};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::rows::Rows;
use layra_e2e::stores::Stores;
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{milvus_admin, pdf};
use layra_testbed::artifacts::PARQUET;
use milvus::v2::prelude::{DeleteRequest, HasCollectionRequest};
use mongodb::bson::{DateTime, Document, doc};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

/// A pipeline with stores of its own, and one knowledge base.
pub(crate) struct Own<'a> {
    stage: &'a Stage,
    pub(crate) stores: Stores,
    pub(crate) user: User,
    /// Names database, bucket and collections.
    id: String,
}

impl<'a> Own<'a> {
    pub(crate) async fn new(stage: &'a Stage) -> Result<Self> {
        let id = format!("life{}", &random_id()[..8]);
        let s3 = &stage.testbed.endpoints().s3;
        create_bucket(s3, &id).await?;
        stage.apply_until_ready(&Self::patch(&id)).await?;
        let mut stores = stage.stores.clone();
        stores.mongodb = stores.mongodb.client().database(&id);
        stores.objects = Arc::new(bucket(s3, &id)?);
        let user =
            User::with_knowledge_base(&stores, &stage.topic(), "alice", &random_id()).await?;
        Ok(Self {
            stage,
            stores,
            user,
            id,
        })
    }

    fn patch(id: &str) -> Value {
        json!({"spec": {
            "source": {"kafka": {"sessionTimeoutSeconds": 6}},
            "documents": {"objectStore": {"bucket": id}},
            "scaling": {"mode": "Manual", "replicas": 0},
            "stores": {
                "milvus": {
                    "collection": format!("{id}{{knowledge_db_id}}"),
                    "readers": "Own",
                    "archive": {"bucket": id, "prefix": "archives"},
                },
                "mongodb": {"database": id},
            },
        }})
    }

    /// Asks for retention, and waits until workers would read it.
    pub(crate) async fn retain(&self, retention: &Value) -> Result<()> {
        let mut patch = Self::patch(&self.id);
        patch["spec"]["stores"]["milvus"]["retention"] = retention.clone();
        self.stage.scene.apply(&self.stage.pipeline(&patch)).await?;
        let action = retention["action"].as_str().context("an action")?;
        eventually("the configuration", Duration::from_mins(1), async || {
            let config = self.cli().await?.configuration()?;
            Ok(config.contains(action).then_some(()))
        })
        .await
    }

    pub(crate) async fn cli(&self) -> Result<WorkerCli> {
        WorkerCli::of_pipeline(&self.stage.scene, &self.stage.testbed, &self.stage.name).await
    }

    pub(crate) fn collection_of(&self, knowledge_base: &str) -> String {
        format!("{}{}", self.id, knowledge_base.replace('-', "_"))
    }

    pub(crate) fn collection(&self) -> String {
        self.collection_of(&self.user.knowledge_base)
    }

    /// Workers process everything that was sent, without a model: each page has one vector.
    pub(crate) async fn process(&self) -> Result<()> {
        let paced = self.cli().await?;
        let paced = paced.with_arguments(&["--benchmark-paced-embedder-ms", "1"]);
        let mut fleet = Fleet::start(&paced, 1)?;
        let processed = self.stage.wait_until_processed().await;
        if processed.is_err() {
            eprintln!("{}", fleet.logs());
        }
        processed?;
        fleet.stop().await
    }

    async fn audit_of_stores(&self) -> Result<Audit> {
        let base = &self.user.knowledge_base;
        Audit::of(&self.stores, base, &self.collection()).await
    }

    pub(crate) async fn check_pages(&self, upload: &Upload, pages: u64) -> Result<()> {
        let audit = self.audit_of_stores().await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(
            audit.pages.get(&upload.file_id) == Some(&pages),
            "{audit:?}"
        );
        Ok(())
    }

    pub(crate) async fn has_collection(&self, name: &str) -> Result<bool> {
        let request = HasCollectionRequest::builder().collection_name(name);
        let answer = self.stores.milvus.has_collection(request.build()?).await?;
        Ok(answer.exists())
    }

    /// All rows, in the order of their pages: ids, page number and the bits of the vector.
    pub(crate) async fn rows(&self) -> Result<Vec<(String, String, i64, Vec<u32>)>> {
        let collection = self.collection();
        let fields = ["image_id", "file_id", "page_number", "vector"];
        let mut batches = Rows::of(&self.stores, &collection, &fields);
        let mut rows = Vec::new();
        while let Some(batch) = batches.next().await? {
            for row in batch.results().rows()? {
                let vector = row.get_float_vector("vector")?;
                rows.push((
                    row.get_str("image_id")?.to_owned(),
                    row.get_str("file_id")?.to_owned(),
                    row.get_i64("page_number")?,
                    vector.iter().map(|value| value.to_bits()).collect(),
                ));
            }
        }
        rows.sort();
        Ok(rows)
    }

    async fn delete_rows(&self, file_id: &str) -> Result<()> {
        let request = DeleteRequest::builder()
            .collection_name(self.collection())
            .filter(format!("file_id in ['{file_id}']"));
        self.stores.milvus.delete(request.build()?).await?;
        Ok(())
    }

    pub(crate) async fn remove_document(&self, file_id: &str) -> Result<()> {
        let files = self.stores.mongodb.collection::<Document>("files");
        files.delete_one(doc! { "file_id": file_id }).await?;
        Ok(())
    }

    async fn has_object(&self, key: &str) -> bool {
        self.stores.objects.head(&key.into()).await.is_ok()
    }
}

/// The report of an audit. Exit code 1 means that something is left.
pub(crate) async fn audit(cli: &WorkerCli, arguments: &[&str]) -> Result<(Value, bool)> {
    let always = ["audit", "--older-than-minutes", "0", "--output", "json"];
    let all = [&always[..], arguments].concat();
    let command = cli.command(&all, "cache");
    let output = tokio::process::Command::from(command).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text).with_context(|| format!("{output:?}"))?;
    Ok((report, output.status.success()))
}

/// The outcomes of the findings with a kind and a name.
pub(crate) fn outcome<'a>(report: &'a Value, kind: &str, name: &str) -> Option<&'a str> {
    let findings = report["findings"].as_array()?;
    let mut found = findings
        .iter()
        .filter(|finding| finding["kind"] == kind && finding["name"] == name);
    found.next()?["outcome"].as_str()
}

#[tokio::test]
async fn an_audit_repairs_each_orphan_and_leaves_what_is_in_work() -> Result<()> {
    on_stage("audit", async |stage| {
        let own = Own::new(stage).await?;
        let user = &own.user;
        let one = pdf::with_pages(&["One."]);
        let kept = user.upload_bytes("kept.pdf", one.clone()).await?;
        let gone = user
            .upload_bytes("gone.pdf", pdf::with_pages(&["A."; 3]))
            .await?;
        own.process().await?;
        own.check_pages(&kept, 1).await?;

        // The document of one file is lost: its rows, its images and its entry are left.
        let images = own.images_of(&gone).await?;
        ensure!(images.len() == 3, "{images:?}");
        own.remove_document(&gone.file_id).await?;
        // A collection whose knowledge base is gone, and one of somebody else.
        let loose = own.collection_of(&format!("bob_{}", random_id()));
        let foreign = format!("{}_backup", own.id);
        for name in [&loose, &foreign] {
            milvus_admin::create_like_layra(&own.stores.milvus, name, 8).await?;
        }
        // A file whose task is queued, and an object of another application.
        let queued = user.upload_bytes("queued.pdf", one).await?;
        let other = "models/config.json";
        let payload = PutPayload::from_static(b"{}");
        own.stores.objects.put(&other.into(), payload).await?;
        // A document in work, without a document in `files` yet.
        let ledger = own
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        let entry = ledger.find_one(doc! { "_id": &gone.file_id }).await?;
        let mut working = entry.context("an entry")?;
        working.insert("_id", "alice_working");
        working.insert("state", "working");
        working.insert("recheck_at", mongodb::bson::Bson::Null);
        ledger.insert_one(working).await?;
        let bases = own.stores.mongodb.collection::<Document>("knowledge_bases");
        let listed = doc! { "file_id": "alice_working", "created_at": DateTime::from_millis(1) };
        bases
            .update_one(
                doc! { "knowledge_base_id": &user.knowledge_base },
                doc! { "$push": { "files": listed } },
            )
            .await?;

        let cli = own.cli().await?;
        let planted = [
            ("RowsWithoutDocument", gone.file_id.as_str()),
            ("EntryWithoutDocument", gone.file_id.as_str()),
            ("ObjectWithoutDocument", images[0].as_str()),
            ("CollectionWithoutKnowledgeBase", loose.as_str()),
        ];
        let (report, is_clean) = audit(&cli, &["--no-other-layra"]).await?;
        ensure!(!is_clean, "{report:#}");
        for (kind, name) in planted {
            ensure!(
                outcome(&report, kind, name) == Some("Found"),
                "{kind}: {report:#}"
            );
        }
        ensure!(own.has_collection(&loose).await?, "only listed");

        let (report, _) = audit(&cli, &["--repair", "--no-other-layra"]).await?;
        for (kind, name) in planted {
            let done = outcome(&report, kind, name);
            // The rows' removal takes the entry and the images along.
            let is_gone = done.is_none() && kind != "CollectionWithoutKnowledgeBase";
            ensure!(done == Some("Removed") || is_gone, "{kind}: {report:#}");
        }
        let kind = "CollectionWithoutKnowledgeBase";
        ensure!(
            outcome(&report, kind, &foreign) == Some("Kept"),
            "{report:#}"
        );
        let (report, _) = audit(&cli, &[]).await?;
        for (kind, name) in planted {
            ensure!(outcome(&report, kind, name).is_none(), "{kind}: {report:#}");
        }
        ensure!(!own.has_collection(&loose).await?, "dropped");
        ensure!(own.has_collection(&foreign).await?, "somebody else's");
        for image in &images {
            ensure!(!own.has_object(image).await, "{image}");
        }
        for key in [&queued.key, &gone.key, other] {
            ensure!(own.has_object(key).await, "{key}");
        }
        for (kind, name) in [
            ("EntryWithoutDocument", "alice_working"),
            ("ObjectWithoutDocument", queued.key.as_str()),
            ("ObjectWithoutDocument", other),
        ] {
            ensure!(outcome(&report, kind, name).is_none(), "{report:#}");
        }
        ledger.delete_one(doc! { "_id": "alice_working" }).await?;
        bases
            .update_one(
                doc! { "knowledge_base_id": &user.knowledge_base },
                doc! { "$pull": { "files": { "file_id": "alice_working" } } },
            )
            .await?;
        own.process().await?;
        own.check_pages(&queued, 1).await?;
        own.check_pages(&kept, 1).await?;
        milvus_admin::drop(&own.stores.milvus, &foreign).await
    })
    .await
}

impl Own<'_> {
    /// The keys of the page images that the document of a file names.
    async fn images_of(&self, upload: &Upload) -> Result<Vec<String>> {
        let files = self.stores.mongodb.collection::<Document>("files");
        let file = files.find_one(doc! { "file_id": &upload.file_id }).await?;
        let file = file.context("a document")?;
        let images = file.get_array("images")?.iter();
        let keys = images.filter_map(|image| image.as_document()?.get_str("minio_filename").ok());
        Ok(keys.map(str::to_owned).collect())
    }
}

#[tokio::test]
async fn a_document_whose_rows_were_lost_is_ingested_again() -> Result<()> {
    on_stage("lost-rows", async |stage| {
        let own = Own::new(stage).await?;
        let one = pdf::with_pages(&["One.", "Two."]);
        let lost = own.user.upload_bytes("lost.pdf", one.clone()).await?;
        let whole = own.user.upload_bytes("whole.pdf", one).await?;
        own.process().await?;
        own.check_pages(&lost, 2).await?;
        own.delete_rows(&lost.file_id).await?;

        let cli = own.cli().await?;
        let kind = "DocumentIncomplete";
        let (report, is_clean) = audit(&cli, &[]).await?;
        ensure!(!is_clean, "{report:#}");
        ensure!(
            outcome(&report, kind, &lost.file_id) == Some("Found"),
            "{report:#}"
        );
        ensure!(
            outcome(&report, kind, &whole.file_id).is_none(),
            "{report:#}"
        );
        let (report, _) = audit(&cli, &["--repair"]).await?;
        ensure!(
            outcome(&report, kind, &lost.file_id) == Some("Requeued"),
            "{report:#}"
        );
        own.process().await?;
        own.check_pages(&lost, 2).await?;
        own.check_pages(&whole, 2).await?;
        let (report, _) = audit(&cli, &[]).await?;
        ensure!(report["counts"] == json!({}), "{report:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_archived_knowledge_base_comes_back_to_the_bit() -> Result<()> {
    on_stage("archive", async |stage| {
        let own = Own::new(stage).await?;
        let first = own
            .user
            .upload_bytes("first.pdf", pdf::with_pages(&["A."; 4]))
            .await?;
        let second = own
            .user
            .upload_bytes("second.pdf", pdf::with_pages(&["B."; 3]))
            .await?;
        own.process().await?;
        let before = own.rows().await?;
        ensure!(before.len() == 7, "{}", before.len());

        let cli = own.cli().await?;
        let base = ["--knowledge-base", own.user.knowledge_base.as_str()];
        let run = async |command: &str| cli.run(&[&[command][..], &base[..]].concat()).await;
        // A document in progress keeps the collection.
        let ledger = own
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        let entry = doc! { "_id": &first.file_id };
        let set = |state: &str| doc! { "$set": { "state": state } };
        ledger.update_one(entry.clone(), set("working")).await?;
        let refused = run("archive").await;
        ensure!(
            refused.is_err_and(|why| why.to_string().contains("in use")),
            "refused"
        );
        ensure!(own.rows().await? == before, "nothing was dropped");
        ledger.update_one(entry, set("done")).await?;

        let archived: Value = serde_json::from_str(&run("archive").await?)?;
        ensure!(!own.has_collection(&own.collection()).await?, "dropped");
        let again: Value = serde_json::from_str(&run("archive").await?)?;
        ensure!(again == archived, "{again}");
        let place = archived["place"].as_str().context("a place")?;
        read_with_python(&own, place, &before).await?;

        // What is archived is complete: an audit and a task that is sent again do nothing.
        let (report, _) = audit(&cli, &["--repair"]).await?;
        ensure!(report["counts"] == json!({}), "{report:#}");
        own.user.send_task(&first).await?;
        // A new document does not get in, and nothing else is touched.
        let third = own
            .user
            .upload_bytes("third.pdf", pdf::with_pages(&["C."]))
            .await?;
        own.process().await?;
        let letters = stage.records(&format!("{}.dlq", stage.topic()))?;
        ensure!(
            letters.len() == 1 && letters[0].value.contains(&third.file_id),
            "{letters:#?}"
        );
        let reason = letters[0].header("layra-error-reason");
        ensure!(reason == Some("KnowledgeBaseArchived"), "{letters:#?}");
        ensure!(
            !own.has_collection(&own.collection()).await?,
            "not created again"
        );

        // A restore that was killed has inserted a part.
        let records = own
            .stores
            .mongodb
            .collection::<Document>("ingestion_archives");
        let restored: Value = serde_json::from_str(&run("restore").await?)?;
        ensure!(
            restored["files"] == 2 && restored["inserted"] == 7,
            "{restored}"
        );
        ensure!(own.rows().await? == before, "not the same rows");
        own.delete_rows(&second.file_id).await?;
        records
            .update_one(
                doc! { "_id": &own.user.knowledge_base },
                doc! { "$set": { "state": "restoring" } },
            )
            .await?;
        let restored: Value = serde_json::from_str(&run("restore").await?)?;
        ensure!(restored["inserted"] == 3, "{restored}");
        ensure!(own.rows().await? == before, "not the same rows");
        let restored: Value = serde_json::from_str(&run("restore").await?)?;
        ensure!(restored["inserted"] == 0, "{restored}");
        own.check_pages(&first, 4).await?;

        run("delete").await?;
        let below = "archives".into();
        let left: Vec<_> = own.stores.objects.list(Some(&below)).try_collect().await?;
        ensure!(
            left.is_empty(),
            "the archive goes with the knowledge base: {left:?}"
        );
        Ok(())
    })
    .await
}

/// pandas and polars read the rows of an archive.
async fn read_with_python(
    own: &Own<'_>,
    place: &str,
    rows: &[(String, String, i64, Vec<u32>)],
) -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let below = format!("{place}/vectors").as_str().into();
    let parts: Vec<_> = own.stores.objects.list(Some(&below)).try_collect().await?;
    ensure!(!parts.is_empty(), "no part in {place}");
    for (index, part) in parts.iter().enumerate() {
        let bytes = own
            .stores
            .objects
            .get(&part.location)
            .await?
            .bytes()
            .await?;
        std::fs::write(folder.path().join(format!("{index}.parquet")), bytes)?;
    }
    let expected: Vec<Value> = rows
        .iter()
        .map(|(image, file, page, bits)| json!([image, file, page, bits]))
        .collect();
    let expected_file = folder.path().join("expected.json");
    std::fs::write(&expected_file, serde_json::to_vec(&expected)?)?;
    let script = layra_testbed::settings::repository().join("e2e/bench/archive.py");
    let output = tokio::process::Command::new("python3")
        .env("PYTHONPATH", PARQUET.path(own.stage.testbed.settings()))
        .arg(script)
        .args([folder.path(), &expected_file])
        .output()
        .await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
