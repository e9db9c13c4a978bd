//! The moments at which `cargo measure reindex` kills a rebuild.

use std::time::Duration;

use anyhow::Result;
use layra_crds::{ReindexEntry, ReindexPhase};

use crate::rebuild::{Library, Reindex};
use crate::worker_cli::WorkerCli;

const MINUTE: Duration = Duration::from_mins(1);
/// How long a request may be in flight, here: the servers are local.
const LATE_WRITES: Duration = Duration::from_secs(10);
/// Between two looks at a rebuild.
const POLL: Duration = Duration::from_millis(50);

/// The step of a rebuild that must have been reached.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many per cent of the rows were copied.
    Copied(u64),
    Indexing,
    Verifying,
    /// The new collection serves.
    Settling,
}

/// One after the other: a rebuild goes on where it was killed.
const MOMENTS: [Moment; 10] = [
    Moment::Copied(5),
    Moment::Copied(30),
    Moment::Copied(60),
    Moment::Copied(90),
    Moment::Indexing,
    Moment::Indexing,
    Moment::Verifying,
    Moment::Verifying,
    Moment::Settling,
    Moment::Settling,
];

/// Rebuilds, and kills the process so often. Returns how often it was killed.
pub(super) async fn rebuild(library: &Library, cli: &WorkerCli, kills: usize) -> Result<usize> {
    for number in 0..kills {
        // A few kills are spread over all moments.
        let moment = MOMENTS[number * MOMENTS.len() / kills.max(1)];
        let mut run = Reindex::start(cli, &library.collection, LATE_WRITES)?;
        while !is_reached(library, &run, moment).await? {
            if run.ended()?.is_some() {
                println!("it ended before kill {}, {moment:?}", number + 1);
                run.finish(MINUTE, cli).await?;
                return Ok(number);
            }
            tokio::time::sleep(POLL).await;
        }
        tokio::time::sleep(Duration::from_secs_f64(2.0 * fastrand::f64())).await;
        println!("kill {}: {moment:?}, {}", number + 1, phase(library).await?);
        run.kill()?;
    }
    let run = Reindex::start(cli, &library.collection, LATE_WRITES)?;
    run.finish(60 * MINUTE, cli).await?;
    Ok(kills)
}

/// The phase in MongoDB.
async fn phase(library: &Library) -> Result<String> {
    let state = library.rebuild().await?;
    let phase = state.and_then(|state| state.get_str("phase").ok().map(str::to_owned));
    Ok(phase.unwrap_or_default())
}

async fn is_reached(library: &Library, run: &Reindex, moment: Moment) -> Result<bool> {
    // It does not answer at once, and must wait until the right of the killed process ends.
    let Ok(progress) = run.progress().await else {
        return Ok(false);
    };
    let mut entries = progress.entries.iter();
    let Some(entry) = entries.find(|entry| entry.name == library.collection) else {
        return Ok(false);
    };
    let phase = phase(library).await?;
    Ok(has_reached(moment, &phase, entry))
}

fn has_reached(moment: Moment, phase: &str, entry: &ReindexEntry) -> bool {
    let is_past_filling = phase != "filling";
    let rank = match entry.phase {
        ReindexPhase::Indexing => 1,
        ReindexPhase::Verifying => 2,
        ReindexPhase::Swapping => 3,
        _ => 0,
    };
    match moment {
        Moment::Copied(percent) => {
            let is_copied = entry.total > 0 && entry.copied * 100 >= entry.total * percent;
            is_past_filling || rank > 0 || is_copied
        }
        Moment::Indexing => is_past_filling || rank > 0,
        Moment::Verifying => is_past_filling || rank > 1,
        Moment::Settling => phase == "settling",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_reached_once_or_when_it_has_passed() {
        let entry = |phase, copied| ReindexEntry {
            name: "c".into(),
            phase,
            copied,
            total: 100,
            message: String::new(),
        };
        let copying = entry(ReindexPhase::Copying, 30);
        assert!(has_reached(Moment::Copied(30), "filling", &copying));
        assert!(!has_reached(Moment::Copied(31), "filling", &copying));
        let indexing = entry(ReindexPhase::Indexing, 30);
        assert!(has_reached(Moment::Copied(90), "filling", &indexing));
        assert!(has_reached(Moment::Indexing, "filling", &indexing));
        assert!(!has_reached(Moment::Verifying, "filling", &indexing));
        let verifying = entry(ReindexPhase::Verifying, 30);
        assert!(!has_reached(Moment::Settling, "filling", &verifying));
        assert!(has_reached(Moment::Settling, "settling", &verifying));
    }
}
