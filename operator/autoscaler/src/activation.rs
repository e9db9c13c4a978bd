//! When work starts the first worker: a few messages that are no documents must not start a GPU.

use jiff::SignedDuration;

use super::decision::Limit;

/// A backlog of at least this many messages, or one that has waited for this long, starts the first
/// worker, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Messages.
    pub backlog: u32,
    /// The time that a message has waited. After a restart of the operator it counts from then on.
    pub after: SignedDuration,
}

/// What a decision knows about the work that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Messages.
    pub(super) lag: i64,
    /// The oldest message has waited for at least this many seconds.
    pub(super) oldest_seconds: f64,
}

impl Queue {
    /// The number of workers for this work, 0 while it waits for the activation. It concerns the
    /// first worker only: workers that exist take whatever comes.
    pub(super) fn activated(
        self,
        required: u32,
        activation: Option<Activation>,
        current: u32,
        limits: &mut Vec<Limit>,
    ) -> u32 {
        let Some(activation) = activation.filter(|_| current == 0 && required > 0) else {
            return required;
        };
        let is_due = self.lag >= i64::from(activation.backlog)
            || self.oldest_seconds >= activation.after.as_secs_f64();
        if is_due {
            return required;
        }
        limits.push(Limit::Activation);
        0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use jiff::Timestamp;

    use super::*;
    use crate::{Backlog, Learned, Memory, Observation, PartitionOffsets, Policy, decide};

    const ACTIVATION: Activation = Activation {
        backlog: 10,
        after: SignedDuration::from_secs(60),
    };

    fn workers(lag: i64, oldest_seconds: f64, current: u32) -> (u32, Vec<Limit>) {
        let mut limits = Vec::new();
        let queue = Queue {
            lag,
            oldest_seconds,
        };
        let workers = queue.activated(3, Some(ACTIVATION), current, &mut limits);
        (workers, limits)
    }

    #[test]
    fn the_first_worker_starts_when_the_backlog_is_long_enough_or_has_waited_long_enough() {
        assert_eq!(workers(1, 0.0, 0), (0, vec![Limit::Activation]));
        assert_eq!(workers(9, 59.0, 0), (0, vec![Limit::Activation]));
        assert_eq!(workers(10, 0.0, 0), (3, vec![]));
        assert_eq!(workers(1, 60.0, 0), (3, vec![]));
    }

    #[test]
    fn workers_that_exist_take_whatever_comes() {
        assert_eq!(workers(1, 0.0, 1), (3, vec![]));
    }

    /// The number of workers for one message that has waited for some seconds.
    fn decided(activation: Option<Activation>, seconds: i64) -> (u32, Vec<Limit>, String) {
        let policy = policy(activation);
        decided_for(1, Memory::new(None, &policy), &policy, seconds)
    }

    fn policy(activation: Option<Activation>) -> Policy {
        Policy {
            floor: 0,
            max: NonZeroU32::MIN,
            drain_target: SignedDuration::from_secs(600),
            utilization: 0.8,
            activation,
            scale_down_delay: None,
            max_pending: NonZeroU32::MIN,
            fallback: None,
            range_pages: 64.0,
            assumed: Learned {
                pages_per_second: 1.0,
                pages_per_document: 10.0,
                provisioning_seconds: 0.0,
                startup_seconds: 30.0,
                longest_seconds: 0.0,
            },
        }
    }

    /// The number of workers for this lag, after some seconds without workers.
    fn decided_for(
        lag: i64,
        mut memory: Memory,
        policy: &Policy,
        seconds: i64,
    ) -> (u32, Vec<Limit>, String) {
        let mut last = None;
        for second in 0..=seconds {
            let observation = Observation {
                at: Timestamp::from_second(1_000_000 + second).unwrap(),
                current: 0,
                backlog: Ok(Backlog {
                    tasks: vec![PartitionOffsets {
                        log_start: 0,
                        end: lag,
                        committed: Some(0),
                    }],
                    ..Backlog::default()
                }),
                workers: Vec::new(),
                terminating: 0,
            };
            let (decision, next) = decide(&observation, policy, memory);
            memory = next;
            last = Some((decision.desired, decision.limits, decision.message));
        }
        last.unwrap()
    }

    #[test]
    fn a_foreign_message_starts_no_worker_before_it_has_waited_and_the_decision_says_so() {
        assert_eq!(decided(None, 0).0, 1);
        let (workers, limits, message) = decided(Some(ACTIVATION), 30);
        assert_eq!((workers, limits), (0, vec![Limit::Activation]));
        assert!(message.contains("scaling.activation"), "{message}");
        assert_eq!(decided(Some(ACTIVATION), 62).0, 1);
    }

    #[test]
    fn rechecks_start_a_worker_whatever_the_activation() {
        let policy = policy(Some(ACTIVATION));
        for lag in [0, 1] {
            let memory = Memory::new(None, &policy).with_open_rechecks(2);
            let (workers, limits, message) = decided_for(lag, memory, &policy, 0);
            assert_eq!((workers, limits), (1, vec![]), "lag {lag}: {message}");
        }
        let (workers, _, message) = decided_for(0, Memory::new(None, &policy), &policy, 0);
        assert_eq!(workers, 0, "{message}");
    }

    #[test]
    fn without_an_activation_the_first_message_starts_a_worker() {
        let mut limits = Vec::new();
        let queue = Queue {
            lag: 1,
            oldest_seconds: 0.0,
        };
        assert_eq!(queue.activated(1, None, 0, &mut limits), 1);
        assert!(limits.is_empty());
    }
}
