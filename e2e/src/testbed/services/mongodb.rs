//! A server of MongoDB's wire protocol on one file; no package registry carries mongod.

use std::process::Command;

use anyhow::Result;
use mongodb::bson::{Document, doc};

use super::super::settings::{NODE_IP, Settings};

pub(super) fn command(settings: &Settings) -> Command {
    let artifact = settings.cache.join("mongodb");
    let mut command = Command::new("java");
    command
        .args([
            "-Xmx256m",
            "-Xss512k",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
        ])
        .arg(format!("{0}/classes:{0}/lib/*", artifact.display()))
        .args([
            "MongoServerMain",
            NODE_IP,
            &settings.ports.mongodb.to_string(),
        ])
        .arg(settings.data("mongodb").join("store.mv"));
    command
}

/// A document is written and read.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let uri = format!(
        "mongodb://{NODE_IP}:{}/?serverSelectionTimeoutMS=2000&directConnection=true",
        settings.ports.mongodb
    );
    let client = mongodb::Client::with_uri_str(uri).await?;
    let collection = client.database("testbed").collection::<Document>("probe");
    collection
        .update_one(doc! {"_id": 1}, doc! {"$inc": {"count": 1}})
        .upsert(true)
        .await?;
    collection.find_one(doc! {"_id": 1}).await?;
    client.shutdown().await;
    Ok(())
}
