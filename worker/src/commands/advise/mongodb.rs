//! MongoDB: `serverStatus`, `getCmdLineOpts`, `hostInfo`, and `collStats` of `files`.

use layra_crds::Finding;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;

use super::finding::{Answer, Server, size};
use crate::runtime::settings::Settings;
use crate::stores::mongo::{Documents, answer};

const GIB: f64 = 1_073_741_824.0;
/// The guide's `--wiredTigerCacheSizeGB 4`.
const CACHE: f64 = 4.0 * GIB;
/// `Unauthorized`, `CommandNotFound` and `NamespaceNotFound`.
const UNAUTHORIZED: i32 = 13;
const COMMAND_NOT_FOUND: i32 = 59;
const NAMESPACE_NOT_FOUND: i32 = 26;

/// What MongoDB answered.
#[derive(Debug)]
pub(super) struct Facts {
    status: Answer<Document>,
    options: Answer<Document>,
    host: Answer<Document>,
    files: Answer<Document>,
}

pub(super) async fn read(settings: &Settings) -> Answer<Facts> {
    let secrets = &settings.secrets;
    let authorities = secrets.authorities.mongodb.as_deref();
    let name = &settings.config.stores.mongodb.database;
    let documents = Documents::new(&secrets.mongodb_uri, authorities, name).await;
    let documents = documents.map_err(|failure| failure.message)?;
    let database = documents.database();
    let admin = database.client().database("admin");
    // Without it, each command below would wait for a server that is away.
    run(&admin, doc! { "ping": 1 }).await?;
    Ok(Facts {
        status: run(&admin, doc! { "serverStatus": 1 }).await,
        options: run(&admin, doc! { "getCmdLineOpts": 1 }).await,
        host: run(&admin, doc! { "hostInfo": 1 }).await,
        files: run(database, doc! { "collStats": "files" }).await,
    })
}

async fn run(database: &mongodb::Database, command: Document) -> Answer<Document> {
    let name = command.keys().next().cloned().unwrap_or_default();
    let reply = answer(database.run_command(command)).await;
    let reply = reply.map_err(|failure| failure.message)?;
    reply.map_err(|error| match &*error.kind {
        ErrorKind::Command(error) => match error.code {
            UNAUTHORIZED => format!("the user may not run {name}: give it the role clusterMonitor"),
            COMMAND_NOT_FOUND => format!("the server does not know {name}"),
            NAMESPACE_NOT_FOUND => "there is no collection files yet".to_owned(),
            code => format!("{name}: {} (code {code})", error.message),
        },
        _ => format!("{name}: {error}"),
    })
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mongodb = Server::new("MongoDB");
    vec![
        engine(&mongodb, facts),
        cache(&mongodb, facts),
        compressor(&mongodb, facts),
        journal(&mongodb, facts),
    ]
}

fn engine(mongodb: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("storage engine", "wiredTiger");
    match text_at(&facts.status, "serverStatus", &["storageEngine", "name"]) {
        Ok(found) => mongodb.judge(found == asked, setting, asked, found, || {
            "start mongod with --storageEngine wiredTiger and restore the data into it".to_owned()
        }),
        Err(why) => mongodb.unread(setting, asked, why),
    }
}

fn cache(mongodb: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("wiredTiger cache", "at least 4.0 GiB");
    let at = |name| {
        number_at(
            &facts.status,
            "serverStatus",
            &["wiredTiger", "cache", name],
        )
    };
    let most = match at("maximum bytes configured") {
        Ok(most) => most,
        Err(why) => return mongodb.unread(setting, asked, why),
    };
    let used = at("bytes currently in the cache");
    let used = used.map_or_else(|_| String::new(), |used| format!(", {} used", size(used)));
    let memory = memory(facts);
    let found = format!("{}{used}", size(most));
    mongodb.judge(most >= CACHE, setting, asked, found, || match memory {
        // MongoDB's own default is half of what is above 1 GiB.
        Some(memory) if (memory - GIB) / 2.0 < CACHE => format!(
            "the host has {} of memory, which is too little for it: more memory first, then \
             --wiredTigerCacheSizeGB 4",
            size(memory)
        ),
        _ => "start mongod with --wiredTigerCacheSizeGB 4".to_owned(),
    })
}

