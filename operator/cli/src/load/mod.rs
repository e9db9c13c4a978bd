//! `kubectl layra load NAME`: the load test. A Job in the cluster sends documents of its own to the
//! pipeline and measures until they are searchable.

mod job;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, LoadResult};

pub(crate) use job::{Load, Outcome, remove_topics};

use crate::checks::{Check, Report, Reporting};
use crate::cluster::{Access, Cluster};
use crate::pause::is_stopped;
use crate::run::duration;

/// Send documents to a pipeline and measure until they are searchable.
///
/// Runs `layra-worker load` as a Job: it makes PDFs of text pages, sends their tasks as LAYRA does,
/// in a knowledge base of their own, and deletes them at the end, also on Ctrl-C. The documents take
/// their turn with those of users. Do not run two for one pipeline at the same time: the second one
/// would remove the documents of the first.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 every document was searchable; 1 one failed or was late; 2 wrong usage; 124 the Job took
too long; 125 it could not be run; 130 Ctrl-C.

Examples:
  kubectl layra load contracts --documents 100 --pages 20
  kubectl layra load contracts --documents 600 --pages 20 --rate 0.5 --report load.html")]
pub(crate) struct LoadArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Number of documents.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    documents: u32,

    /// Pages of each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pages: u32,

    /// Documents each second. Default: all at once.
    #[arg(long)]
    rate: Option<f64>,

    /// How long to wait until they are searchable.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30m")]
    wait: Duration,

    /// Delete nothing at the end. The next call does.
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    reporting: Reporting,
}

pub(crate) async fn run(args: &LoadArgs, access: &Access) -> anyhow::Result<ExitCode> {
    if args
        .rate
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
    {
        eprintln!("error: --rate is a number above 0");
        return Ok(ExitCode::from(2));
    }
    let cluster = Cluster::connect(access).await?;
    refuse_stopped(&cluster.pipeline(&args.pipeline).await?)?;
    let began = Timestamp::now();
    let load = Load {
        pipeline: &args.pipeline,
        image: args.reporting.image(),
        documents: args.documents,
        pages: args.pages,
        rate: args.rate,
        wait: args.wait,
        checks: false,
        keep: args.keep,
    };
    let result = match load.run(access).await? {
        Outcome::Measured(result) => result,
        Outcome::Ended(code) => return Ok(code),
    };
    let mut checks = vec![documents(&result)];
    checks.extend(measured(&result));
    checks.push(deletion(&result));
    let (namespace, name) = (&cluster.namespace, &args.pipeline);
    let report = Report::new("load", namespace, name, began, checks);
    args.reporting.finish(&report)
}

/// Without workers nothing would become searchable.
pub(crate) fn refuse_stopped(pipeline: &IngestionPipeline) -> anyhow::Result<()> {
    let name = pipeline.name_any();
    ensure!(
        !is_stopped(pipeline),
        "the workers of {name} are stopped: `kubectl layra resume {name}` starts them"
    );
    Ok(())
}

/// Whether every document became searchable. Pure.
pub(crate) fn documents(result: &LoadResult) -> Check {
    let LoadResult {
        documents,
        pages,
        sent,
        searchable,
        failed,
        ..
    } = result;
    let mut measured = format!("{searchable} of {documents} searchable, of {pages} pages each");
    let open = documents.saturating_sub(searchable + failed);
    if *failed > 0 {
        let _ = write!(measured, ", {failed} failed");
    }
    if open > 0 {
        let _ = write!(measured, ", {open} not finished in time");
    }
    if sent < documents {
        let _ = write!(measured, ", only {sent} sent");
    }
    if result.skipped_pages > 0 {
        let _ = write!(measured, ", {} pages skipped", result.skipped_pages);
    }
    for why in result.failures.iter().chain(&result.problem) {
        let _ = write!(measured, "; {why}");
    }
    let to_do = if *failed > 0 {
        "Look up the reasons in docs/failures.md."
    } else {
        "`kubectl layra status` and `kubectl layra doctor` say what holds the workers up; --wait waits \
         longer."
    };
    let passes = searchable == documents && result.skipped_pages == 0 && result.problem.is_none();
    let expected = format!("all {documents} searchable with every page");
    Check::judged("documents", passes, expected, measured, to_do)
}

