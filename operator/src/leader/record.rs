//! What a lease object says. Pure. The times in it are those of other machines, so they are only
//! shown to people: a lease has ended when it did not change for its duration, by this process's
//! own clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// What a candidate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the lease.
    Take,
    /// Another process holds it.
    Wait,
}

/// The lease as a candidate saw it, and since when it has looked like that.
#[derive(Debug, Default)]
pub(super) struct Watched(Option<(LeaseSpec, Instant)>);

impl Watched {
    /// Looks at the lease at the time `now`.
    pub(super) fn look(&mut self, lease: &Lease, me: &str, now: Instant) -> Step {
        let spec = lease.spec.clone().unwrap_or_default();
        let is_free = holder(lease).is_none_or(|holder| holder == me);
        if is_free {
            return Step::Take;
        }
        let duration = duration(&spec);
        match &self.0 {
            Some((seen, since)) if *seen == spec => {
                if now.saturating_duration_since(*since) >= duration {
                    return Step::Take;
                }
            }
            _ => self.0 = Some((spec, now)),
        }
        Step::Wait
    }
}

/// Who holds the lease.
pub(super) fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    Some(holder).filter(|holder| !holder.is_empty())
}

fn duration(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Writes into the lease that `me` holds it from now on.
pub(super) fn take(lease: &mut Lease, me: &str, duration: Duration, now: Timestamp) {
    let is_new = holder(lease) != Some(me);
    let spec = lease.spec.get_or_insert_default();
    if is_new {
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX));
    spec.renew_time = Some(MicroTime(now));
}

/// Writes into the lease that nobody holds it.
pub(super) fn release(lease: &mut Lease) {
    let transitions = lease.spec.take().and_then(|spec| spec.lease_transitions);
    lease.spec = Some(LeaseSpec {
        lease_transitions: transitions,
        ..LeaseSpec::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const SECOND: Duration = Duration::from_secs(1);

    fn held_by(name: &str, second: i64) -> Lease {
        let mut lease = Lease::default();
        take(&mut lease, name, LEASE, at(second));
        lease
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_new_and_a_released_lease_are_taken_at_once() {
        let now = Instant::now();
        assert_eq!(
            Watched::default().look(&Lease::default(), "a", now),
            Step::Take
        );
        let mut released = held_by("b", 1);
        release(&mut released);
        assert_eq!(Watched::default().look(&released, "a", now), Step::Take);
        let count = released.spec.and_then(|spec| spec.lease_transitions);
        assert_eq!(count, Some(1));
    }

    #[test]
    fn a_restarted_container_takes_its_own_lease_again() {
        let mut lease = held_by("a", 1);
        assert_eq!(
            Watched::default().look(&lease, "a", Instant::now()),
            Step::Take
        );
        take(&mut lease, "a", LEASE, at(9));
        let spec = lease.spec.unwrap();
        assert_eq!(spec.acquire_time, Some(MicroTime(at(1))));
        assert_eq!(spec.renew_time, Some(MicroTime(at(9))));
    }

    #[test]
    fn a_lease_ends_when_it_was_not_renewed_for_its_duration() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        let lease = held_by("b", 1);
        assert_eq!(watched.look(&lease, "a", start), Step::Wait);
        assert_eq!(watched.look(&lease, "a", start + 14 * SECOND), Step::Wait);
        let renewed = held_by("b", 2);
        assert_eq!(watched.look(&renewed, "a", start + 15 * SECOND), Step::Wait);
        assert_eq!(watched.look(&renewed, "a", start + 29 * SECOND), Step::Wait);
        assert_eq!(watched.look(&renewed, "a", start + 30 * SECOND), Step::Take);
    }

    #[test]
    fn clocks_of_other_machines_do_not_matter() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        for second in [-1_000_000, 1, 4_000_000_000] {
            assert_eq!(watched.look(&held_by("b", second), "a", start), Step::Wait);
        }
    }
}
