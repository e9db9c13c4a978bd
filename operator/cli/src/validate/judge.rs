//! What was observed, judged. Pure.

use std::time::Duration;

use layra_crds::LoadResult;
use layra_crds::condition_types::READY;

use super::workers::{Logs, Seen, Worker};
use crate::checks::{Check, Verdict};
use crate::conditions::{Concern, InWords};
use crate::load;

/// Fewer pages say nothing about the speed.
const PAGES_FOR_SPEED: u64 = 100;
/// Of the learned speed of one worker: the documents of users differ from ours.
const SHARE_OF_LEARNED: f64 = 0.5;
/// Above this share of a GPU's memory the alert `GPUMemoryHigh` fires.
const GPU_SHARE: f64 = 0.9;
const MIB: f64 = 1_048_576.0;

/// Everything that was observed.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) conditions: Vec<InWords>,
    pub(super) learned_pages_per_second: Option<f64>,
    pub(super) workers: Seen,
    pub(super) logs: Logs,
    pub(super) result: LoadResult,
}

/// What the person expects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) pages_per_second: Option<f64>,
    pub(super) searchable_within: Option<Duration>,
    pub(super) recall_percent: u32,
}

pub(super) fn judge(observed: &Observed, expected: &Expected) -> Vec<Check> {
    let result = &observed.result;
    let mut checks = vec![conditions(&observed.conditions), load::documents(result)];
    checks.push(speed(observed, expected));
    checks.extend(searchable(result, expected));
    checks.push(lag(result));
    checks.extend(memory_of(&observed.workers));
    checks.push(restarts(&observed.workers));
    checks.push(stores(result));
    checks.push(recall(result, expected));
    checks.push(load::deletion(result));
    checks.push(logs(&observed.logs));
    checks
}

fn conditions(all: &[InWords]) -> Check {
    let ready = all.iter().find(|one| one.kind == READY);
    let is_ready = ready.is_some_and(|ready| ready.status == "True");
    let wrong: Vec<String> = all
        .iter()
        .filter(|one| matches!(one.concern, Concern::Warning | Concern::Problem))
        .map(|one| format!("{}: {}", one.reason, one.message))
        .collect();
    let measured = match ready {
        None => "the operator has written no status".to_owned(),
        Some(ready) if wrong.is_empty() => ready.reason.clone(),
        Some(_) => wrong.join("; "),
    };
    let to_do = "`kubectl layra doctor` says what to do about each.";
    let expected = "condition Ready is true";
    Check::judged("pipeline", is_ready, expected, measured, to_do)
}

fn speed(observed: &Observed, expected: &Expected) -> Check {
    const NAME: &str = "speed";
    let result = &observed.result;
    let Some(measured) = result.pages_per_second else {
        return Check::not_checked(NAME, "no document became searchable");
    };
    let words = format!("{measured:.2} pages/s");
    let pages = u64::from(result.searchable) * u64::from(result.pages);
    let learned = observed.learned_pages_per_second;
    let to_do = "`kubectl layra explain` and `kubectl layra advise` show what slows it down: too few \
                 workers, a slow store, or a busy node.";
    match (expected.pages_per_second, learned) {
        (Some(least), _) => {
            let expected = format!("at least {least} pages/s, as asked");
            Check::judged(NAME, measured >= least, expected, words, to_do)
        }
        (None, Some(learned)) if pages >= PAGES_FOR_SPEED => {
            let least = learned * SHARE_OF_LEARNED;
            let expected = format!(
                "at least {least:.2} pages/s, half of what one worker does with the documents of users"
            );
            Check::judged(NAME, measured >= least, expected, words, to_do)
        }
        (None, Some(learned)) => Check::measured(
            NAME,
            format!("{words}; a worker does {learned:.2} with the documents of users"),
        ),
        (None, None) => Check::measured(NAME, words),
    }
}

fn searchable(result: &LoadResult, expected: &Expected) -> Option<Check> {
    let measured = load::times(result)?;
    let longest = result.to_searchable?.longest;
    let Some(limit) = expected.searchable_within else {
        return Some(measured);
    };
    let passes = longest <= limit.as_secs_f64();
    let expected = format!("each within {} s", limit.as_secs());
    let to_do = "Workers that start first take time: scaling.minReplicas keeps some. Otherwise see the \
                 speed.";
    let Check { name, measured, .. } = measured;
    Some(Check::judged(name, passes, expected, measured, to_do))
}

fn lag(result: &LoadResult) -> Check {
    const NAME: &str = "lag";
    let highest = result.highest_lag;
    let highest = highest.map_or_else(String::new, |lag| format!(", at most {lag} messages"));
    let Some(committed) = result.committed else {
        return Check::not_checked(
            NAME,
            format!("not every document became searchable{highest}"),
        );
    };
    let measured = if committed {
        format!("everything is committed{highest}")
    } else {
        format!("not everything was committed a minute after the last document{highest}")
    };
    let to_do = "Documents of users may still be in progress. Otherwise a partition is stuck: \
                 `kubectl layra explain` names it.";
    Check::judged(NAME, committed, "back to zero", measured, to_do)
}

/// Memory of the workers and of their GPUs.
pub(crate) fn memory_of(seen: &Seen) -> Vec<Check> {
    std::iter::once(memory(seen)).chain(gpu(seen)).collect()
}

