//! What was found, judged. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use layra_crds::{Advice, ScalingStatus, Verdict};
use serde_json::Value;

use crate::checks::Check;

pub(super) const STORES: &str = "stores";
pub(super) const SERVERS: &str = "servers";
pub(super) const DOCUMENTS: &str = "failed documents";
pub(super) const LOGS: &str = "errors in logs";
/// Findings that are named.
const NAMED: usize = 5;
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

pub(super) fn doctor(concerns: &[String]) -> Check {
    let measured = if concerns.is_empty() {
        "nothing is wrong".to_owned()
    } else {
        some(concerns)
    };
    let to_do = "`kubectl layra doctor` says what to do about each.";
    let expected = "doctor finds neither a problem nor a warning";
    Check::judged("pipeline", concerns.is_empty(), expected, measured, to_do)
}

/// The report of `audit`.
pub(super) fn audit(report: &Value, _: Timestamp) -> Check {
    let left = report["left"].as_u64().unwrap_or_default();
    let texts = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned))
            .collect()
    };
    let unchecked = texts(&report["unchecked"]);
    let counts = report["counts"].as_object().into_iter().flatten();
    let mut found: Vec<String> = counts
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    found.extend(unchecked.iter().map(|what| format!("not checked: {what}")));
    let documents = report["documents"].as_u64().unwrap_or_default();
    let measured = if found.is_empty() {
        format!("{documents} documents are there once, and nothing else is")
    } else {
        some(&found)
    };
    let to_do = "`kubectl layra run NAME -- audit` lists each, and with --repair removes what is left \
                 of documents that are gone.";
    let passes = left == 0 && unchecked.is_empty();
    Check::judged(STORES, passes, "audit finds nothing", measured, to_do)
}

/// The findings of `advise`.
pub(super) fn advice(answer: &Value, _: Timestamp) -> Check {
    let Ok(advice) = serde_json::from_value::<Advice>(answer.clone()) else {
        return Check::not_checked(SERVERS, "the answer is of another version");
    };
    let change: Vec<String> = advice
        .findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Change)
        .map(|finding| {
            format!(
                "{}: {} is {}",
                finding.server, finding.setting, finding.found
            )
        })
        .collect();
    let measured = if change.is_empty() {
        format!("{} settings were compared", advice.findings.len())
    } else {
        some(&change)
    };
    let to_do = "`kubectl layra advise` has the command for each.";
    let expected = "no server has a setting that the guide would change";
    Check::judged(SERVERS, change.is_empty(), expected, measured, to_do)
}

