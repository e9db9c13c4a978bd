//! Whether more workers bring more. Where something else is the bottleneck (Milvus throttles, one
//! partition has all the work), further workers bring nothing; that is noticed and not repeated.

use jiff::{SignedDuration, Timestamp};

/// For so many seconds a number of workers is watched before it is judged.
const MEASURED_FOR: f64 = 60.0;
/// New workers take over partitions in this time; it does not count.
const SETTLING: SignedDuration = SignedDuration::from_secs(15);
/// A scale-up that brings less than this part of what was expected brought nothing.
const WORTH_IT: f64 = 0.25;
/// For so long no further worker is added after the first such scale-up, and after the last of many.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(10);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(2);

/// The effect of the scale-ups of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effect {
    level: Option<Level>,
    before: Option<Speed>,
    blocked: Option<Blocked>,
    pause: Option<SignedDuration>,
}

/// A time with the same number of workers, all of them with more work than they could do.
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
}

impl Effect {
    /// Notes the pages that `ready` workers got done in the `seconds` since the last look. Only time
    /// in which all of them had enough to do (`saturated`) says anything.
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

    /// More workers than this would bring nothing; `None`: nothing speaks against more.
    pub(crate) fn ceiling(&self, now: Timestamp) -> Option<u32> {
        let blocked = self.blocked?;
        (now < blocked.until).then_some(blocked.workers)
    }

    /// Forgets what was measured, because the clock cannot be trusted.
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
        if gained > WORTH_IT * expected {
            self.blocked = None;
            self.pause = None;
            return;
        }
        let pause = self.pause.unwrap_or(FIRST_PAUSE);
        self.pause = Some((pause * 2).min(LONGEST_PAUSE));
        self.blocked = now.checked_add(pause).ok().map(|until| Blocked {
            workers: level.workers,
            until,
        });
    }
}

impl Level {
    /// Its speed, once it was watched for long enough.
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

    /// Watches `ready` workers for so many seconds, who together get `pages` done a second.
    fn watch(effect: &mut Effect, second: &mut i64, seconds: i64, ready: u32, pages: f64) {
        for _ in 0..seconds {
            *second += 1;
            let now = Timestamp::from_second(*second).unwrap();
            effect.record(now, 1.0, ready, pages, true);
        }
    }

    fn ceiling(effect: &Effect, second: i64) -> Option<u32> {
        effect.ceiling(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn workers_that_bring_more_are_welcome() {
        let (mut effect, mut second) = (Effect::default(), 0);
        watch(&mut effect, &mut second, 100, 2, 10.0);
        watch(&mut effect, &mut second, 100, 4, 19.0);
        assert_eq!(ceiling(&effect, second), None);
    }

    #[test]
    fn workers_that_bring_nothing_are_not_added_again_for_a_while() {
        let (mut effect, mut second) = (Effect::default(), 0);
        watch(&mut effect, &mut second, 100, 2, 10.0);
        watch(&mut effect, &mut second, 70, 4, 10.2);
        assert_eq!(
            ceiling(&effect, second),
            None,
            "not measured for long enough"
        );
        watch(&mut effect, &mut second, 30, 4, 10.2);
        assert_eq!(ceiling(&effect, second), Some(4));
        assert_eq!(ceiling(&effect, second + 601), None);
    }

    #[test]
    fn every_further_vain_attempt_waits_for_longer() {
        let (mut effect, mut second) = (Effect::default(), 0);
        watch(&mut effect, &mut second, 100, 2, 10.0);
        watch(&mut effect, &mut second, 700, 4, 10.0);
        watch(&mut effect, &mut second, 100, 6, 10.0);
        assert_eq!(ceiling(&effect, second + 1000), Some(6));
    }

    #[test]
    fn no_page_at_all_is_no_effect() {
        let (mut effect, mut second) = (Effect::default(), 0);
        watch(&mut effect, &mut second, 100, 1, 0.0);
        watch(&mut effect, &mut second, 100, 2, 0.0);
        assert_eq!(ceiling(&effect, second), Some(2));
    }

    #[test]
    fn idle_workers_say_nothing() {
        let (mut effect, mut second) = (Effect::default(), 0);
        watch(&mut effect, &mut second, 100, 2, 10.0);
        effect.record(
            Timestamp::from_second(second + 1).unwrap(),
            1.0,
            2,
            0.0,
            false,
        );
        watch(&mut effect, &mut second, 100, 4, 10.0);
        assert_eq!(ceiling(&effect, second), None);
    }
}
