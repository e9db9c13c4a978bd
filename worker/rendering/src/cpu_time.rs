//! Time limits that blame a document only for time that was used: neither time in which the worker
//! stood still nor time in which the renderer did not compute.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::RenderError;

/// Parts into which a time limit is divided.
const STEPS: u32 = 30;
/// How often the CPU time of a process is read that cannot be asked after its end.
const SAMPLE: Duration = Duration::from_secs(1);

/// The result of `work`, or `None` after `limit`. If this process stands still (a frozen container,
/// a machine that moves), that counts as one thirtieth of the limit, however long it takes.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..STEPS {
        if let Ok(done) = timeout(limit / STEPS, &mut work).await {
            return Some(done);
        }
    }
    None
}

/// The result of `work`. Meanwhile `used` follows the CPU time of a process, which nobody can read
/// any more once `work` has waited for its end.
pub(super) async fn sampled<T>(
    process: Option<u32>,
    used: &mut Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = timeout(SAMPLE, &mut work).await {
            return done;
        }
        *used = process
            .and_then(of_process)
            .map_or(*used, |now| now.max(*used));
    }
}

/// CPU time of a process so far, also between its end and the call that waits for it. `None` if it
/// is gone.
pub(super) fn of_process(process: u32) -> Option<Duration> {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let ticks = used_ticks(&state)?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(
        ticks.saturating_mul(1000) / ticks_per_second,
    ))
}

/// Sum of the times in user and kernel mode. The second field, a name in parentheses, may have any
/// characters.
fn used_ticks(state: &str) -> Option<u64> {
    let (_, fields) = state.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<u64>().ok();
    Some(time()? + time()?)
}

/// The error after a time limit has passed: the document's fault if the process computed for at
/// least half of it. `before` and `now` are its CPU times at both ends.
pub(super) fn timed_out(
    limit: Duration,
    before: Option<Duration>,
    now: Option<Duration>,
) -> RenderError {
    let used = now.map_or(Duration::ZERO, |now| {
        now.saturating_sub(before.unwrap_or_default())
    });
    if used >= limit / 2 {
        RenderError::TimedOut { limit }
    } else {
        RenderError::Stalled { limit, used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_the_fourteenth_and_fifteenth_field() {
        let state = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1 0 100 5000";
        assert_eq!(used_ticks(state), Some(100));
        assert_eq!(used_ticks("7 (cut"), None);
        assert!(of_process(std::process::id()).is_some());
        assert_eq!(of_process(u32::MAX), None);
    }

    #[tokio::test]
    async fn the_cpu_time_of_a_process_is_followed_to_its_end() {
        let mut busy = tokio::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let process = busy.id();
        let mut used = Duration::ZERO;
        let end = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            busy.kill().await.unwrap();
        };
        sampled(process, &mut used, end).await;
        assert_eq!(process.and_then(of_process), None);
        assert!(used > Duration::from_millis(100), "{used:?}");
    }

    #[test]
    fn only_used_time_is_the_documents_fault() {
        let limit = Duration::from_mins(1);
        let after = |before, now| {
            let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
            timed_out(limit, seconds(before), seconds(now)).reason()
        };
        assert_eq!(after(Some(100), Some(130)), "TimedOut");
        assert_eq!(after(Some(100), Some(129)), "RendererStalled");
        assert_eq!(after(None, Some(40)), "TimedOut");
        assert_eq!(after(Some(100), None), "RendererStalled");
    }

    #[tokio::test]
    async fn a_limit_passes_only_while_this_process_runs() {
        let limit = Duration::from_millis(600);
        assert_eq!(within(limit, std::future::pending::<()>()).await, None);
        let frozen = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The runtime has this thread only: nothing of this process runs in this time.
            std::thread::sleep(2 * limit);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(within(limit, frozen).await, Some(()));
    }
}
