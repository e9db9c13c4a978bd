//! Milvus: its collections, and its metrics in Prometheus' text format.

use futures::{StreamExt, TryStreamExt};
use layra_crds::{Finding, MilvusSpec, ResolvedIndex};
use reqwest::Url;

use super::TIMEOUT;
use super::finding::{Answer, Server, size};
use crate::runtime::settings::Settings;
use crate::stores::milvus::{Inspected, Vectors};

/// The port of Milvus' metrics in its documentation and charts.
const METRICS_PORT: u16 = 9091;
/// Concurrent requests.
const CONCURRENCY: usize = 8;
/// Collections that are described; more would take minutes.
const MOST_DESCRIBED: usize = 2000;
/// The guide: a collection of 10M vectors is slow.
const LARGE_COLLECTION: u64 = 10_000_000;
/// The guide: archive old collections above this many vectors.
const MOST_VECTORS: u64 = 100_000_000;
/// Milvus' own limit (`rootCoord.maxGeneralCapacity`).
const MOST_COLLECTIONS: usize = 65_536;
/// The guide's limits of memory and disk.
const MEMORY: f64 = 16.0 * 1_073_741_824.0;
const DISK: f64 = 100.0 * 1_073_741_824.0;

/// What Milvus said.
#[derive(Debug)]
pub(super) struct Facts {
    version: String,
    /// Of all pipelines and others.
    collections: usize,
    own: Answer<Vec<Inspected>>,
    /// How many own ones there are, described or not.
    own_collections: usize,
    index: ResolvedIndex,
    metrics: Answer<String>,
}

pub(super) async fn read(settings: &Settings, metrics: Option<&Url>) -> Answer<Facts> {
    let spec = &settings.config.stores.milvus;
    let secrets = &settings.secrets;
    let (token, authorities) = (secrets.milvus_token.as_ref(), &secrets.authorities.milvus);
    let connecting = Vectors::connect(spec, token, authorities.as_deref(), 0);
    let vectors = connecting.await.map_err(|failure| failure.message)?;
    let version = vectors.server_version().await;
    let version = version.map_err(|failure| failure.message)?;
    let names = vectors.collection_names().await;
    let names = names.map_err(|failure| failure.message)?;
    let own: Vec<&String> = names
        .iter()
        .filter(|name| spec.owns_collection(name))
        .collect();
    let described = futures::stream::iter(own.iter().take(MOST_DESCRIBED))
        .map(|name| vectors.inspect(name))
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect::<Vec<_>>();
    Ok(Facts {
        version,
        collections: names.len(),
        own: described.await.map_err(|failure| failure.message),
        own_collections: own.len(),
        index: spec.index.resolved(),
        metrics: read_metrics(spec, metrics).await,
    })
}

async fn read_metrics(spec: &MilvusSpec, url: Option<&Url>) -> Answer<String> {
    let url = match url {
        Some(url) => url.clone(),
        None => {
            default_metrics(&spec.uri).ok_or_else(|| "stores.milvus.uri has no host".to_owned())?
        }
    };
    let why = |error: reqwest::Error| {
        let kind = if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "cannot connect"
        } else {
            "no metrics"
        };
        format!("{url}: {kind}; --milvus-metrics names another address")
    };
    let client = reqwest::Client::builder().timeout(TIMEOUT).build();
    let client = client.map_err(why)?;
    let response = client.get(url.clone()).send().await.map_err(why)?;
    let response = response.error_for_status().map_err(why)?;
    response.text().await.map_err(why)
}

/// `http://HOST:9091/metrics`: Milvus serves its metrics without TLS.
fn default_metrics(uri: &str) -> Option<Url> {
    let uri: Url = uri.parse().ok()?;
    let mut url: Url = "http://host/metrics".parse().ok()?;
    url.set_host(uri.host_str()).ok()?;
    url.set_port(Some(METRICS_PORT)).ok()?;
    Some(url)
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let milvus = Server::new("Milvus");
    let mut findings = vec![
        version(&milvus, facts),
        index(&milvus, facts),
        largest(&milvus, facts),
        vectors(&milvus, facts),
        collections(&milvus, facts),
        memory(&milvus, facts),
        disk(&milvus, facts),
        denied(&milvus, facts),
    ];
    findings.push(milvus.advice(
        "disk quota and retention",
        "100 GB, 7 days",
        "Milvus does not tell its configuration: see \
         quotaAndLimits.limitWriting.diskProtection.diskQuota and \
         common.retentionDuration in milvus.yaml",
    ));
    findings
}

