use layra_crds::Verdict;

use super::*;

fn source(more: &str) -> KafkaSource {
    // As in an object.
    let json = format!(r#"{{"bootstrapServers": "kafka:9092", "topic": "tasks"{more}}}"#);
    serde_json::from_str(&json).unwrap()
}

/// Defaults of Kafka 4 (<https://kafka.apache.org/documentation/#topicconfigs>), with the settings
/// that the operator gives its topics.
fn topic(changed: &[(&str, &str)]) -> Topic {
    let defaults = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "2592000000"),
        ("min.insync.replicas", "2"),
        ("unclean.leader.election.enable", "false"),
    ];
    let all = defaults.iter().chain(changed);
    Topic {
        partitions: 10,
        copies: 3,
        configuration: Ok(all
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()),
    }
}

fn facts(tasks: Topic) -> Facts {
    let broker = [
        ("offsets.retention.minutes", "43200"),
        ("auto.create.topics.enable", "false"),
    ];
    Facts {
        brokers: 3,
        topics: BTreeMap::from([
            ("tasks".to_owned(), tasks),
            ("tasks.ranges".to_owned(), topic(&[])),
            ("tasks.dlq".to_owned(), topic(&[("retention.ms", "-1")])),
        ]),
        broker: Ok(broker.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
    }
}

fn changes(facts: &Facts, source: &KafkaSource) -> Vec<String> {
    let findings = findings(facts, source).into_iter();
    findings
        .filter(|finding| finding.verdict == Verdict::Change)
        .map(|finding| format!("{}: {}", finding.server, finding.setting))
        .collect()
}

#[test]
fn topics_of_the_operator_on_three_brokers_are_good() {
    for finding in findings(&facts(topic(&[])), &source("")) {
        assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
    }
}

#[test]
fn what_can_lose_tasks_is_to_change_with_the_command() {
    for (setting, value) in [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "delete, compact"),
        ("retention.ms", "604800000"),
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
    ] {
        let facts = facts(topic(&[(setting, value)]));
        let expected = format!("Kafka, topic tasks: {setting}");
        assert_eq!(changes(&facts, &source("")), [expected]);
        let findings = findings(&facts, &source(""));
        let change = findings.iter().find_map(|finding| finding.change.clone());
        let change = change.unwrap();
        assert!(
            change.contains("--entity-name tasks --add-config"),
            "{change}"
        );
        assert!(change.contains(setting), "{change}");
    }
}

#[test]
fn the_retention_of_the_object_is_what_is_asked() {
    let week = facts(topic(&[("retention.ms", "604800000")]));
    let source = source(r#", "topicConfig": {"retention.ms": "604800000"}"#);
    assert_eq!(changes(&week, &source), Vec::<String>::new());
    let endless = facts(topic(&[("retention.ms", "-1")]));
    assert_eq!(changes(&endless, &source), Vec::<String>::new());
}

#[test]
fn dead_letters_are_kept_without_end() {
    let mut facts = facts(topic(&[]));
    facts.topics.insert("tasks.dlq".to_owned(), topic(&[]));
    assert_eq!(
        changes(&facts, &source("")),
        ["Kafka, topic tasks.dlq: retention.ms"]
    );
}

#[test]
fn one_copy_is_to_change_and_needs_brokers_first() {
    let mut tasks = topic(&[("min.insync.replicas", "1")]);
    tasks.copies = 1;
    let mut facts = facts(tasks);
    facts.brokers = 1;
    assert_eq!(
        changes(&facts, &source("")),
        ["Kafka, topic tasks: replication factor"]
    );
    let findings = findings(&facts, &source(""));
    let change = findings.iter().find_map(|finding| finding.change.clone());
    assert!(change.unwrap().starts_with("3 copies need 3 brokers"));
}

#[test]
fn too_few_partitions_are_to_change() {
    let mut tasks = topic(&[]);
    tasks.partitions = 1;
    assert_eq!(
        changes(&facts(tasks), &source("")),
        ["Kafka, topic tasks: partitions"]
    );
}

/// Workers at zero for a week: by default Kafka forgets the group's offsets.
#[test]
fn kafkas_default_forgets_offsets_before_the_tasks() {
    let mut facts = facts(topic(&[]));
    let broker = facts.broker.as_mut().unwrap();
    broker.insert("offsets.retention.minutes".to_owned(), "10080".to_owned());
    broker.insert("auto.create.topics.enable".to_owned(), "true".to_owned());
    let expected = [
        "Kafka, broker: offsets.retention.minutes",
        "Kafka, broker: auto.create.topics.enable",
    ];
    assert_eq!(changes(&facts, &source("")), expected);
}

#[test]
fn a_missing_permission_or_topic_is_a_finding_and_no_error() {
    let mut tasks = topic(&[]);
    tasks.configuration = Err("Kafka refuses: TopicAuthorizationFailed".to_owned());
    let mut facts = facts(tasks);
    facts.topics.remove("tasks.dlq");
    facts.broker = Err("Kafka refuses: ClusterAuthorizationFailed".to_owned());
    let findings = findings(&facts, &source(""));
    let unread = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Unread);
    let unread: Vec<&str> = unread.map(|finding| finding.setting.as_str()).collect();
    let expected = [
        "cleanup.policy",
        "retention.ms",
        "min.insync.replicas",
        "unclean.leader.election.enable",
        "topic",
        "offsets.retention.minutes",
        "auto.create.topics.enable",
    ];
    assert_eq!(unread, expected);
    assert!(changes(&facts, &source("")).is_empty());
}
