//! The CEL rules, evaluated as the API server does; the schema's own bounds (minimum, pattern) are
//! tested against a real API server in `e2e`.

use kube::{
    CustomResourceExt,
    core::cel::{compile_schema, estimate_rule_cost},
};
use layra_crds::IngestionPipeline;
use serde_json::{Value, json};

const MINIMAL: &str = include_str!("../../docs/examples/minimal.yaml");
const FULL: &str = include_str!("../../docs/examples/full.yaml");

fn pipeline(yaml: &str, patch: &Value) -> IngestionPipeline {
    let mut object: Value = serde_yaml_ng::from_str(yaml).expect("the example is YAML");
    merge(&mut object, patch);
    serde_json::from_value(object).expect("the patched example has the right types")
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    if let (Value::Object(target), Value::Object(patch)) = (&mut *target, patch) {
        for (key, value) in patch {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    } else {
        *target = patch.clone();
    }
}

#[test]
fn the_full_example_names_every_default() {
    let mut full: Value = serde_yaml_ng::from_str(FULL).expect("YAML");
    let spec = full.pointer_mut("/spec").expect("a spec");
    // Without the fields that have no default, it must equal the minimal object with its defaults.
    for gone in [
        "/source/kafka/authSecretRef",
        "/source/kafka/topicConfig",
        "/source/kafka/bootstrapServers",
        "/documents/objectStore/publicEndpoint",
        "/stores/milvus/archive",
        "/stores/milvus/retention",
        "/stores/milvus/tokenSecretRef",
        "/stores/milvus/index/preset",
        "/stores/milvus/rebuild/window",
        "/stores/milvus/rebuild/vectorsPerSecond",
        "/stores/milvus/quotas",
        "/stores/mongodb/manageIndexes",
        "/source/kafka/client",
        "/source/kafka/partitionsPerReplica",
        "/stores/mongodb/caSecretRef",
        "/stores/redis",
        "/worker/image",
        "/worker/resources",
        "/worker/podTemplate",
        "/source/kafka/deadLetterTopic",
        "/source/kafka/rangesTopic",
        "/source/kafka/readAheadTasks",
        "/documents/pageTexts",
        "/embedding/model/cacheClaim",
        "/scaling/activation",
        "/scaling/scaleDownDelaySeconds",
        "/scaling/fallback",
        "/scaling/floors",
        "/worker/terminationGracePeriodSeconds",
        "/query",
    ] {
        let (parent, key) = gone.rsplit_once('/').expect("a path");
        let parent = spec
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .expect("an object");
        assert!(parent.remove(key).is_some(), "full.yaml lacks {gone}");
    }
    let minimal = serde_json::to_value(pipeline(MINIMAL, &json!({})).spec).expect("JSON");
    let mut expected = minimal.clone();
    expected
        .pointer_mut("/source/kafka")
        .and_then(Value::as_object_mut)
        .expect("object")
        .remove("bootstrapServers");
    assert_eq!(*spec, expected);
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list: one entry for each rule")]
fn contradictions_are_refused_with_a_sentence_that_says_what_to_change() {
    let cases = [
        (
            json!({"spec": {"scaling": {"maxReplicas": 11}}}),
            "Raise partitions or lower maxReplicas",
        ),
        (
            json!({"spec": {"source": {"kafka": {"partitionsPerReplica": 100}}, "scaling": {"maxReplicas": 101}}}),
            "must not exceed 10000 partitions",
        ),
        (
            json!({"spec": {"scaling": {"floors": [
                {"start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 5}]}}}),
            "scaling.floors: minReplicas must not exceed scaling.maxReplicas",
        ),
        (
            json!({"spec": {"query": {"replicas": 2, "maxReplicas": 3}}}),
            "Set one or the other",
        ),
        (
            json!({"spec": {"query": {"minReplicas": 2}}}),
            "query.minReplicas needs query.maxReplicas",
        ),
        (
            json!({"spec": {"query": {"minReplicas": 3, "maxReplicas": 2}}}),
            "query.minReplicas must not exceed query.maxReplicas",
        ),
        (
            json!({"spec": {"query": {"service": {"name": "Model.Server"}}}}),
            "query.service.name must consist of",
        ),
        (
            json!({"spec": {"query": {"allowedOrigins": ["*", "https://app.example.com/"]}}}),
            "query.allowedOrigins must be",
        ),
        (
            json!({"spec": {"query": {"allowedOrigins": ["https://app.example.com:443"]}}}),
            "without a default port",
        ),
        (
            json!({"spec": {"query": {"service": {"port": 9090}}}}),
            "query.service.port must not be 9090",
        ),
        (
            json!({"spec": {"scaling": {"fallback": {"replicas": 5}}}}),
            "scaling.fallback.replicas must not exceed scaling.maxReplicas",
        ),
        (
            json!({"spec": {"scaling": {"minReplicas": 5}}}),
            "scaling.minReplicas must not exceed scaling.maxReplicas",
        ),
        (
            json!({"spec": {"source": {"kafka": {"deadLetterTopic": "task_generation"}}}}),
            "source.kafka.deadLetterTopic must differ from source.kafka.topic",
        ),
        (
            json!({"spec": {"source": {"kafka": {"foreignMessages": {"action": "Forward"}}}}}),
            "source.kafka.foreignMessages.topic is required with action: Forward",
        ),
        (
            json!({"spec": {"source": {"kafka": {"foreignMessages": {"action": "Forward", "topic": "task_generation"}}}}}),
            "source.kafka.foreignMessages.topic must differ from source.kafka.topic",
        ),
        (
            json!({"spec": {"documents": {"render": {"dpi": [{"below": 20, "dpi": 300}]}}}}),
            "must end with one rule without `below`",
        ),
        (
            json!({"spec": {"documents": {"render": {"dpi": [{"below": 20, "dpi": 300}, {"below": 20, "dpi": 200}, {"dpi": 100}]}}}}),
            "two rules with the same `below`",
        ),
        (
            json!({"spec": {"embedding": {"precision": "bf16"}}}),
            "minilm reads text. Remove them or choose another family",
        ),
        (
            json!({"spec": {"embedding": {"poolFactor": 3}}}),
            "minilm reads text. Remove them or choose another family",
        ),
        (
            json!({"spec": {"embedding": {"model": {"adapterUri": "s3://models/adapter"}}}}),
            "adapterUri is for the families colqwen2",
        ),
        (
            json!({"spec": {"embedding": {"model": {"tokenSecretRef": {"name": "hub"}}}}}),
            "neither uri nor adapterUri is one",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"caSecretRef": {"name": "ca"}}}}}),
            "stores.milvus.caSecretRef is for an https:// uri",
        ),
        (
            json!({"spec": {"documents": {"objectStore": {"caSecretRef": {"name": "ca"}}}}}),
            "documents.objectStore.caSecretRef is for an https:// endpoint",
        ),
        (
            json!({"spec": {"source": {"kafka": {"rangesTopic": "task_generation.dlq"}}}}),
            "source.kafka.rangesTopic must differ from",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"retention": {"action": "Archive"}}}}}),
            "action: Archive needs stores.milvus.archive",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"retention": {"action": "Release"}}}}}),
            "action: Release needs stores.milvus.readers: Own",
        ),
        (
            json!({"spec": {"stores": {"milvus": {
                "archive": {"bucket": "archives", "storageClass": "GLACIER"},
            }}}}),
            "cannot be read at once",
        ),
        (
            json!({"spec": {"stores": {"milvus": {
                "archive": {"bucket": "archives", "prefix": "/a"},
            }}}}),
            "stores.milvus.archive.prefix must be",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"collection": "everything"}}}}),
            "around one {knowledge_db_id}",
        ),
    ];
    assert_refused(&cases);
}