/// Speed, durations and lag. Pure.
fn measured(result: &LoadResult) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(speed) = result.pages_per_second {
        checks.push(Check::measured("speed", format!("{speed:.1} pages/s")));
    }
    checks.extend(times(result));
    checks.extend(
        result
            .highest_lag
            .map(|lag| Check::measured("highest lag", format!("{lag} messages"))),
    );
    checks
}

/// How long documents took. Pure.
pub(crate) fn times(result: &LoadResult) -> Option<Check> {
    let spread = result.to_searchable?;
    let begun = result.begun_after_seconds.unwrap_or_default();
    let words = format!(
        "median {:.1} s, 95 % within {:.1} s, longest {:.1} s; a worker began after {begun:.1} s; the \
         tasks were sent within {:.1} s",
        spread.median, spread.p95, spread.longest, result.sending_seconds
    );
    Some(Check::measured("from task to searchable", words))
}

/// Whether the deletion has left something. Pure.
pub(crate) fn deletion(result: &LoadResult) -> Check {
    const NAME: &str = "deletion";
    let to_do = "`kubectl layra run NAME -- audit --repair` removes what is left after an hour; the \
                 next call of this command tries it at once.";
    let expected = "nothing is left in MongoDB, Milvus and the bucket";
    match &result.left {
        Some(left) if left.is_empty() => {
            Check::judged(NAME, true, expected, "nothing is left", to_do)
        }
        Some(left) => {
            let measured = format!("left: {}", left.join(", "));
            Check::judged(NAME, false, expected, measured, to_do)
        }
        None if result.problem.is_some() => {
            let measured = "the documents may be left in the stores";
            Check::judged(NAME, false, expected, measured, to_do)
        }
        None => Check::not_checked(
            NAME,
            format!("kept: knowledge base {}", result.knowledge_base),
        ),
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::Spread;

    use super::*;
    use crate::checks::Verdict;

    fn good() -> LoadResult {
        LoadResult {
            documents: 10,
            pages: 50,
            sent: 10,
            searchable: 10,
            pages_per_second: Some(12.34),
            to_searchable: Spread::of(vec![1.0, 2.0]),
            highest_lag: Some(10),
            left: Some(Vec::new()),
            ..LoadResult::default()
        }
    }

    #[test]
    fn documents_that_are_late_or_failed_are_told_apart() {
        assert_eq!(documents(&good()).verdict, Verdict::Pass);
        let late = LoadResult {
            searchable: 7,
            ..good()
        };
        let check = documents(&late);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(
            check.measured.contains("3 not finished in time"),
            "{check:?}"
        );
        let failed = LoadResult {
            searchable: 9,
            failed: 1,
            failures: vec!["a: Damaged: no page tree".to_owned()],
            ..good()
        };
        let check = documents(&failed);
        assert!(
            check
                .measured
                .ends_with("1 failed; a: Damaged: no page tree")
        );
        assert!(check.to_do.unwrap().contains("failures.md"));
        let skipped = LoadResult {
            skipped_pages: 1,
            ..good()
        };
        assert_eq!(documents(&skipped).verdict, Verdict::Fail);
    }

    #[test]
    fn a_deletion_that_leaves_something_fails() {
        assert_eq!(deletion(&good()).verdict, Verdict::Pass);
        let left = LoadResult {
            left: Some(vec!["collection kb_1".to_owned()]),
            ..good()
        };
        let check = deletion(&left);
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.measured, "left: collection kb_1");
        let unknown = LoadResult {
            left: None,
            problem: Some("no answer".to_owned()),
            ..good()
        };
        assert_eq!(deletion(&unknown).verdict, Verdict::Fail);
        let kept = LoadResult {
            left: None,
            ..good()
        };
        assert_eq!(deletion(&kept).verdict, Verdict::NotChecked);
    }

    #[test]
    fn speed_times_and_lag_are_measured() {
        let checks = measured(&good());
        let words: Vec<&str> = checks.iter().map(|check| check.measured.as_str()).collect();
        assert_eq!(words[0], "12.3 pages/s");
        assert!(
            words[1].starts_with("median 1.0 s, 95 % within 2.0 s"),
            "{words:?}"
        );
        assert_eq!(words[2], "10 messages");
    }
}
