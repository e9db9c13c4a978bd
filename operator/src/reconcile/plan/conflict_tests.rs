use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use layra_crds::{ConfirmedStatus, IngestionPipelineStatus, ModelFamily};

use super::*;
use crate::fixtures;

/// A pipeline that was created in this second.
fn pipeline(name: &str, second: i64) -> IngestionPipeline {
    let mut pipeline = fixtures::pipeline();
    pipeline.metadata.name = Some(name.to_owned());
    let created = Timestamp::from_second(second).unwrap();
    pipeline.metadata.creation_timestamp = Some(Time(created));
    pipeline
}

fn rival(pipeline: IngestionPipeline) -> Rival {
    Rival {
        pipeline: Arc::new(pipeline),
        same_mongodb: Some(true),
    }
}

/// The fields that the younger pipeline must change.
fn fields(younger: &IngestionPipeline, older: &IngestionPipeline) -> Vec<&'static str> {
    let found = clashes(&younger.spec, &rival(older.clone()));
    let fields = found.iter().map(|clash| clash.field).collect();
    if found.is_empty() {
        return fields;
    }
    assert!(may_conflict(&older.spec, &younger.spec));
    fields
}

#[test]
fn the_younger_of_two_pipelines_is_the_one_in_conflict() {
    let (older, younger) = (pipeline("b", 1), pipeline("a", 2));
    assert!(age(&older) < age(&younger));
    let same_second = pipeline("a", 1);
    assert!(age(&same_second) < age(&older), "the name decides");
    let mut elsewhere = pipeline("a", 1);
    elsewhere.metadata.namespace = Some("another".into());
    assert!(age(&elsewhere) < age(&same_second), "the namespace first");
}

#[test]
fn copies_are_in_conflict_and_the_message_names_the_older_and_what_to_change() {
    let verdict = judge(&pipeline("a", 2), &[rival(pipeline("b", 1))]).unwrap();
    assert_eq!(verdict.reason, Reason::Conflict);
    assert_eq!(
        verdict.message,
        "Pipeline rag/b is older and uses the same consumer group task_consumer_group of topic task_generation, topic task_generation.ranges, database mongodb for documents of this topic, collections colqwen{knowledge_db_id} for documents of this topic. Change source.kafka.consumerGroup, source.kafka.rangesTopic, stores.mongodb.database, stores.milvus.collection here, or delete one of the two. Until then no worker of this pipeline runs."
    );
}

#[test]
fn a_second_pipeline_on_a_topic_with_everything_else_of_its_own_is_separate() {
    let mut second = pipeline("a", 2);
    let kafka = &mut second.spec.source.kafka;
    kafka.consumer_group = "second".into();
    kafka.ranges_topic = Some("task_generation.second.ranges".into());
    second.spec.stores.mongodb.database = "second".into();
    second.spec.stores.milvus.collection = "second_{knowledge_db_id}".into();
    assert_eq!(fields(&second, &pipeline("b", 1)), [""; 0]);

    let mut shared = second.clone();
    shared.spec.source.kafka.ranges_topic = None;
    assert_eq!(
        fields(&shared, &pipeline("b", 1)),
        ["source.kafka.rangesTopic"]
    );
    shared.spec.source.kafka.ranges_topic = Some("task_generation".into());
    assert_eq!(
        fields(&shared, &pipeline("b", 1)),
        ["source.kafka.rangesTopic"]
    );
    let mut shared = second.clone();
    shared.spec.stores.mongodb.database = "mongodb".into();
    assert_eq!(
        fields(&shared, &pipeline("b", 1)),
        ["stores.mongodb.database"]
    );
    let mut shared = second.clone();
    shared.spec.stores.milvus.collection = "colqwen{knowledge_db_id}".into();
    assert_eq!(
        fields(&shared, &pipeline("b", 1)),
        ["stores.milvus.collection"]
    );
}

#[test]
fn databases_of_the_same_name_on_other_servers_are_separate() {
    let mut second = pipeline("a", 2);
    let kafka = &mut second.spec.source.kafka;
    kafka.consumer_group = "second".into();
    kafka.ranges_topic = Some("second.ranges".into());
    second.spec.stores.milvus.uri = "http://another:19530".into();
    let mut older = rival(pipeline("b", 1));
    older.same_mongodb = Some(false);
    assert!(judge(&second, &[older]).is_none());
}

#[test]
fn pipelines_of_other_topics_may_share_databases_and_collections_of_one_model() {
    let mut other = pipeline("a", 2);
    other.spec.source.kafka.topic = "other".into();
    assert_eq!(fields(&other, &pipeline("b", 1)), [""; 0]);
    assert!(!may_conflict(&other.spec, &pipeline("b", 1).spec));
}

