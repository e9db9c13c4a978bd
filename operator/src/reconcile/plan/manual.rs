//! The number of workers in mode `Manual`. Pure.

use layra_crds::{ScalingSpec, ScalingStatus};

use crate::reconcile::reason::Reason;

/// The number of workers, and what is to be written down about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manual {
    pub(super) replicas: i32,
    /// The sentence that explains the number.
    pub(super) message: String,
    /// The number to write into `scaling.replicas`: without it the API server answers no request
    /// for the scale subresource, and external autoscalers do nothing.
    pub(super) record: Option<i32>,
    /// The number in `scaling.replicas` that nobody chose, for `status.scaling.recordedReplicas`.
    pub(super) recorded: Option<i32>,
}

impl Manual {
    /// A change of the mode stops no worker: the current number applies, unless `replicas` is one
    /// that somebody chose. What the operator wrote when the mode became `Manual` an earlier time
    /// is not. After a conflict, which has stopped the workers, the current number says nothing.
    pub(super) fn decide(
        scaling: &ScalingSpec,
        live: Option<i32>,
        last: Option<&ScalingStatus>,
    ) -> Self {
        let last_reason = |reason| is_reason(last, reason);
        let live = live.filter(|_| !last_reason(Reason::Conflict));
        let becomes_manual = !last_reason(Reason::Manual) && !last_reason(Reason::Conflict);
        let recorded = last.and_then(|last| last.recorded_replicas);
        let written = scaling.replicas;
        let chosen = written.filter(|_| !becomes_manual || written != recorded);
        let wanted = chosen.or(live).or(written);
        let wanted = wanted.unwrap_or(scaling.min_replicas);
        let most = scaling.max_replicas;
        let message = if wanted > most {
            format!(
                "scaling.mode is Manual, and scaling.maxReplicas limits the number of workers to {most} instead of {wanted}. Raise scaling.maxReplicas or lower scaling.replicas."
            )
        } else {
            "scaling.mode is Manual: scaling.replicas sets the number of workers.".to_owned()
        };
        let replicas = wanted.clamp(0, most);
        // A number that is already there was written by the last reconcile, whose status is lost.
        let is_current = becomes_manual && written == live;
        Self {
            replicas,
            message,
            record: (chosen.is_none() && written != Some(replicas)).then_some(replicas),
            recorded: if chosen.is_none() || is_current {
                Some(replicas)
            } else {
                recorded.filter(|_| written == recorded)
            },
        }
    }
}

/// Whether the last decision had this reason.
pub(super) fn is_reason(last: Option<&ScalingStatus>, reason: Reason) -> bool {
    last.is_some_and(|last| last.reason == reason.as_str())
}

#[cfg(test)]
mod tests {
    use layra_crds::ScalingMode;

    use super::*;

    fn manual(replicas: Option<i32>) -> ScalingSpec {
        ScalingSpec {
            mode: ScalingMode::Manual,
            replicas,
            ..ScalingSpec::default()
        }
    }

    /// The status of the last decision.
    fn last(reason: &str, recorded_replicas: Option<i32>) -> ScalingStatus {
        ScalingStatus {
            reason: reason.to_owned(),
            recorded_replicas,
            ..ScalingStatus::default()
        }
    }

    fn replicas(spec: Option<i32>, live: Option<i32>, last: Option<&ScalingStatus>) -> i32 {
        Manual::decide(&manual(spec), live, last).replicas
    }

    #[test]
    fn a_pipeline_that_becomes_manual_keeps_its_workers() {
        assert_eq!(replicas(None, Some(3), None), 3);
        assert_eq!(replicas(Some(1), Some(3), None), 1);
        let new = ScalingSpec {
            min_replicas: 2,
            ..manual(None)
        };
        assert_eq!(Manual::decide(&new, None, None).replicas, 2);
    }

    #[test]
    fn the_number_is_written_once_so_that_the_scale_subresource_has_one() {
        let record = |spec| Manual::decide(&manual(spec), Some(3), None).record;
        assert_eq!(record(None), Some(3));
        assert_eq!(record(Some(3)), None);
    }

    #[test]
    fn a_pipeline_that_becomes_manual_a_second_time_keeps_its_workers_too() {
        let first = Manual::decide(&manual(None), Some(2), Some(&last("Draining", None)));
        assert_eq!((first.record, first.recorded), (Some(2), Some(2)));
        // Meanwhile in Auto: there are more workers, or fewer.
        for (live, max) in [(4, 4), (0, 4), (3, 8)] {
            let before = last("Draining", Some(2));
            let spec = ScalingSpec {
                max_replicas: max,
                ..manual(Some(2))
            };
            let second = Manual::decide(&spec, Some(live), Some(&before));
            assert_eq!(second.replicas, live);
            assert_eq!((second.record, second.recorded), (Some(live), Some(live)));
            // It was written.
            let then = last("Manual", second.recorded);
            let third = Manual::decide(&manual(Some(live)), Some(live), Some(&then));
            assert_eq!((third.replicas, third.record), (live, None));
            assert_eq!(third.recorded, Some(live));
            // It was written, and the status was not.
            let third = Manual::decide(&manual(Some(live)), Some(live), Some(&before));
            assert_eq!((third.replicas, third.record), (live, None));
            assert_eq!(third.recorded, Some(live));
        }
    }

    #[test]
    fn a_number_that_somebody_chose_applies_again() {
        // By `kubectl scale`, in mode Manual.
        let scaled = Manual::decide(&manual(Some(3)), Some(2), Some(&last("Manual", Some(2))));
        assert_eq!((scaled.replicas, scaled.recorded), (3, None));
        let again = Manual::decide(&manual(Some(3)), Some(1), Some(&last("Idle", None)));
        assert_eq!((again.replicas, again.record), (3, None));
        // Back to the number that was recorded.
        let back = Manual::decide(&manual(Some(2)), Some(3), Some(&last("Manual", Some(2))));
        assert_eq!(back.replicas, 2);
    }

    #[test]
    fn after_a_conflict_the_workers_that_it_stopped_come_back() {
        let conflict = |recorded| last("Conflict", recorded);
        let new = ScalingSpec {
            min_replicas: 2,
            ..manual(None)
        };
        let decided = Manual::decide(&new, Some(0), Some(&conflict(None)));
        assert_eq!((decided.replicas, decided.record), (2, Some(2)));
        for recorded in [None, Some(3)] {
            assert_eq!(replicas(Some(3), Some(0), Some(&conflict(recorded))), 3);
        }
    }

    #[test]
    fn no_more_workers_than_the_maximum_run_and_the_message_says_so() {
        let decided = Manual::decide(&manual(Some(100)), Some(4), None);
        assert_eq!(decided.replicas, 4);
        let message = decided.message;
        assert!(message.contains("limits the number of workers to 4 instead of 100"));
    }
}