#[test]
fn an_index_has_a_preset_or_explicit_values_and_a_rebuild_has_what_it_needs() {
    let index = |index: Value| json!({"spec": {"stores": {"milvus": {"index": index}}}});
    let cases = [
        (
            index(json!({"preset": "Balanced", "m": 16})),
            "write `m: null` and `efConstruction: null`",
        ),
        (
            index(json!({"preset": "Balanced", "efConstruction": 300})),
            "has a preset and explicit values",
        ),
        (
            index(json!({"preset": "Balanced", "type": "FLAT"})),
            "index.preset is for type: HNSW",
        ),
        (
            index(json!({"nlist": 64})),
            "index.nlist is for type: IVF_FLAT",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"onIndexDrift": "RebuildInPlace"}}}}),
            "RebuildInPlace needs stores.milvus.rebuild.window",
        ),
        (
            json!({"spec": {"stores": {"milvus": {"onModelChange": "ReembedBeside"}}}}),
            "Set documents.pageTexts: Keep, or use Refuse",
        ),
    ];
    assert_refused(&cases);
    let accepted = [
        index(json!({"preset": "Balanced"})),
        index(json!({"m": 16, "efConstruction": 300})),
        index(json!({"type": "IVF_FLAT", "nlist": 64})),
        // Earlier versions stored the values of HNSW with each type.
        index(json!({"type": "FLAT", "m": 32, "efConstruction": 500})),
        json!({"spec": {"stores": {"milvus": {"onIndexDrift": "RebuildBeside"}}}}),
        json!({"spec": {
            "documents": {"pageTexts": "Keep"},
            "stores": {"milvus": {"onModelChange": "ReembedBeside"}},
        }}),
        json!({"spec": {"stores": {"milvus": {"onIndexDrift": "RebuildInPlace", "rebuild": {
            "window": {"start": "0 22 * * SAT", "end": "0 4 * * SUN"}}}}}}),
    ];
    for patch in accepted {
        pipeline(MINIMAL, &patch)
            .validate_cel()
            .unwrap_or_else(|error| panic!("{patch}: {error}"));
    }
}