#[test]
fn overlapping_collections_of_another_model_are_a_conflict() {
    let mut other = pipeline("a", 2);
    other.spec.source.kafka.topic = "other".into();
    other.spec.embedding.model.family = ModelFamily::ColQwen3;
    for (collection, is_conflict) in [
        ("colqwen{knowledge_db_id}", true),
        ("colqwen3_{knowledge_db_id}", true),
        ("col{knowledge_db_id}", true),
        ("colqwen{knowledge_db_id}_v3", true),
        ("visual{knowledge_db_id}", false),
    ] {
        other.spec.stores.milvus.collection = collection.into();
        let expected: &[&str] = if is_conflict {
            &["stores.milvus.collection"]
        } else {
            &[]
        };
        assert_eq!(fields(&other, &pipeline("b", 1)), expected, "{collection}");
    }
    other.spec.stores.milvus.collection = "colqwen{knowledge_db_id}".into();
    other.spec.stores.milvus.uri = "http://another:19530".into();
    assert_eq!(fields(&other, &pipeline("b", 1)), [""; 0]);
}

#[test]
fn collections_of_one_family_are_shared_whatever_the_address_of_the_checkpoint() {
    let mut pinned = pipeline("a", 2);
    pinned.spec.source.kafka.topic = "other".into();
    pinned.spec.embedding.model.uri = "hf://layra/minilm@0123456".into();
    assert_eq!(fields(&pinned, &pipeline("b", 1)), [""; 0]);
}

/// The settings of the pipeline are confirmed, as of one that has had workers.
fn with_past(mut pipeline: IngestionPipeline) -> IngestionPipeline {
    let spec = &pipeline.spec;
    pipeline.status = Some(IngestionPipelineStatus {
        confirmed: Some(ConfirmedStatus {
            consumer_group: spec.source.kafka.consumer_group.clone(),
            ranges_topic: spec.source.kafka.ranges_topic(),
            collection: spec.stores.milvus.collection.clone(),
            database: spec.stores.mongodb.database.clone(),
            model_family: spec.embedding.model.family.to_string(),
        }),
        ..IngestionPipelineStatus::default()
    });
    pipeline
}

#[test]
fn collections_of_another_family_stop_only_a_pipeline_that_has_not_run_yet() {
    let older = [rival(pipeline("b", 1))];
    let mut other = pipeline("a", 2);
    other.spec.source.kafka.topic = "other".into();
    other.spec.embedding.model.family = ModelFamily::ColQwen3;
    assert!(judge(&other, &older).is_some());
    let mut ran = with_past(other);
    assert_eq!(judge(&ran, &older), None);
    // A confirmed change of the family, with which no worker has run.
    ran.spec.embedding.model.family = ModelFamily::ColQwen2;
    ran.metadata.annotations = Some(
        [(
            "ingest.layra.io/confirm-change".to_owned(),
            format!("embedding.model.family={}", ModelFamily::ColQwen2),
        )]
        .into(),
    );
    assert!(judge(&ran, &older).is_some());
    assert!(
        judge(&with_past(pipeline("a", 2)), &older).is_some(),
        "workers that take each other's messages stop"
    );
}

/// Each of the settings that have to be confirmed, of their own.
fn with_own_settings(mut pipeline: IngestionPipeline) -> IngestionPipeline {
    let kafka = &mut pipeline.spec.source.kafka;
    kafka.consumer_group = "second".into();
    kafka.ranges_topic = Some("second.ranges".into());
    pipeline.spec.stores.mongodb.database = "second".into();
    pipeline.spec.stores.milvus.collection = "second_{knowledge_db_id}".into();
    pipeline
}

#[test]
fn the_older_pipeline_keeps_what_its_workers_have_until_a_change_is_confirmed() {
    let younger = pipeline("a", 2);
    let moving = with_own_settings(with_past(pipeline("b", 1)));
    assert!(judge(&younger, &[rival(moving)]).is_some());

    let arriving = IngestionPipeline {
        spec: younger.spec.clone(),
        ..with_past(with_own_settings(pipeline("b", 1)))
    };
    assert_eq!(judge(&younger, &[rival(arriving)]), None);
}

#[test]
fn the_younger_pipeline_keeps_what_its_workers_have_until_a_change_is_confirmed() {
    let older = [rival(pipeline("b", 1))];
    let arriving = IngestionPipeline {
        spec: pipeline("a", 2).spec,
        ..with_past(with_own_settings(pipeline("a", 2)))
    };
    assert_eq!(judge(&arriving, &older), None, "it is asked first");
    let leaving = with_own_settings(with_past(pipeline("a", 2)));
    assert!(judge(&leaving, &older).is_some());
}

#[test]
fn one_common_broker_means_one_cluster() {
    let mut other = pipeline("a", 2);
    let servers = &mut other.spec.source.kafka.bootstrap_servers;
    *servers = "kafka-1.rag:9092, Kafka.rag:9092".into();
    assert!(!fields(&other, &pipeline("b", 1)).is_empty());
    other.spec.source.kafka.bootstrap_servers = "another:9092".into();
    other.spec.stores.milvus.uri = "http://another:19530".into();
    assert_eq!(fields(&other, &pipeline("b", 1)), [""; 0]);
}

#[test]
fn a_topic_named_like_the_ranges_of_another_pipeline_is_a_conflict() {
    let mut other = pipeline("a", 2);
    other.spec.source.kafka.topic = "task_generation.ranges".into();
    assert_eq!(fields(&other, &pipeline("b", 1)), ["source.kafka.topic"]);
}