/// The memory that mongod may use. In a container it is less than the host's.
fn memory(facts: &Facts) -> Option<f64> {
    let at = |name| number_at(&facts.host, "hostInfo", &["system", name]).ok();
    let mib = at("memLimitMB").or_else(|| at("memSizeMB"))?;
    Some(mib * 1_048_576.0)
}

/// That of `files`, which has most of the metadata. Without it, that of new collections.
fn compressor(mongodb: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("block compressor", "zstd");
    let created = text_at(&facts.files, "collStats", &["wiredTiger", "creationString"]);
    let of_files = created.as_ref().ok().and_then(|text| {
        let (_, rest) = text.split_once("block_compressor=")?;
        rest.split(',').next().map(|name| name.trim_matches('"'))
    });
    if let Some(found) = of_files {
        let name = if found.is_empty() { "none" } else { found };
        return mongodb.judge(found == asked, setting, asked, format!("{name} (files)"), || {
            "set storage.wiredTiger.collectionConfig.blockCompressor: zstd for new collections; \
             files keeps its own until a member of the replica set is synchronised again, or the \
             collection is copied"
                .to_owned()
        });
    }
    let path = [
        "parsed",
        "storage",
        "wiredTiger",
        "collectionConfig",
        "blockCompressor",
    ];
    let found = match &facts.options {
        Err(why) => return mongodb.unread(setting, asked, why),
        Ok(_) => text_at(&facts.options, "getCmdLineOpts", &path),
    };
    // Options that were not given are not in the answer.
    let found = found.unwrap_or_else(|_| "not set: the default is snappy".to_owned());
    mongodb.judge(found == asked, setting, asked, found.clone(), || {
        "set storage.wiredTiger.collectionConfig.blockCompressor: zstd before the first document"
            .to_owned()
    })
}

/// Before MongoDB 6.1 it could be turned off.
fn journal(mongodb: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("journal", "on");
    let options = match &facts.options {
        Ok(options) => options,
        Err(why) => return mongodb.unread(setting, asked, why),
    };
    let enabled = at(options, &["parsed", "storage", "journal", "enabled"]);
    let is_off = matches!(enabled, Some(Bson::Boolean(false)));
    let found = if is_off { "off" } else { "on" };
    mongodb.judge(!is_off, setting, asked, found, || {
        "remove storage.journal.enabled: false: a crash takes back acknowledged pages".to_owned()
    })
}

fn at<'a>(document: &'a Document, path: &[&str]) -> Option<&'a Bson> {
    let (last, folders) = path.split_last()?;
    let mut folder = document;
    for name in folders {
        folder = folder.get_document(name).ok()?;
    }
    folder.get(last)
}

fn value_at<'a>(
    reply: &'a Answer<Document>,
    command: &str,
    path: &[&str],
) -> Result<&'a Bson, String> {
    let reply = reply.as_ref().map_err(Clone::clone)?;
    at(reply, path).ok_or_else(|| {
        let is_router = reply.get_str("process").is_ok_and(|name| name == "mongos");
        if is_router {
            "this is a mongos: the shards have it".to_owned()
        } else {
            format!("{command} has no {}", path.join("."))
        }
    })
}

fn text_at(reply: &Answer<Document>, command: &str, path: &[&str]) -> Answer<String> {
    let value = value_at(reply, command, path)?;
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{command}: {} is no text", path.join(".")))
}

/// Servers answer small numbers as 32-bit integers, others as 64-bit ones or floats.
fn number_at(reply: &Answer<Document>, command: &str, path: &[&str]) -> Answer<f64> {
    match value_at(reply, command, path)? {
        Bson::Int32(number) => Ok(f64::from(*number)),
        Bson::Int64(number) => Ok(*number as f64),
        Bson::Double(number) => Ok(*number),
        _ => Err(format!("{command}: {} is no number", path.join("."))),
    }
}

#[cfg(test)]
#[path = "mongodb_tests.rs"]
mod tests;
