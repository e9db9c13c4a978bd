//! Kafka: the pipeline's topics, and one broker's configuration.

use std::collections::{BTreeMap, HashMap};

use layra_crds::{Finding, KafkaSource};
use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;

use super::TIMEOUT;
use super::finding::{Answer, Server};
use crate::kafka::client::{client_config, describe_error};
use crate::runtime::settings::Settings;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// The retention of topics that the operator creates.
const RETENTION_MS: i64 = 30 * DAY_MS;
/// The guide's `--replication-factor 3`.
const COPIES: usize = 3;

type Configuration = HashMap<String, String>;

/// What Kafka said.
#[derive(Debug)]
pub(super) struct Facts {
    brokers: usize,
    /// By name. Topics that do not exist are absent.
    topics: BTreeMap<String, Topic>,
    broker: Answer<Configuration>,
}

#[derive(Debug)]
struct Topic {
    partitions: usize,
    /// The smallest number of replicas of a partition.
    copies: usize,
    configuration: Answer<Configuration>,
}

pub(super) async fn read(settings: &Settings) -> Answer<Facts> {
    let admin: AdminClient<DefaultClientContext> = client_config(settings)
        .create()
        .map_err(|error| describe_error(&error))?;
    let kafka = &settings.config.source.kafka;
    let names = own_topics(kafka);
    let words = |error: &KafkaError| describe_error(error);
    let (admin, metadata) = tokio::task::spawn_blocking(move || {
        // All topics: a request for one could create it.
        let metadata = admin.inner().fetch_metadata(None, TIMEOUT);
        (admin, metadata)
    })
    .await
    .map_err(|error| error.to_string())?;
    let metadata = metadata.map_err(|error| words(&error))?;
    let existing = metadata
        .topics()
        .iter()
        .filter(|topic| names.iter().any(|name| name == topic.name()));
    let mut topics = BTreeMap::new();
    for topic in existing {
        let replicas = topic.partitions().iter();
        let copies = replicas.map(|partition| partition.replicas().len()).min();
        let name = topic.name();
        let found = Topic {
            partitions: topic.partitions().len(),
            copies: copies.unwrap_or(0),
            configuration: describe(&admin, ResourceSpecifier::Topic(name)).await,
        };
        topics.insert(name.to_owned(), found);
    }
    let broker = match metadata.brokers().first() {
        Some(broker) => describe(&admin, ResourceSpecifier::Broker(broker.id())).await,
        None => Err("the cluster has no broker".to_owned()),
    };
    Ok(Facts {
        brokers: metadata.brokers().len(),
        topics,
        broker,
    })
}

fn own_topics(kafka: &KafkaSource) -> [String; 3] {
    [
        kafka.topic.clone(),
        kafka.ranges_topic(),
        kafka.dead_letter_topic(),
    ]
}

async fn describe(
    admin: &AdminClient<DefaultClientContext>,
    resource: ResourceSpecifier<'_>,
) -> Answer<Configuration> {
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let answer = admin.describe_configs([&resource], &options).await;
    let answer = answer.map_err(|error| describe_error(&error))?;
    let found = answer.into_iter().next();
    let found = found.ok_or_else(|| "Kafka answered nothing".to_owned())?;
    let found = found.map_err(|code| format!("Kafka refuses: {code}"))?;
    if let OwnedResourceSpecifier::Group(_) = found.specifier {
        return Err("Kafka answered about something else".to_owned());
    }
    let entries = found.entries.into_iter();
    Ok(entries
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect())
}

pub(super) fn findings(facts: &Facts, kafka: &KafkaSource) -> Vec<Finding> {
    let mut findings = Vec::new();
    let letters = kafka.dead_letter_topic();
    for name in own_topics(kafka) {
        let server = Server::new(format!("Kafka, topic {name}"));
        let Some(topic) = facts.topics.get(&name) else {
            let why = "the topic does not exist yet; the operator creates it";
            findings.push(server.unread("topic", "exists", why));
            continue;
        };
        findings.push(cleanup(&server, &name, topic));
        findings.push(retention(&server, &name, topic, kafka, name == letters));
        if name != letters {
            findings.push(partitions(&server, &name, topic, kafka));
        }
        findings.push(copies(&server, topic, facts.brokers));
        findings.push(in_sync(&server, &name, topic));
        findings.push(election(&server, &name, topic));
    }
    let broker = Server::new("Kafka, broker");
    findings.push(offsets(&broker, facts, kafka));
    findings.push(automatic_topics(&broker, facts));
    findings
}

/// A command that sets a topic's configuration.
fn set(topic: &str, setting: &str) -> String {
    format!(
        "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}"
    )
}

fn value(configuration: &Answer<Configuration>, setting: &str) -> Answer<String> {
    let known = configuration.as_ref().map_err(Clone::clone)?;
    let value = known.get(setting).cloned();
    value.ok_or_else(|| "Kafka does not tell it".to_owned())
}

/// Reads a setting, and finds it missing if it cannot be read.
fn with_value(
    server: &Server,
    configuration: &Answer<Configuration>,
    setting: &str,
    asked: &str,
    judge: impl FnOnce(String) -> Finding,
) -> Finding {
    match value(configuration, setting) {
        Ok(value) => judge(value),
        Err(why) => server.unread(setting, asked, why),
    }
}