/// The types know no other index, so the rule is evaluated on what a client sends.
#[test]
fn other_types_of_index_are_refused_with_a_sentence() {
    let check = |index: Value| layra_crds::IndexSpec::validate_cel(&index, None);
    let error = check(json!({"type": "DISKANN", "metric": "IP"}))
        .expect_err("DISKANN")
        .to_string();
    assert!(
        error.contains("index.type must be HNSW, FLAT or IVF_FLAT"),
        "{error}"
    );
    check(json!({"type": "IVF_FLAT", "metric": "IP"})).expect("valid");
}

#[test]
fn smaller_vectors_are_for_own_readers_and_int8_needs_the_cosine() {
    let milvus = |fields: Value| json!({"spec": {"stores": {"milvus": fields}}});
    assert_refused(&[
        (milvus(json!({"vectorType": "Float16"})), "readers: Own"),
        (
            milvus(json!({"vectorType": "Int8", "readers": "Own"})),
            "metric: COSINE",
        ),
        (
            milvus(json!({
                "vectorType": "Int8", "readers": "Own",
                "index": {"type": "FLAT", "metric": "COSINE"},
            })),
            "HNSW only",
        ),
    ]);
    for fields in [
        json!({"readers": "Own"}),
        json!({"vectorType": "BFloat16", "readers": "Own"}),
        json!({"vectorType": "Int8", "readers": "Own", "index": {"metric": "COSINE"}}),
    ] {
        pipeline(MINIMAL, &milvus(fields))
            .validate_cel()
            .expect("valid");
    }
}

/// A rule of the whole object is evaluated with each write of the status, too: an object that is stored
/// already could not even say what is wrong. The operator says it with `ApplyRefused` or
/// `NameTooLong`.
#[test]
fn a_name_that_does_not_work_is_left_to_the_operator() {
    for name in ["v1.contracts", &"x".repeat(53)] {
        pipeline(MINIMAL, &json!({"metadata": {"name": name}}))
            .validate_cel()
            .expect("its status can be written");
    }
}

