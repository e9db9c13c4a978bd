//! The number of workers in mode `Manual`. Pure.

use layra_crds::ScalingSpec;

/// The number of workers, with the sentence that explains it. Without `replicas` the current number
/// stays: a change of the mode stops no worker.
pub(super) fn replicas(scaling: &ScalingSpec, live: Option<i32>) -> (i32, String) {
    let wanted = scaling.replicas.or(live).unwrap_or(scaling.min_replicas);
    let most = scaling.max_replicas;
    let message = if wanted > most {
        format!(
            "scaling.mode is Manual, and scaling.maxReplicas limits the number of workers to {most} instead of {wanted}. Raise scaling.maxReplicas or lower scaling.replicas."
        )
    } else {
        "scaling.mode is Manual: scaling.replicas sets the number of workers.".to_owned()
    };
    (wanted.clamp(0, most), message)
}

/// The number to write into `scaling.replicas`: without it the API server answers no request for the
/// scale subresource, and external autoscalers do nothing.
pub(super) fn to_record(scaling: &ScalingSpec, replicas: i32) -> Option<i32> {
    scaling.replicas.is_none().then_some(replicas)
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

    #[test]
    fn a_pipeline_that_becomes_manual_keeps_its_workers() {
        assert_eq!(replicas(&manual(None), Some(3)).0, 3);
        assert_eq!(replicas(&manual(Some(1)), Some(3)).0, 1);
        let new = ScalingSpec {
            min_replicas: 2,
            ..manual(None)
        };
        assert_eq!(replicas(&new, None).0, 2);
    }

    #[test]
    fn the_number_is_written_once_so_that_the_scale_subresource_has_one() {
        assert_eq!(to_record(&manual(None), 3), Some(3));
        assert_eq!(to_record(&manual(Some(3)), 3), None);
    }

    #[test]
    fn no_more_workers_than_the_maximum_run_and_the_message_says_so() {
        let (replicas, message) = replicas(&manual(Some(100)), Some(4));
        assert_eq!(replicas, 4);
        assert!(message.contains("limits the number of workers to 4 instead of 100"));
    }
}