fn cleanup(server: &Server, name: &str, topic: &Topic) -> Finding {
    let (setting, asked) = ("cleanup.policy", "delete");
    with_value(server, &topic.configuration, setting, asked, |found| {
        let compacts = found.split(',').any(|word| word.trim() == "compact");
        server.judge(!compacts, setting, asked, &found, || {
            let command = set(name, "cleanup.policy=delete");
            format!("{command}: compaction deletes a task when a later one has the same key")
        })
    })
}

/// Dead letters are kept until they are redriven or deleted.
fn retention(
    server: &Server,
    name: &str,
    topic: &Topic,
    kafka: &KafkaSource,
    is_letters: bool,
) -> Finding {
    let setting = "retention.ms";
    let wanted = if is_letters {
        -1
    } else {
        wanted_retention(kafka)
    };
    let asked = days(wanted);
    with_value(server, &topic.configuration, setting, &asked, |text| {
        let Ok(found) = text.parse::<i64>() else {
            return server.unread(setting, &asked, format!("{text} is no number"));
        };
        let is_good = found < 0 || (wanted >= 0 && found >= wanted);
        server.judge(is_good, setting, &asked, days(found), || {
            let command = set(name, &format!("retention.ms={wanted}"));
            format!("{command}: Kafka deletes what is older, processed or not")
        })
    })
}

fn wanted_retention(kafka: &KafkaSource) -> i64 {
    let wanted = kafka.topic_config.get("retention.ms");
    wanted
        .and_then(|text| text.parse().ok())
        .unwrap_or(RETENTION_MS)
}

fn days(milliseconds: i64) -> String {
    if milliseconds < 0 {
        return "without end".to_owned();
    }
    let days = milliseconds as f64 / DAY_MS as f64;
    format!("{days:.1} days")
}

fn partitions(server: &Server, name: &str, topic: &Topic, kafka: &KafkaSource) -> Finding {
    let wanted = usize::try_from(kafka.partitions).unwrap_or(0);
    let asked = format!("at least {wanted}");
    let found = topic.partitions.to_string();
    server.judge(topic.partitions >= wanted, "partitions", asked, found, || {
        format!(
            "the operator adds them when it may alter {name}; a partition has one worker at a time"
        )
    })
}

fn copies(server: &Server, topic: &Topic, brokers: usize) -> Finding {
    let asked = format!("at least {COPIES}");
    let found = format!("{}, {brokers} brokers", topic.copies);
    let is_good = topic.copies >= COPIES;
    server.judge(is_good, "replication factor", asked, found, || {
        if brokers < COPIES {
            format!("{COPIES} copies need {COPIES} brokers; with one copy a lost disk loses tasks")
        } else {
            "kafka-reassign-partitions.sh with three replicas for each partition".to_owned()
        }
    })
}

/// A majority: a task that is acknowledged survives the loss of a broker.
fn in_sync(server: &Server, name: &str, topic: &Topic) -> Finding {
    let setting = "min.insync.replicas";
    let wanted = topic.copies / 2 + 1;
    let asked = format!("{wanted} of {} replicas", topic.copies);
    if topic.copies < COPIES {
        return server.good(setting, "2 of 3 replicas", "too few replicas to ask for it");
    }
    with_value(server, &topic.configuration, setting, &asked, |found| {
        let is_good = found.parse::<usize>().is_ok_and(|found| found >= wanted);
        server.judge(is_good, setting, &asked, &found, || {
            set(name, &format!("min.insync.replicas={wanted}"))
        })
    })
}

fn election(server: &Server, name: &str, topic: &Topic) -> Finding {
    let (setting, asked) = ("unclean.leader.election.enable", "false");
    with_value(server, &topic.configuration, setting, asked, |found| {
        server.judge(found == asked, setting, asked, &found, || {
            let command = set(name, "unclean.leader.election.enable=false");
            format!("{command}: a replica that lags could become the leader and lose tasks")
        })
    })
}

/// Kafka forgets the offsets of a group without members, as it is while there are no workers.
fn offsets(server: &Server, facts: &Facts, kafka: &KafkaSource) -> Finding {
    let setting = "offsets.retention.minutes";
    let retention = match wanted_retention(kafka) {
        endless if endless < 0 => RETENTION_MS,
        retention => retention,
    };
    let wanted = retention / 60_000;
    let asked = format!("at least {wanted} (the topic's retention)");
    with_value(server, &facts.broker, setting, &asked, |found| {
        let is_good = found.parse::<i64>().is_ok_and(|found| found >= wanted);
        server.judge(is_good, setting, &asked, &found, || {
            format!(
                "{setting}={wanted} in server.properties: after that long without workers the \
                 offsets are gone, and every task in the topic is read again"
            )
        })
    })
}

fn automatic_topics(server: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("auto.create.topics.enable", "false");
    with_value(server, &facts.broker, setting, asked, |found| {
        server.judge(found == asked, setting, asked, &found, || {
            "auto.create.topics.enable=false in server.properties: a misspelt topic would be \
             created with one partition and no workers"
                .to_owned()
        })
    })
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
