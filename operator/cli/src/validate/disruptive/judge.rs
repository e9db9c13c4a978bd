//! What came of the faults, judged. Pure.

use std::time::Duration;

use layra_crds::{LoadResult, ValidationFault};

use super::faults::Injected;
use crate::checks::{Check, Verdict};
use crate::load;

/// The name of the row of a fault.
pub(super) fn name(fault: ValidationFault) -> &'static str {
    match fault {
        ValidationFault::KilledRenderer => "killed renderer",
        ValidationFault::KilledWorker => "killed worker",
        ValidationFault::FullDisk => "full disk",
        ValidationFault::MilvusCutOff => "Milvus cut off",
        ValidationFault::OutOfMemory => "out of memory",
    }
}

/// The start of the pipeline of its own. `Err`: what its conditions say.
pub(super) fn started(took: &Result<Duration, String>, limit: Duration) -> Check {
    let measured = match took {
        Ok(took) => format!("ready after {:.0} s", took.as_secs_f64()),
        Err(why) => why.clone(),
    };
    Check::judged(
        "copy of the pipeline",
        took.is_ok(),
        format!("ready within {} s", limit.as_secs()),
        measured,
        "A copy needs a worker more: `kubectl layra doctor` says what holds it up while it exists.",
    )
}

/// `within`: the longest time until the pipeline goes on.
pub(super) fn fault(
    fault: ValidationFault,
    injected: &Injected,
    result: &LoadResult,
    within: Duration,
) -> Check {
    let name = name(fault);
    let expected = format!(
        "documents become searchable again within {} s, and every page is there once",
        within.as_secs()
    );
    let to_do = to_do(fault);
    let wrong = wrong(result);
    match injected {
        Injected::NotMet(why) if wrong.is_empty() => Check::not_checked(name, why),
        Injected::NotMet(why) => {
            let measured = format!("{}; the fault hit nothing: {why}", wrong.join("; "));
            Check::judged(name, false, expected, measured, to_do)
        }
        Injected::Met {
            words,
            goes_on,
            all,
        } => {
            let mut measured = vec![words.clone()];
            measured.push(match goes_on {
                Some(seconds) => format!("documents became searchable again after {seconds:.1} s"),
                None => "no document became searchable again".to_owned(),
            });
            measured.extend(
                all.map(|seconds| format!("all {} were after {seconds:.1} s", result.documents)),
            );
            let is_late = goes_on.is_none_or(|seconds| seconds > within.as_secs_f64());
            let passes = wrong.is_empty() && !is_late;
            measured.extend(wrong);
            Check::judged(name, passes, expected, measured.join("; "), to_do)
        }
    }
}

/// What is wrong with the documents of a fault.
fn wrong(result: &LoadResult) -> Vec<String> {
    let documents = load::documents(result);
    let mut wrong = Vec::new();
    if documents.verdict == Verdict::Fail {
        wrong.push(documents.measured);
    }
    wrong.extend(result.incomplete.iter().flatten().cloned());
    let deletion = load::deletion(result);
    if deletion.verdict == Verdict::Fail {
        wrong.push(deletion.measured);
    }
    wrong
}

fn to_do(fault: ValidationFault) -> &'static str {
    match fault {
        ValidationFault::KilledRenderer => {
            "Only the page of the renderer may be rendered again: report this with the logs."
        }
        ValidationFault::KilledWorker | ValidationFault::OutOfMemory => {
            "The time is that of the container's restart, of the model, and of \
             source.kafka.sessionTimeoutSeconds. A model on a claim (embedding.model.cacheClaim) and a \
             shorter session make it shorter."
        }
        ValidationFault::FullDisk => {
            "Workers try again until there is room. `kubectl layra doctor` and the logs say what they \
             wait for."
        }
        ValidationFault::MilvusCutOff => {
            "Workers try again with growing pauses. If they do not go on, look whether Milvus, or what is \
             between, keeps old connections."
        }
    }
}

/// `Err`: what is left.
pub(super) fn removed(removed: &anyhow::Result<()>) -> Check {
    let measured = match removed {
        Ok(()) => "nothing is left".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    Check::judged(
        "removal of the copy",
        removed.is_ok(),
        "nothing of the copy is left",
        measured,
        "If the copy is left, the next call removes it first, and refuses to work before that succeeds.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_mins(1);

    fn good() -> LoadResult {
        LoadResult {
            documents: 4,
            pages: 3,
            sent: 4,
            searchable: 4,
            incomplete: Some(Vec::new()),
            left: Some(Vec::new()),
            ..LoadResult::default()
        }
    }

    fn met(goes_on: Option<f64>) -> Injected {
        Injected::Met {
            words: "the worker ended at work".to_owned(),
            goes_on,
            all: goes_on,
        }
    }

    fn judged(injected: &Injected, result: &LoadResult) -> Check {
        fault(ValidationFault::KilledWorker, injected, result, WITHIN)
    }

    #[test]
    fn a_pipeline_that_goes_on_without_a_loss_passes() {
        let check = judged(&met(Some(12.34)), &good());
        assert_eq!(check.verdict, Verdict::Pass);
        assert_eq!(
            check.measured,
            "the worker ended at work; documents became searchable again after 12.3 s; all 4 were \
             after 12.3 s"
        );
    }

    #[test]
    fn a_pipeline_that_takes_too_long_or_stands_still_fails() {
        let check = judged(&met(Some(61.0)), &good());
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.expected.contains("within 60 s"), "{check:?}");
        let late = LoadResult {
            searchable: 1,
            ..good()
        };
        let check = judged(&met(None), &late);
        assert_eq!(check.verdict, Verdict::Fail);
        for words in [
            "no document became searchable again",
            "3 not finished in time",
        ] {
            assert!(check.measured.contains(words), "{check:?}");
        }
    }

    #[test]
    fn a_page_that_is_lost_or_twice_fails_whatever_the_fault() {
        let twice = LoadResult {
            incomplete: Some(vec!["f-1: Milvus has 9 rows, and the ledger 6".to_owned()]),
            ..good()
        };
        for injected in [met(Some(1.0)), Injected::NotMet("nothing".to_owned())] {
            let check = judged(&injected, &twice);
            assert_eq!(check.verdict, Verdict::Fail);
            assert!(
                check.measured.contains("9 rows, and the ledger 6"),
                "{check:?}"
            );
        }
    }

    #[test]
    fn a_fault_that_hits_nothing_proves_nothing() {
        let why = "the workers have no memory limit".to_owned();
        let check = judged(&Injected::NotMet(why.clone()), &good());
        assert_eq!((check.verdict, check.measured), (Verdict::NotChecked, why));
    }

    #[test]
    fn what_is_left_of_the_copy_is_named() {
        assert_eq!(removed(&Ok(())).verdict, Verdict::Pass);
        let check = removed(&Err(anyhow::anyhow!("topic a: no permission")));
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.measured, "topic a: no permission");
        let stuck = Err("TopicReady: no permission".to_owned());
        let check = started(&stuck, WITHIN);
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.measured, "TopicReady: no permission");
    }
}