fn version(milvus: &Server, facts: &Facts) -> Finding {
    milvus.good("version", "any that answers", &facts.version)
}

fn index(milvus: &Server, facts: &Facts) -> Finding {
    let setting = "index of the collections";
    let index = &facts.index;
    let parameters = index.parameters().into_iter();
    let parameters = parameters.map(|(name, value)| format!(" {name} {value}"));
    let asked = format!(
        "{}{}",
        index.index_type().as_str(),
        parameters.collect::<String>()
    );
    match &facts.own {
        Ok(own) => {
            let others = own
                .iter()
                .filter(|found| !found.has_index_as_wanted)
                .count();
            let found = format!("{others} of {} differ{}", own.len(), rest(facts, own.len()));
            milvus.judge(others == 0, setting, asked, found, || {
                "status.driftedCollections names them, and stores.milvus.onIndexDrift rebuilds them. \
                 LAYRA creates its collections with M 16; the guide asks M 32 and efConstruction 500"
                    .to_owned()
            })
        }
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn rest(facts: &Facts, described: usize) -> String {
    if facts.own_collections > MOST_DESCRIBED && described > 0 {
        format!(", of {} in all", facts.own_collections)
    } else {
        String::new()
    }
}

fn largest(milvus: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("largest collection", "below 10 million vectors");
    match &facts.own {
        Ok(own) => {
            let most = own.iter().map(|found| found.rows).max().unwrap_or(0);
            let found = format!("{most} vectors");
            milvus.judge(most < LARGE_COLLECTION, setting, asked, found, || {
                "divide the knowledge base: searches of a large collection are slow".to_owned()
            })
        }
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn vectors(milvus: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("vectors of the pipeline", "below 100 million");
    match &facts.own {
        Ok(own) => {
            let all: u64 = own.iter().map(|found| found.rows).sum();
            let found = format!("{all}{}", rest(facts, own.len()));
            milvus.judge(all < MOST_VECTORS, setting, asked, found, || {
                "delete or archive knowledge bases that nobody uses; embedding.poolFactor stores \
                 fewer vectors of new pages"
                    .to_owned()
            })
        }
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn collections(milvus: &Server, facts: &Facts) -> Finding {
    let asked = format!("below 80 % of Milvus' limit of {MOST_COLLECTIONS}");
    let found = format!(
        "{}, {} of the pipeline",
        facts.collections, facts.own_collections
    );
    let is_good = facts.collections < MOST_COLLECTIONS / 10 * 8;
    milvus.judge(is_good, "collections", asked, found, || {
        "delete knowledge bases that nobody uses: LAYRA makes a collection for each conversation"
            .to_owned()
    })
}

fn memory(milvus: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("memory", "below 80 % of 16 GiB");
    match metric(facts, "process_resident_memory_bytes") {
        Ok(bytes) => {
            let is_good = bytes < 0.8 * MEMORY;
            milvus.judge(is_good, setting, asked, size(bytes), || {
                "raise the memory limit if it is 16 GiB, or store fewer vectors: a Milvus without \
                 memory refuses writes"
                    .to_owned()
            })
        }
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn disk(milvus: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("stored binlogs", "below 80 % of 100 GiB");
    match metric(facts, "milvus_datacoord_stored_binlog_size") {
        Ok(bytes) => {
            let is_good = bytes < 0.8 * DISK;
            milvus.judge(is_good, setting, asked, size(bytes), || {
                "raise quotaAndLimits.limitWriting.diskProtection.diskQuota, and the disk with it, \
                 before Milvus refuses writes"
                    .to_owned()
            })
        }
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn denied(milvus: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("times that writes were denied", "0");
    match metric(facts, "milvus_rootcoord_force_deny_writing_counter") {
        Ok(times) => milvus.judge(times == 0.0, setting, asked, times.to_string(), || {
            "memory or disk reached Milvus' limits since its start: see the two settings above"
                .to_owned()
        }),
        Err(why) => milvus.unread(setting, asked, why),
    }
}

fn metric(facts: &Facts, name: &str) -> Answer<f64> {
    let text = facts.metrics.as_ref().map_err(Clone::clone)?;
    sum(text, name).ok_or_else(|| format!("the metrics have no {name}"))
}

/// The sum of a metric over its labels, in Prometheus' text format.
fn sum(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Not a longer name.
        let value = match rest.chars().next()? {
            '{' => rest.rsplit_once('}')?.1,
            ' ' => rest,
            _ => return None,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
#[path = "milvus_tests.rs"]
mod tests;