/// The documents that failed. They are the users', so their number is no fault.
pub(super) fn failed(list: &Value, now: Timestamp) -> Check {
    let since = now.checked_sub(WEEK).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for document in list.as_array().into_iter().flatten() {
        let time = document["updatedAt"].as_str();
        let time = time.and_then(|time| time.parse::<Timestamp>().ok());
        if time.is_none_or(|time| time >= since) {
            let reason = document["failure"]["reason"].as_str().unwrap_or("unknown");
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let count: usize = reasons.values().sum();
    if count == 0 {
        return Check::measured(DOCUMENTS, "none in the last seven days");
    }
    let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<String> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let words = format!(
        "{count} in the last seven days: {}; `kubectl layra dlq` shows them",
        some(&reasons)
    );
    Check::measured(DOCUMENTS, words)
}

/// The lines of the workers with the level ERROR.
pub(super) fn logs(text: &str) -> Check {
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = 0;
    for line in text.lines() {
        lines += 1;
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if event["level"] == "ERROR" {
            let message = event["message"].as_str().unwrap_or_default();
            *errors.entry(message.to_owned()).or_default() += 1;
        }
    }
    let count: usize = errors.values().sum();
    let mut errors: Vec<(String, usize)> = errors.into_iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let errors: Vec<String> = errors
        .into_iter()
        .map(|(message, count)| format!("{count} x {message}"))
        .collect();
    let measured = if errors.is_empty() {
        format!("none in the last {lines} lines")
    } else {
        format!("{count} in the last {lines} lines: {}", some(&errors))
    };
    let to_do = "`kubectl layra logs` shows them with what happened before.";
    Check::judged(LOGS, count == 0, "none", measured, to_do)
}

/// What limits the number of workers.
pub(super) fn scaling(scaling: Option<&ScalingStatus>) -> Check {
    const NAME: &str = "bottleneck";
    let Some(scaling) = scaling else {
        return Check::not_checked(NAME, "the operator has not decided yet");
    };
    let mut words = scaling.message.clone();
    if !scaling.limits.is_empty() {
        words = format!("{words} (limits: {})", scaling.limits.join(", "));
    }
    if let Some(learned) = &scaling.learned {
        let speed = learned.pages_per_second;
        let _ = write!(words, "; a worker does {speed:.2} pages/s");
    }
    Check::measured(NAME, words)
}

/// The first of these, and how many more there are.
fn some(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let more = all.len().saturating_sub(NAMED);
    let mut text = named.join("; ");
    if more > 0 {
        let _ = write!(text, "; {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Verdict as Judged;

    fn now() -> Timestamp {
        "2026-11-28T02:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_doctor_finds_fails() {
        assert_eq!(doctor(&[]).verdict, Judged::Pass);
        let many: Vec<String> = (0..7).map(|number| format!("finding {number}")).collect();
        let check = doctor(&many);
        assert_eq!(check.verdict, Judged::Fail);
        assert!(check.measured.ends_with("finding 4; 2 more"), "{check:?}");
    }

    #[test]
    fn what_an_audit_finds_or_cannot_check_fails() {
        let clean = json!({"findings": [], "counts": {}, "left": 0, "unchecked": [],
            "documents": 7, "objects": 9});
        let check = audit(&clean, now());
        assert_eq!(check.verdict, Judged::Pass);
        assert!(check.measured.starts_with("7 documents"), "{check:?}");
        let mut found = clean.clone();
        found["left"] = json!(3);
        found["counts"] = json!({"RowsWithoutDocument": 3});
        let check = audit(&found, now());
        assert_eq!(check.verdict, Judged::Fail);
        assert_eq!(check.measured, "3 RowsWithoutDocument");
        let mut open = clean;
        open["unchecked"] = json!(["collection a, which is being rebuilt"]);
        assert_eq!(audit(&open, now()).verdict, Judged::Fail);
    }

    #[test]
    fn a_setting_to_change_fails_and_one_that_is_unread_does_not() {
        let finding = |verdict: &str| {
            json!({"server": "Redis", "setting": "maxmemory-policy", "asked": "noeviction",
                "found": "allkeys-lru", "verdict": verdict})
        };
        let check = advice(&json!({"findings": [finding("Change")]}), now());
        assert_eq!(check.verdict, Judged::Fail);
        assert_eq!(check.measured, "Redis: maxmemory-policy is allkeys-lru");
        let check = advice(&json!({"findings": [finding("Unread")]}), now());
        assert_eq!(check.verdict, Judged::Pass);
    }

    #[test]
    fn failed_documents_of_the_week_are_counted_by_reason() {
        let document =
            |time: &str, reason: &str| json!({"updatedAt": time, "failure": {"reason": reason}});
        let list = json!([
            document("2026-11-27T02:00:00Z", "Encrypted"),
            document("2026-11-26T02:00:00Z", "Damaged"),
            document("2026-11-26T01:00:00Z", "Damaged"),
            document("2026-11-01T02:00:00Z", "Damaged"),
        ]);
        let check = failed(&list, now());
        assert_eq!(check.verdict, Judged::Measured);
        assert!(
            check
                .measured
                .starts_with("3 in the last seven days: 2 Damaged; 1 Encrypted"),
            "{check:?}"
        );
        assert_eq!(
            failed(&json!([]), now()).measured,
            "none in the last seven days"
        );
    }

    #[test]
    fn errors_are_counted_by_their_message() {
        let line =
            |level: &str, message: &str| json!({"level": level, "message": message}).to_string();
        let text = [
            line("ERROR", "cannot connect"),
            line("INFO", "stored"),
            line("ERROR", "cannot connect"),
        ];
        let check = logs(&text.join("\n"));
        assert_eq!(check.verdict, Judged::Fail);
        assert_eq!(check.measured, "2 in the last 3 lines: 2 x cannot connect");
        assert_eq!(logs("").verdict, Judged::Pass);
    }
}