#[test]
fn names_that_do_not_work_are_refused_with_a_sentence_that_says_what_to_change() {
    let cases = [
        (
            json!({"spec": {"source": {"kafka": {"deadLetterTopic": "task_generation.ranges"}}}}),
            "source.kafka.deadLetterTopic must not be source.kafka.topic followed by `.ranges`",
        ),
        (
            json!({"spec": {"source": {"kafka": {"foreignMessages": {"action": "Forward", "topic": "task_generation.ranges"}}}}}),
            "source.kafka.foreignMessages.topic must not be source.kafka.topic followed by `.ranges`",
        ),
        (
            json!({"spec": {"source": {"kafka": {"foreignMessages": {"action": "Forward", "topic": "task_generation.dlq"}}}}}),
            "must differ from the dead-letter topic",
        ),
        (
            json!({"spec": {"source": {"kafka": {
                "deadLetterTopic": "letters",
                "foreignMessages": {"action": "Forward", "topic": "letters"}}}}}),
            "must differ from the dead-letter topic",
        ),
        (
            json!({"spec": {"source": {"kafka": {"topic": "x".repeat(243)}}}}),
            "at most 242 characters",
        ),
        (
            json!({"spec": {"source": {"kafka": {"topicConfig": {"cleanup.policy": "delete,compact"}}}}}),
            "source.kafka.topicConfig must not compact the topics",
        ),
        (
            json!({"spec": {"source": {"kafka": {"topic": ".."}}}}),
            "must not be `.` or `..`",
        ),
        (
            json!({"spec": {"source": {"kafka": {"rangesTopic": ".."}}}}),
            "must not be `.` or `..`",
        ),
        (
            json!({"spec": {"source": {"kafka": {"deadLetterTopic": "."}}}}),
            "must not be `.` or `..`",
        ),
        (
            json!({"spec": {"source": {"kafka": {"foreignMessages": {"action": "Forward", "topic": "."}}}}}),
            "must not be `.` or `..`",
        ),
        (
            json!({"spec": {"scaling": {"activation": {"backlog": 2, "seconds": 600}}}}),
            "scaling.activation.seconds must be less than scaling.drainTargetSeconds",
        ),
        (
            json!({"spec": {"scaling": {"mode": "Manual", "replicas": 5}}}),
            "scaling.replicas and `kubectl scale` must not exceed scaling.maxReplicas",
        ),
    ];
    assert_refused(&cases);
}

#[test]
fn the_default_name_of_the_ranges_topic_is_free_when_there_is_another() {
    for topics in [
        json!({"rangesTopic": "own", "deadLetterTopic": "task_generation.ranges"}),
        json!({"rangesTopic": "own", "foreignMessages": {"action": "Forward", "topic": "task_generation.ranges"}}),
    ] {
        let patch = json!({"spec": {"source": {"kafka": topics}}});
        pipeline(MINIMAL, &patch).validate_cel().unwrap();
    }
}

/// Each patch of the minimal example is refused with a sentence that contains this one.
fn assert_refused(cases: &[(Value, &str)]) {
    for (patch, sentence) in cases {
        let error = pipeline(MINIMAL, patch)
            .validate_cel()
            .expect_err(&format!("{patch} should be refused"))
            .to_string();
        assert!(error.contains(sentence), "{patch}: {error}");
    }
}

