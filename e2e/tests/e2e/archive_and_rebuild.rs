//! Audits, archives and rebuilds of one collection keep apart.

use anyhow::{Result, ensure};
use layra_e2e::layra::random_id;
use layra_e2e::{milvus_admin, pdf};
use milvus::v2::prelude::RenameCollectionRequest;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::collection_life::{Own, audit, outcome};
use crate::scene::on_stage;

/// As a rebuild names its collections.
const AWAY: &str = "layra_reindex_0123456789abcdef0123456789abcdef_old";

impl Own<'_> {
    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let request = RenameCollectionRequest::builder()
            .collection_name(from)
            .new_collection_name(to);
        let renamed = self.stores.milvus.rename_collection(request.build()?);
        Ok(renamed.await?)
    }

    /// The state of a rebuild whose process was killed.
    async fn plant_rebuild(&self, phase: &str) -> Result<()> {
        let rebuilds = self
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        rebuilds
            .insert_one(doc! {
                "_id": self.collection(), "phase": phase, "old_id": 1_i64,
                "token": "0123456789abcdef0123456789abcdef", "started_at": DateTime::now(),
            })
            .await?;
        Ok(())
    }

    async fn rebuilds(&self) -> Result<u64> {
        let rebuilds = self
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        Ok(rebuilds.count_documents(doc! {}).await?)
    }

    async fn forget_rebuilds(&self) -> Result<()> {
        let rebuilds = self
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        rebuilds.delete_many(doc! {}).await?;
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_repaired_or_archived_during_a_swap() -> Result<()> {
    on_stage("audit-swap", async |stage| {
        let own = Own::new(stage).await?;
        own.user
            .upload_bytes("first.pdf", pdf::with_pages(&["A."; 2]))
            .await?;
        own.process().await?;
        let (before, cli, name) = (own.rows().await?, own.cli().await?, own.collection());
        let base = ["--knowledge-base", own.user.knowledge_base.as_str()];

        own.plant_rebuild("swapping").await?;
        own.rename(&name, AWAY).await?;
        let (report, is_clean) = audit(&cli, &["--repair"]).await?;
        ensure!(!is_clean && report["counts"] == json!({}), "{report:#}");
        ensure!(
            report["unchecked"].to_string().contains("being rebuilt"),
            "{report:#}"
        );
        own.rename(AWAY, &name).await?;
        for command in ["archive", "restore"] {
            let refused = cli.run(&[&[command][..], &base[..]].concat()).await;
            ensure!(refused.is_err(), "{command}");
        }
        own.forget_rebuilds().await?;
        ensure!(own.rows().await? == before, "the collection is whole");
        let (report, _) = audit(&cli, &[]).await?;
        ensure!(report["counts"] == json!({}), "{report:#}");

        cli.run(&[&["archive"][..], &base[..]].concat()).await?;
        own.plant_rebuild("filling").await?;
        let refused = cli.run(&[&["restore"][..], &base[..]].concat()).await;
        ensure!(
            refused.is_err_and(|why| why.to_string().contains("being rebuilt")),
            "a rebuild has the name"
        );
        ensure!(!own.has_collection(&name).await?, "not created");
        own.forget_rebuilds().await
    })
    .await
}

#[tokio::test]
async fn a_rebuild_leaves_a_collection_that_is_not_restored_to_its_end() -> Result<()> {
    on_stage("rebuild-archive", async |stage| {
        let own = Own::new(stage).await?;
        own.user
            .upload_bytes("first.pdf", pdf::with_pages(&["A."; 2]))
            .await?;
        own.process().await?;
        let (before, cli, name) = (own.rows().await?, own.cli().await?, own.collection());
        let base = ["--knowledge-base", own.user.knowledge_base.as_str()];
        for command in ["archive", "restore"] {
            cli.run(&[&[command][..], &base[..]].concat()).await?;
        }
        let records = own
            .stores
            .mongodb
            .collection::<Document>("ingestion_archives");
        let id = doc! { "_id": &own.user.knowledge_base };
        let state = |state: &str| doc! { "$set": { "state": state } };
        records.update_one(id.clone(), state("restoring")).await?;
        own.plant_rebuild("filling").await?;
        let arguments = ["reindex", "--collection", &name, "--method", "beside"];
        let listen = ["--listen", "127.0.0.1:0"];
        let refused = cli.run(&[&arguments[..], &listen[..]].concat()).await;
        ensure!(refused.is_err(), "refused");
        ensure!(own.rebuilds().await? == 0, "given up");
        ensure!(own.rows().await? == before, "untouched");
        records.update_one(id, state("restored")).await?;

        // The knowledge base was gone when somebody restored its collection, who wants it.
        let bases = own.stores.mongodb.collection::<Document>("knowledge_bases");
        bases.delete_many(doc! {}).await?;
        let (report, _) = audit(&cli, &["--repair"]).await?;
        let kind = "CollectionWithoutKnowledgeBase";
        let kept = outcome(&report, kind, &name);
        ensure!(kept == Some("Kept"), "{report:#}");
        ensure!(own.rows().await? == before, "not dropped");

        // Without the record, and in a database without any knowledge base, nothing is dropped.
        records.delete_many(doc! {}).await?;
        let ledger = own
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        ledger.delete_many(doc! {}).await?;
        let (report, _): (Value, bool) = audit(&cli, &["--repair"]).await?;
        let kept = outcome(&report, kind, &name);
        ensure!(kept == Some("Kept"), "{report:#}");
        ensure!(own.rows().await? == before, "not dropped");
        Ok(())
    })
    .await
}

/// Another LAYRA, with a database of its own, may have collections of the same form in the same
/// Milvus. And a rebuild whose state was lost has left the only rows of a collection.
#[tokio::test]
async fn a_repair_removes_neither_what_may_be_anothers_nor_the_last_rows() -> Result<()> {
    on_stage("audit-others", async |stage| {
        let own = Own::new(stage).await?;
        let pages = pdf::with_pages(&["One.", "Two."]);
        let upload = own.user.upload_bytes("only.pdf", pages).await?;
        let base = own.user.knowledge_base.clone();
        own.process().await?;
        own.check_pages(&upload, 2).await?;
        // MongoDB has the knowledge base of another collection, too.
        let kept = own.collection_of(&format!("alice_{}", random_id()));
        let others = own.collection_of(&format!("bob_{}", random_id()));
        for name in [&kept, &others] {
            milvus_admin::create_like_layra(&own.stores.milvus, name, 8).await?;
        }
        let bases = own.stores.mongodb.collection::<Document>("knowledge_bases");
        let id = kept.rsplit_once("alice_").map_or("", |(_, id)| id);
        let entry = doc! { "knowledge_base_id": format!("alice_{id}"), "files": [] };
        bases.insert_one(entry).await?;
        let away = format!("layra_reindex_{}_old", Uuid::new_v4().simple());
        own.rename(&own.collection(), &away).await?;

        let cli = own.cli().await?;
        let (report, is_clean) = audit(&cli, &["--repair"]).await?;
        let of_others = |report: &Value| {
            outcome(report, "CollectionWithoutKnowledgeBase", &others).map(str::to_owned)
        };
        let left = |report: &Value| outcome(report, "RebuildLeftover", &away).map(str::to_owned);
        ensure!(!is_clean, "{report:#}");
        ensure!(of_others(&report).as_deref() == Some("Kept"), "{report:#}");
        ensure!(left(&report).as_deref() == Some("Kept"), "{report:#}");
        let incomplete = outcome(&report, "DocumentIncomplete", &upload.file_id);
        ensure!(incomplete == Some("Requeued"), "of {base}: {report:#}");

        own.process().await?;
        own.check_pages(&upload, 2).await?;
        let (report, _) = audit(&cli, &["--repair"]).await?;
        ensure!(of_others(&report).as_deref() == Some("Kept"), "{report:#}");
        ensure!(left(&report).as_deref() == Some("Removed"), "{report:#}");
        ensure!(
            !own.has_collection(&away).await?,
            "its rows serve elsewhere"
        );
        ensure!(own.has_collection(&others).await?, "another LAYRA's");
        own.check_pages(&upload, 2).await?;

        let (report, _) = audit(&cli, &["--repair", "--no-other-layra"]).await?;
        ensure!(
            of_others(&report).as_deref() == Some("Removed"),
            "{report:#}"
        );
        milvus_admin::drop(&own.stores.milvus, &kept).await
    })
    .await
}
