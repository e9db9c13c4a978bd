use layra_autoscaler::Topic;
use layra_crds::KafkaSecurity;
use rdkafka::mocking::{MockCluster, MockCoordinator};

use super::*;

/// Also for two pipelines on the same topics.
#[test]
fn a_question_that_cannot_be_answered_leaves_the_others_as_they_are() {
    let brokers = MockCluster::new(1).unwrap();
    for topic in ["tasks", "ranges", "dlq"] {
        brokers.create_topic(topic, 2, 1).unwrap();
    }
    let group = MockCoordinator::Group("workers".to_owned());
    brokers.coordinator(group, 1).unwrap();
    let cluster = cluster(&brokers);
    let question = |prefix: &str| Question {
        topic: format!("{prefix}tasks"),
        ranges_topic: format!("{prefix}ranges"),
        dead_letter_topic: format!("{prefix}dlq"),
        consumer_group: "workers".to_owned(),
    };
    // Of a topic that was deleted after it was read, and of one that was never read, which
    // librdkafka's own cluster does not describe.
    let [good, deleted, unread] = ["", "deleted.", "unread."].map(question);
    let present = |partitions| (Some(Instant::now()), TopicState::Present { partitions });
    let mut state = ClusterState {
        brokers: Some((Instant::now(), 1)),
        ..ClusterState::default()
    };
    // With more partitions than a request has: one has no other topic's.
    for (question, partitions) in [(&good, 2), (&deleted, 300)] {
        let topics = question.topics().map(str::to_owned);
        state
            .topics
            .extend(topics.map(|topic| (topic, present(partitions))));
    }
    let questions = [good, deleted, unread];
    for _ in 0..2 {
        let answers = state.round(&cluster, &questions);
        let backlog = |question| match &answers[question] {
            Ok(answer) => answer.backlog.clone().map(|backlog| backlog.lag()),
            Err(error) => Err(error.clone()),
        };
        let [good, deleted, unread] = questions.each_ref().map(backlog);
        assert_eq!(good, Ok(0));
        assert!(matches!(deleted, Err(KafkaError::Unreachable(_))));
        assert!(matches!(unread, Err(KafkaError::Unreachable(_))));
    }
}

fn cluster<C: rdkafka::ClientContext>(brokers: &MockCluster<'_, C>) -> Cluster {
    Cluster::new(&Connection {
        bootstrap_servers: brokers.bootstrap_servers(),
        security: KafkaSecurity::plaintext(),
    })
    .unwrap()
}

#[test]
fn a_broker_that_does_not_answer_hides_only_its_partitions() {
    let brokers = MockCluster::new(2).unwrap();
    for topic in ["tasks", "ranges", "dlq"] {
        brokers.create_topic(topic, 2, 1).unwrap();
        for partition in 0..2 {
            let leader = Some(1 + partition);
            brokers.partition_leader(topic, partition, leader).unwrap();
        }
    }
    for group in ["workers", "others"] {
        let coordinator = MockCoordinator::Group(group.to_owned());
        brokers.coordinator(coordinator, 1).unwrap();
    }
    let cluster = cluster(&brokers);
    let questions = ["workers", "others"].map(|group| Question {
        topic: "tasks".to_owned(),
        ranges_topic: "ranges".to_owned(),
        dead_letter_topic: "dlq".to_owned(),
        consumer_group: group.to_owned(),
    });
    // librdkafka's own cluster does not describe topics.
    let present = TopicState::Present { partitions: 2 };
    let topics = ["tasks", "ranges", "dlq"];
    let now = Instant::now();
    let mut state = ClusterState {
        brokers: Some((now, 2)),
        topics: topics.map(|t| (t.to_owned(), (Some(now), present))).into(),
        ..ClusterState::default()
    };
    let unread = |state: &mut ClusterState| {
        let answer = state.round(&cluster, &questions).remove(&questions[0]);
        let backlog = answer.unwrap().unwrap().backlog.unwrap();
        let partitions = backlog.unread.into_keys();
        partitions.collect::<Vec<_>>()
    };
    assert_eq!(unread(&mut state), []);
    brokers
        .broker_round_trip_time(2, Duration::from_mins(1))
        .unwrap();
    let hidden =
        [Topic::Tasks, Topic::Ranges].map(|topic| layra_autoscaler::Partition { topic, number: 1 });
    assert_eq!(unread(&mut state), hidden);
    // Whichever broker is asked about the topics.
    assert_eq!(unread(&mut state), hidden);
}