fn memory(seen: &Seen) -> Check {
    const NAME: &str = "memory";
    let killed: Vec<&str> = seen
        .workers
        .iter()
        .filter(|(_, worker)| worker.out_of_memory)
        .map(|(pod, _)| pod.as_str())
        .collect();
    let to_do = "Raise worker.resources.limits.memory, or lower embedding.batchPages.";
    let expected = "every worker stays below its limit";
    if !killed.is_empty() {
        let measured = format!("out of memory: {}", killed.join(", "));
        return Check::judged(NAME, false, expected, measured, to_do);
    }
    let share = |worker: &Worker| Some(worker.memory? / worker.limit?);
    let fullest = seen
        .workers
        .values()
        .filter(|worker| worker.memory.is_some())
        .max_by(|a, b| share(a).unwrap_or(0.0).total_cmp(&share(b).unwrap_or(0.0)));
    match fullest.map(|worker| (worker.memory.unwrap_or_default(), worker.limit)) {
        None => {
            let why = seen.not_read.clone();
            Check::not_checked(NAME, why.unwrap_or_else(|| "no worker was seen".to_owned()))
        }
        Some((memory, None)) => Check::measured(
            NAME,
            format!("at most {:.0} MiB, without a limit", memory / MIB),
        ),
        Some((memory, Some(limit))) => {
            let measured = format!(
                "at most {:.0} MiB of {:.0} MiB; what renderers share counts in each",
                memory / MIB,
                limit / MIB
            );
            // The kernel ends what exceeds its limit: so much counts twice.
            Check::judged(NAME, true, expected, measured, to_do)
        }
    }
}

fn gpu(seen: &Seen) -> Option<Check> {
    let share = |worker: &Worker| {
        let (used, total) = (worker.gpu_memory?, worker.gpu_total?);
        (total > 0.0).then(|| used / total)
    };
    let shares = seen.workers.values().filter_map(share);
    let highest = shares.max_by(f64::total_cmp)?;
    let measured = format!("at most {:.0} %", 100.0 * highest);
    let to_do = "Lower embedding.batchPages, or choose a lower embedding.precision.";
    let expected = "at most 90 %, where the alert GPUMemoryHigh fires";
    Some(Check::judged(
        "GPU memory",
        highest <= GPU_SHARE,
        expected,
        measured,
        to_do,
    ))
}

fn restarts(seen: &Seen) -> Check {
    const NAME: &str = "restarts";
    if seen.workers.is_empty() {
        return Check::not_checked(NAME, "no worker was seen");
    }
    let restarted: Vec<String> = seen
        .workers
        .iter()
        .filter(|(_, worker)| worker.restarts.1 > worker.restarts.0)
        .map(|(pod, worker)| format!("{pod}: {}", worker.restarts.1 - worker.restarts.0))
        .collect();
    let measured = if restarted.is_empty() {
        format!("none of {} workers", seen.workers.len())
    } else {
        restarted.join(", ")
    };
    let to_do = "`kubectl layra logs` has what a worker wrote before it ended, and `kubectl layra \
                 doctor` why it did.";
    Check::judged(
        NAME,
        restarted.is_empty(),
        "no worker restarts",
        measured,
        to_do,
    )
}

fn stores(result: &LoadResult) -> Check {
    const NAME: &str = "stores";
    let Some(incomplete) = &result.incomplete else {
        return Check::not_checked(NAME, "not every document became searchable");
    };
    let measured = if incomplete.is_empty() {
        "every page is there once".to_owned()
    } else {
        incomplete.join("; ")
    };
    let to_do = "`kubectl layra run NAME -- audit` looks for others, and with --repair sends their tasks \
                 again.";
    let expected = "MongoDB has every page, and Milvus the rows of the ledger";
    Check::judged(NAME, incomplete.is_empty(), expected, measured, to_do)
}

fn recall(result: &LoadResult, expected: &Expected) -> Check {
    const NAME: &str = "recall";
    let Some(recall) = result.recall.filter(|recall| recall.pages > 0) else {
        return Check::not_checked(NAME, "not every document became searchable");
    };
    let percent = 100.0 * f64::from(recall.found) / f64::from(recall.pages);
    let measured = format!(
        "{percent:.0} %: {} of {} pages come first when they are asked for by their own vectors",
        recall.found, recall.pages
    );
    let least = expected.recall_percent;
    let to_do = "`kubectl layra run NAME -- tune --knowledge-base ID` chooses index settings by your own \
                 documents.";
    let passes = percent >= f64::from(least);
    Check::judged(NAME, passes, format!("at least {least} %"), measured, to_do)
}

fn logs(logs: &Logs) -> Check {
    const NAME: &str = "logs";
    if logs.lines == 0 {
        let why = logs.not_read.clone();
        let why = why.unwrap_or_else(|| "no worker that is left has written a line".to_owned());
        return Check::not_checked(NAME, why);
    }
    let Logs {
        lines,
        readable,
        about,
        ..
    } = logs;
    let measured = format!("{readable} of {lines} lines are JSON, {about} name the first document");
    let to_do = "Look at the other lines with `kubectl layra logs`: a container, a sidecar or a panic \
                 writes them.";
    let check = Check::judged(
        NAME,
        readable == lines,
        "every line is JSON with a time, a level and a message",
        measured,
        to_do,
    );
    if *about == 0 && check.verdict == Verdict::Pass {
        // The worker that has processed it may be gone.
        return Check::measured(NAME, check.measured);
    }
    check
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