/// A pod template, and the sentence that refuses it.
#[test]
fn what_the_operator_depends_on_cannot_be_overridden() {
    let own = |name: &str, field: &str, value: Value| {
        let list = if name == "worker" {
            "containers"
        } else {
            "initContainers"
        };
        json!({"spec": {list: [{"name": name, field: value}]}})
    };
    let probe = json!({"httpGet": {"port": 80}});
    let mut cases = vec![
        (
            json!({"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}),
            "Use other labels",
        ),
        (
            json!({"metadata": {"annotations": {"ingest.layra.io/config-hash": "1"}}}),
            "the operator uses them to detect changes that roll the pods",
        ),
        (
            json!({"spec": {"automountServiceAccountToken": false}}),
            "automountServiceAccountToken cannot be set",
        ),
        (
            json!({"spec": {"terminationGracePeriodSeconds": 5}}),
            "Set worker.terminationGracePeriodSeconds instead",
        ),
        (
            json!({"spec": {"volumes": [{"name": "config", "emptyDir": {}}]}}),
            "own volumes `config` and `secret-*`",
        ),
        (
            json!({"spec": {"volumes": [{"name": "secret-kafka", "emptyDir": {}}]}}),
            "own volumes `config` and `secret-*`",
        ),
    ];
    for name in ["worker", "fetch-model"] {
        for (field, value) in [
            ("image", json!("other")),
            ("imagePullPolicy", json!("Never")),
            ("resources", json!({})),
        ] {
            cases.push((
                own(name, field, value),
                "worker.resources and worker.gpu instead",
            ));
        }
        for (field, value) in [
            ("command", json!(["sh"])),
            ("args", json!(["run"])),
            ("ports", json!([{"containerPort": 1}])),
            ("startupProbe", probe.clone()),
            ("readinessProbe", probe.clone()),
            ("livenessProbe", probe.clone()),
            ("restartPolicy", json!("Always")),
            ("terminationMessagePath", json!("/x")),
            ("terminationMessagePolicy", json!("File")),
        ] {
            cases.push((own(name, field, value), "the operator depends on its own"));
        }
        let variable = json!([{"name": "LAYRA_LISTEN", "value": "0.0.0.0:1"}]);
        cases.push((own(name, "env", variable), "the operator sets them"));
        let mount = json!([{"name": "x", "mountPath": "/etc/layra/secrets/redis"}]);
        cases.push((own(name, "volumeMounts", mount), "below /etc/layra"));
    }
    for (template, sentence) in cases {
        let patch = json!({"spec": {"worker": {"podTemplate": template}}});
        let error = pipeline(MINIMAL, &patch)
            .validate_cel()
            .expect_err(&format!("{template} should be refused"))
            .to_string();
        assert!(error.contains(sentence), "{template}: {error}");
    }
}

#[test]
fn other_containers_and_fields_are_free() {
    let template = json!({
        "metadata": {"labels": {"team": "search"}},
        "spec": {
            "hostUsers": false,
            "containers": [
                {"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}],
                 "volumeMounts": [{"name": "x", "mountPath": "/models"}]},
                {"name": "proxy", "image": "envoy", "command": ["envoy"],
                 "env": [{"name": "POD_NAME", "value": "x"}],
                 "livenessProbe": {"httpGet": {"port": 80}}},
            ],
            "volumes": [{"name": "x", "emptyDir": {}}, {"name": "secret-mine", "emptyDir": {}}],
        },
    });
    pipeline(
        MINIMAL,
        &json!({"spec": {"worker": {"podTemplate": template}}}),
    )
    .validate_cel()
    .expect("valid");
}

#[test]
fn an_empty_resolution_table_is_valid() {
    pipeline(
        MINIMAL,
        &json!({"spec": {"documents": {"render": {"dpi": []}}}}),
    )
    .validate_cel()
    .expect("valid");
}

/// The API server refuses a definition with a rule whose cost it cannot bound.
#[test]
fn the_cost_of_every_rule_is_bounded() {
    fn check(path: &str, schema: &Value, found: &mut Vec<String>) {
        let compiled = compile_schema(schema);
        let rules = schema.get("x-kubernetes-validations");
        for rule in rules.and_then(Value::as_array).into_iter().flatten() {
            let text = rule["rule"].as_str().expect("a rule");
            for warning in estimate_rule_cost(text, &compiled) {
                found.push(format!("{path}: {text}: {}", warning.message));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), property, found);
        }
        if schema["items"].is_object() {
            check(&format!("{path}[]"), &schema["items"], found);
        }
    }
    let crd = serde_json::to_value(IngestionPipeline::crd()).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    check("", schema, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn manual_mode_takes_replicas() {
    pipeline(
        MINIMAL,
        &json!({"spec": {"scaling": {"mode": "Manual", "replicas": 2}}}),
    )
    .validate_cel()
    .expect("valid");
}

#[test]
fn the_longest_topic_leaves_room_for_the_suffix_of_its_ranges() {
    let topic = "x".repeat(242);
    let longest = pipeline(
        MINIMAL,
        &json!({"spec": {"source": {"kafka": {"topic": topic}}}}),
    );
    longest.validate_cel().expect("valid");
    assert_eq!(longest.spec.source.kafka.ranges_topic().len(), 249);
}

/// The ceiling may be lowered below a number that is ignored.
#[test]
fn replicas_left_over_from_manual_mode_may_exceed_the_maximum() {
    let replicas = |scaling: Value| pipeline(MINIMAL, &json!({"spec": {"scaling": scaling}}));
    let before = replicas(json!({"replicas": 4}));
    replicas(json!({"replicas": 4, "maxReplicas": 2}))
        .validate_cel_update(&before)
        .expect("valid");
}

#[test]
fn pain_13_replicas_set_by_hand_may_stay_when_the_mode_goes_back_to_auto_but_not_change() {
    let manual = pipeline(
        MINIMAL,
        &json!({"spec": {"scaling": {"mode": "Manual", "replicas": 2}}}),
    );
    let back = pipeline(MINIMAL, &json!({"spec": {"scaling": {"replicas": 2}}}));
    back.validate_cel_update(&manual).expect("valid");
    let scaled = pipeline(MINIMAL, &json!({"spec": {"scaling": {"replicas": 3}}}));
    let error = scaled
        .validate_cel_update(&back)
        .expect_err("scaled by hand in mode Auto");
    assert!(
        error.to_string().contains("need scaling.mode: Manual"),
        "{error}"
    );
}

#[test]
fn the_topic_cannot_be_changed_and_other_fields_can() {
    let old = pipeline(MINIMAL, &json!({}));
    let other_topic = pipeline(
        MINIMAL,
        &json!({"spec": {"source": {"kafka": {"topic": "other"}}}}),
    );
    let error = other_topic
        .validate_cel_update(&old)
        .expect_err("the topic changed")
        .to_string();
    assert!(error.contains("topic cannot be changed"), "{error}");

    let more = pipeline(
        MINIMAL,
        &json!({"spec": {"source": {"kafka": {"partitions": 20}}}}),
    );
    more.validate_cel_update(&old)
        .expect("more partitions are fine");
}

#[test]
fn partitions_for_each_replica_lift_the_limit_of_replicas() {
    let many = json!({"spec": {
        "source": {"kafka": {"partitionsPerReplica": 2}}, "scaling": {"maxReplicas": 50},
    }});
    let pipeline = pipeline(MINIMAL, &many);
    pipeline.validate_cel().expect("100 partitions");
    let spec = &pipeline.spec;
    let wanted = spec
        .source
        .kafka
        .wanted_partitions(spec.scaling.max_replicas);
    assert_eq!(wanted, 100);
}

#[test]
fn a_person_finds_the_object_by_its_short_name_and_scales_it() {
    let crd = IngestionPipeline::crd();
    assert_eq!(crd.spec.names.short_names, Some(vec!["ipl".to_owned()]));
    assert_eq!(crd.spec.names.categories, Some(vec!["layra".to_owned()]));
    let version = &crd.spec.versions[0];
    let columns: Vec<_> = version
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(
        columns,
        [
            "Ready", "Replicas", "Lag", "Drifted", "Model", "Age", "Reason", "Index"
        ]
    );
    let scale = version
        .subresources
        .as_ref()
        .and_then(|s| s.scale.as_ref())
        .expect("scale");
    assert_eq!(scale.spec_replicas_path, ".spec.scaling.replicas");
}

#[test]
fn every_field_is_documented() {
    fn check(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if !path.is_empty() && schema.get("description").is_none() {
            missing.push(path.to_owned());
        }
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            check(&format!("{path}.{name}"), property, missing);
        }
        if let Some(items) = schema
            .get("items")
            .filter(|items| items.get("properties").is_some())
        {
            for (name, property) in items["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}[].{name}"), property, missing);
            }
        }
    }
    let crd = serde_json::to_value(IngestionPipeline::crd()).expect("JSON");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut missing = Vec::new();
    check(".spec", &schema["properties"]["spec"], &mut missing);
    check(".status", &schema["properties"]["status"], &mut missing);
    assert!(missing.is_empty(), "undocumented: {missing:#?}");
}
