use layra_crds::Verdict;

use super::*;

/// In the format of Milvus 2.3 (<https://milvus.io/docs/v2.3.x/metrics_dashboard.md>).
const METRICS: &str = r#"# HELP milvus_datacoord_stored_binlog_size binlog size of segments
# TYPE milvus_datacoord_stored_binlog_size gauge
milvus_datacoord_stored_binlog_size{collection_id="1",segment_state="Flushed"} 1.5e+06
milvus_datacoord_stored_binlog_size{collection_id="2",segment_state="Flushed"} 500000
milvus_datacoord_stored_binlog_size_total 7
# HELP milvus_rootcoord_force_deny_writing_counter The number of times milvus turns into force-deny-writing states
# TYPE milvus_rootcoord_force_deny_writing_counter counter
milvus_rootcoord_force_deny_writing_counter 0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 6.51165696e+08
"#;

fn collection(rows: u64, has_index_as_wanted: bool) -> Inspected {
    Inspected {
        rows,
        has_index_as_wanted,
    }
}

fn facts() -> Facts {
    Facts {
        version: "v2.3.5".to_owned(),
        collections: 3,
        own: Ok(vec![collection(1000, true), collection(5, true)]),
        own_collections: 2,
        index: layra_crds::IndexSpec::default().resolved(),
        metrics: Ok(METRICS.to_owned()),
    }
}

fn of(facts: &Facts, setting: &str) -> Finding {
    let findings = findings(facts);
    let mut found = findings
        .into_iter()
        .filter(|finding| finding.setting == setting);
    found.next().unwrap()
}

#[test]
fn a_small_milvus_is_good_and_what_it_does_not_tell_is_advice() {
    for finding in findings(&facts()) {
        let expected = match finding.setting.as_str() {
            "disk quota and retention" => Verdict::Advice,
            _ => Verdict::Good,
        };
        assert_eq!(finding.verdict, expected, "{finding:?}");
    }
    assert_eq!(of(&facts(), "memory").found, "621 MiB");
    assert_eq!(of(&facts(), "stored binlogs").found, "2 MiB");
}

#[test]
fn a_metric_is_summed_over_its_labels_and_longer_names_do_not_count() {
    let name = "milvus_datacoord_stored_binlog_size";
    assert_eq!(sum(METRICS, name), Some(2e6));
    assert_eq!(sum(METRICS, "milvus_datacoord"), None);
    assert_eq!(sum("a{b=\"x } y\"} 3 1700000000\n", "a"), Some(3.0));
    assert_eq!(sum("a NaN-ish\n", "a"), None);
}

#[test]
fn what_makes_searches_slow_or_writes_fail_is_to_change() {
    let mut facts = facts();
    facts.own = Ok(vec![
        collection(10_000_000, true),
        collection(90_000_000, false),
    ]);
    facts.collections = 60_000;
    facts.metrics = Ok("process_resident_memory_bytes 1.6e10\n\
        milvus_datacoord_stored_binlog_size 9e10\n\
        milvus_rootcoord_force_deny_writing_counter 2\n"
        .to_owned());
    for setting in [
        "index of the collections",
        "largest collection",
        "vectors of the pipeline",
        "collections",
        "memory",
        "stored binlogs",
        "times that writes were denied",
    ] {
        let finding = of(&facts, setting);
        assert_eq!(finding.verdict, Verdict::Change, "{finding:?}");
        assert!(finding.change.is_some(), "{finding:?}");
    }
    assert_eq!(
        of(&facts, "index of the collections").found,
        "1 of 2 differ"
    );
}

#[test]
fn missing_metrics_and_refused_collections_are_findings_and_no_error() {
    let facts = Facts {
        own: Err("permission denied".to_owned()),
        metrics: Err("http://milvus:9091/metrics: cannot connect".to_owned()),
        ..facts()
    };
    for setting in ["memory", "stored binlogs", "largest collection"] {
        assert_eq!(of(&facts, setting).verdict, Verdict::Unread);
    }
    let facts = Facts {
        metrics: Ok("# an older or a managed server\n".to_owned()),
        ..facts
    };
    let found = of(&facts, "memory").found;
    assert_eq!(found, "the metrics have no process_resident_memory_bytes");
}

#[test]
fn metrics_are_at_the_documented_port_of_the_same_host() {
    for (uri, url) in [
        ("http://milvus.rag:19530", "http://milvus.rag:9091/metrics"),
        ("https://milvus:443", "http://milvus:9091/metrics"),
        ("http://[::1]:19530", "http://[::1]:9091/metrics"),
    ] {
        assert_eq!(default_metrics(uri).unwrap().as_str(), url);
    }
    assert_eq!(default_metrics("milvus"), None);
}
