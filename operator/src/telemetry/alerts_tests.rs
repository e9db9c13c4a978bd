//! The alerts ask for reasons, limits and conditions that exist: one with a misspelt word would never
//! fire, and `promtool` would not notice.

use layra_autoscaler::Limit;
use layra_crds::condition_types::{READY, STALLED};

use crate::reconcile::Reason;

const ALERTS: &str = include_str!("../../../charts/layra-operator/rules/alerts.yaml");

/// The words that the selectors of all alerts have for a label.
fn words(label: &str) -> Vec<&'static str> {
    let begin = format!("{{{label}=");
    let selectors = ALERTS.split(begin.as_str()).skip(1);
    let values = selectors.filter_map(|rest| rest.split('"').nth(1));
    let words: Vec<&str> = values.flat_map(|value| value.split('|')).collect();
    assert!(!words.is_empty(), "no alert has the label {label}");
    words
}

#[test]
fn every_alert_asks_for_reasons_limits_and_conditions_that_exist() {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let limits = Limit::ALL.map(Limit::as_str);
    for (label, known) in [
        ("reason", reasons.as_slice()),
        ("limit", limits.as_slice()),
        ("condition", [READY, STALLED].as_slice()),
    ] {
        for word in words(label) {
            assert!(known.contains(&word), "{word} is no {label}");
        }
    }
}
