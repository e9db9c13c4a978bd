//! Planted faults, and the words for each.

use layra_crds::{Recall, Spread};

use super::*;
use crate::conditions::in_words;
use crate::conditions::tests::{condition, status};

fn good() -> Observed {
    let worker = Worker {
        memory: Some(512.0 * MIB),
        limit: Some(2048.0 * MIB),
        gpu_memory: Some(0.0),
        gpu_total: Some(0.0),
        restarts: (1, 1),
        out_of_memory: false,
    };
    Observed {
        conditions: in_words(Some(&status(vec![condition(
            "Ready",
            "True",
            "PipelineReady",
            "",
        )]))),
        learned_pages_per_second: Some(2.0),
        workers: Seen {
            workers: [("w-1".to_owned(), worker)].into(),
            not_read: None,
        },
        logs: Logs {
            lines: 40,
            readable: 40,
            about: 3,
            not_read: None,
        },
        result: LoadResult {
            documents: 10,
            pages: 50,
            sent: 10,
            searchable: 10,
            pages_per_second: Some(1.6),
            to_searchable: Spread::of(vec![40.0, 310.0]),
            highest_lag: Some(10),
            committed: Some(true),
            incomplete: Some(Vec::new()),
            recall: Some(Recall {
                pages: 50,
                found: 50,
            }),
            left: Some(Vec::new()),
            ..LoadResult::default()
        },
    }
}

const EXPECTED: Expected = Expected {
    pages_per_second: None,
    searchable_within: None,
    recall_percent: 95,
};

/// The only check that fails.
#[track_caller]
fn only_failure(observed: &Observed, expected: &Expected) -> Check {
    let checks = judge(observed, expected);
    let failed: Vec<&Check> = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].to_do.is_some(), "{failed:?}");
    failed[0].clone()
}

#[test]
fn a_good_pipeline_passes() {
    let checks = judge(&good(), &EXPECTED);
    let open: Vec<&Check> = checks
        .iter()
        .filter(|check| !matches!(check.verdict, Verdict::Pass | Verdict::Measured))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_pipeline_that_is_not_ready_fails_with_its_reason() {
    let mut observed = good();
    let ready = condition("Ready", "False", "MilvusUnreachable", "no answer");
    observed.conditions = in_words(Some(&status(vec![ready])));
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.name, "pipeline");
    assert_eq!(check.measured, "MilvusUnreachable: no answer");
    observed.conditions = Vec::new();
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.measured, "the operator has written no status");
}

#[test]
fn a_slow_pipeline_fails_with_the_speed_that_was_measured() {
    let mut observed = good();
    let asked = Expected {
        pages_per_second: Some(1.7),
        ..EXPECTED
    };
    let check = only_failure(&observed, &asked);
    assert_eq!(
        (check.name, check.measured.as_str()),
        ("speed", "1.60 pages/s")
    );
    assert_eq!(check.expected, "at least 1.7 pages/s, as asked");

    observed.result.pages_per_second = Some(0.9);
    let check = only_failure(&observed, &EXPECTED);
    assert!(check.expected.starts_with("at least 1.00 pages/s, half of"));
    // Few pages prove nothing.
    observed.result.pages = 3;
    let checks = judge(&observed, &EXPECTED);
    assert!(checks.iter().all(|check| check.verdict != Verdict::Fail));
}

#[test]
fn documents_that_take_too_long_fail_where_a_limit_is_set() {
    let within = Expected {
        searchable_within: Some(Duration::from_mins(5)),
        ..EXPECTED
    };
    let check = only_failure(&good(), &within);
    assert_eq!(check.name, "from task to searchable");
    assert!(check.measured.contains("longest 310.0 s"), "{check:?}");
}

#[test]
fn a_lag_that_stays_fails() {
    let mut observed = good();
    observed.result.committed = Some(false);
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.name, "lag");
    assert!(
        check.measured.starts_with("not everything was committed"),
        "{check:?}"
    );
}

#[test]
fn a_worker_out_of_memory_fails_with_its_name() {
    let mut observed = good();
    if let Some(worker) = observed.workers.workers.get_mut("w-1") {
        worker.out_of_memory = true;
        worker.restarts = (1, 2);
    }
    let checks = judge(&observed, &EXPECTED);
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail);
    let words: Vec<(&str, &str)> = failed
        .map(|check| (check.name, check.measured.as_str()))
        .collect();
    assert_eq!(
        words,
        [("memory", "out of memory: w-1"), ("restarts", "w-1: 1")]
    );
}

#[test]
fn a_full_gpu_fails() {
    let mut observed = good();
    if let Some(worker) = observed.workers.workers.get_mut("w-1") {
        worker.gpu_memory = Some(23.0);
        worker.gpu_total = Some(24.0);
    }
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(
        (check.name, check.measured.as_str()),
        ("GPU memory", "at most 96 %")
    );
}

#[test]
fn rows_that_are_missing_fail_with_the_document() {
    let mut observed = good();
    let what = "f-1: Milvus has 8 rows, and the ledger 9".to_owned();
    observed.result.incomplete = Some(vec![what.clone()]);
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!((check.name, check.measured), ("stores", what));
}

#[test]
fn a_low_recall_fails_with_the_share() {
    let mut observed = good();
    observed.result.recall = Some(Recall {
        pages: 50,
        found: 47,
    });
    let check = only_failure(&observed, &EXPECTED);
    assert!(
        check.measured.starts_with("94 %: 47 of 50 pages"),
        "{check:?}"
    );
    assert_eq!(check.expected, "at least 95 %");
}

#[test]
fn what_a_deletion_leaves_fails_with_its_name() {
    let mut observed = good();
    observed.result.left = Some(vec!["object layra-load/t/a_00001.pdf".to_owned()]);
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.name, "deletion");
    assert_eq!(check.measured, "left: object layra-load/t/a_00001.pdf");
}

#[test]
fn a_log_that_programs_cannot_read_fails() {
    let mut observed = good();
    observed.logs.readable = 39;
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.name, "logs");
    assert!(
        check.measured.starts_with("39 of 40 lines are JSON"),
        "{check:?}"
    );
}

#[test]
fn documents_that_never_arrive_fail_once_and_leave_the_rest_unchecked() {
    let mut observed = good();
    observed.result = LoadResult {
        documents: 10,
        pages: 50,
        sent: 10,
        left: Some(Vec::new()),
        ..LoadResult::default()
    };
    let check = only_failure(&observed, &EXPECTED);
    assert_eq!(check.name, "documents");
    assert!(
        check.measured.contains("10 not finished in time"),
        "{check:?}"
    );
    let checks = judge(&observed, &EXPECTED);
    for name in ["speed", "lag", "stores", "recall"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, Verdict::NotChecked, "{check:?}");
    }
}
