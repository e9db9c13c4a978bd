//! Whether more workers increase the throughput. Where something else is the bottleneck (Milvus
//! throttles, one partition has all the work), they do not. This detects it, and prevents further
//! scale-ups for a while.

use jiff::{SignedDuration, Timestamp};

/// A number of workers is measured for this many seconds before it is judged.
const MEASURED_FOR: f64 = 60.0;
/// Time in which new workers take over partitions. It is not measured.
const SETTLING: SignedDuration = SignedDuration::from_secs(15);
/// A scale-up is ineffective if it yields less than this part of the expected increase.
const LEAST_INCREASE: f64 = 0.25;
/// How long no worker is added after the first ineffective scale-up, and at most after many. Each
/// pause is twice as long as the last one, unless that ended longer ago than it took: an old
/// judgement does not make the next one worse.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(10);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(2);

/// The effect of recent scale-ups.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScaleUpEffect {
    level: Option<Level>,
    before: Option<Speed>,
    blocked: Option<Blocked>,
}

/// A period with the same number of workers, all of them saturated with work.
#[derive(Clone, Copy, Debug)]
struct Level {
    workers: u32,
    since: Timestamp,
    pages: f64,
    seconds: f64,
    judged: bool,
}

#[derive(Clone, Copy, Debug)]
struct Speed {
    workers: u32,
    pages_per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Blocked {
    workers: u32,
    until: Timestamp,
    pause: SignedDuration,
}

impl ScaleUpEffect {
    /// Records the pages that `ready` workers processed in the `seconds` since the last
    /// observation. Only time in which all of them had enough work (`saturated`) is meaningful.
    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        seconds: f64,
        ready: u32,
        pages: f64,
        saturated: bool,
    ) {
        if !saturated || ready == 0 {
            self.level = None;
            self.before = None;
            return;
        }
        match &mut self.level {
            Some(level) if level.workers == ready => {
                if now.duration_since(level.since) > SETTLING {
                    level.pages += pages;
                    level.seconds += seconds;
                }
            }
            _ => {
                if let Some(speed) = self.level.and_then(Level::speed) {
                    self.before = Some(speed);
                }
                self.level = Some(Level {
                    workers: ready,
                    since: now,
                    pages: 0.0,
                    seconds: 0.0,
                    judged: false,
                });
            }
        }
        self.judge(now);
    }

    /// More workers than this would not increase the throughput. `None`: there is no such limit.
    pub(crate) fn ceiling(&self, now: Timestamp) -> Option<u32> {
        let blocked = self.blocked?;
        (now < blocked.until).then_some(blocked.workers)
    }

    /// Discards the measurements, because the clock cannot be trusted.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn judge(&mut self, now: Timestamp) {
        let (Some(level), Some(before)) = (&mut self.level, self.before) else {
            return;
        };
        if level.judged || level.workers <= before.workers {
            return;
        }
        let Some(speed) = level.speed() else {
            return;
        };
        level.judged = true;
        let more = f64::from(level.workers) / f64::from(before.workers) - 1.0;
        let expected = before.pages_per_second * more;
        let gained = speed.pages_per_second - before.pages_per_second;
        if gained > LEAST_INCREASE * expected {
            self.blocked = None;
            return;
        }
        let pause = match self.blocked {
            Some(last) if now.duration_since(last.until) <= last.pause => {
                (last.pause * 2).min(LONGEST_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        self.blocked = now.checked_add(pause).ok().map(|until| Blocked {
            workers: level.workers,
            until,
            pause,
        });
    }
}

impl Level {
    /// Its speed, once it has been measured for long enough.
    fn speed(self) -> Option<Speed> {
        (self.seconds >= MEASURED_FOR).then(|| Speed {
            workers: self.workers,
            pages_per_second: self.pages / self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records `ready` workers that together process `pages` per second, for a number of seconds.
    fn measure(effect: &mut ScaleUpEffect, second: &mut i64, seconds: i64, ready: u32, pages: f64) {
        for _ in 0..seconds {
            *second += 1;
            let now = Timestamp::from_second(*second).unwrap();
            effect.record(now, 1.0, ready, pages, true);
        }
    }

    fn ceiling(effect: &ScaleUpEffect, second: i64) -> Option<u32> {
        effect.ceiling(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn an_effective_scale_up_sets_no_limit() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 2, 10.0);
        measure(&mut effect, &mut second, 100, 4, 19.0);
        assert_eq!(ceiling(&effect, second), None);
    }

    #[test]
    fn after_an_ineffective_scale_up_no_workers_are_added_for_a_while() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 2, 10.0);
        measure(&mut effect, &mut second, 70, 4, 10.2);
        assert_eq!(
            ceiling(&effect, second),
            None,
            "not measured for long enough"
        );
        measure(&mut effect, &mut second, 30, 4, 10.2);
        assert_eq!(ceiling(&effect, second), Some(4));
        assert_eq!(ceiling(&effect, second + 601), None);
    }

    #[test]
    fn every_further_ineffective_scale_up_doubles_the_pause() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 2, 10.0);
        measure(&mut effect, &mut second, 700, 4, 10.0);
        measure(&mut effect, &mut second, 100, 6, 10.0);
        assert_eq!(ceiling(&effect, second + 1000), Some(6));
    }

    #[test]
    fn a_pause_of_yesterday_does_not_make_the_next_one_longer() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 2, 10.0);
        measure(&mut effect, &mut second, 700, 4, 10.0);
        // The pause of 600 s ended more than 600 s ago.
        measure(&mut effect, &mut second, 1300, 4, 10.0);
        measure(&mut effect, &mut second, 76, 6, 10.0);
        assert_eq!(ceiling(&effect, second + 590), Some(6));
        assert_eq!(ceiling(&effect, second + 610), None);
    }

    #[test]
    fn no_pages_at_all_means_ineffective() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 1, 0.0);
        measure(&mut effect, &mut second, 100, 2, 0.0);
        assert_eq!(ceiling(&effect, second), Some(2));
    }

    #[test]
    fn time_with_idle_workers_is_not_measured() {
        let (mut effect, mut second) = (ScaleUpEffect::default(), 0);
        measure(&mut effect, &mut second, 100, 2, 10.0);
        effect.record(
            Timestamp::from_second(second + 1).unwrap(),
            1.0,
            2,
            0.0,
            false,
        );
        measure(&mut effect, &mut second, 100, 4, 10.0);
        assert_eq!(ceiling(&effect, second), None);
    }
}
