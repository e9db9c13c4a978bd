//! Leases: the right to remove a document from the stores.
//!
//! Removal takes several requests to several servers. It starts from an entry that was read before,
//! so without a lease it could remove a document that is being ingested again. No round begins
//! while a lease is held, and each later step of the removal needs the lease. A lease whose holder
//! died ends by itself, once a write of the holder must have landed.

use std::pin::pin;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, LATE_WRITES, Ledger, after, in_state, token};
use crate::runtime::failure::{Failure, Reason, Stage};

/// How long a lease lasts that is not renewed.
const LEASE: Duration = LATE_WRITES;
/// How often a lease is renewed.
pub(crate) const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 6);

/// The right to remove a document from the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    file_id: String,
    token: String,
    /// Until when a request of another worker may still land, from which this lease was taken.
    former_until: Option<DateTime>,
}

impl Lease {
    pub(super) fn new(file_id: &str) -> Self {
        Self {
            file_id: file_id.to_owned(),
            token: token(),
            former_until: None,
        }
    }

    /// A lease that a deletion takes, also from another worker. That worker notices it at its next
    /// renewal, and a request that it has sent before then may land later.
    pub(super) fn taken_from(before: &Entry) -> Self {
        let former_until = before.is_leased().then(Self::until);
        Self {
            former_until,
            ..Self::new(&before.file_id)
        }
    }

    pub(super) fn file_id(&self) -> &str {
        &self.file_id
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// When the lease ends, unless it is renewed after this.
    pub(super) fn until() -> DateTime {
        until()
    }

    /// The fields of an entry whose document is being removed under this lease.
    pub(super) fn fields(&self) -> Document {
        doc! { "cleaner": &self.token, "cleaning_until": Self::until() }
    }

    fn filter(&self) -> Document {
        doc! { "_id": &self.file_id, "cleaner": &self.token }
    }
}

impl Ledger {
    /// Takes the lease of a document that is not in progress. Fails with the class `Superseded` if
    /// the round or the state is no longer that of `entry`, and with `Transient` while another
    /// worker holds the lease.
    pub(crate) async fn lease(&self, entry: &Entry) -> Result<Lease, Failure> {
        let lease = Lease::new(&entry.file_id);
        let mut filter = in_state(entry);
        filter.extend(no_lease());
        let update = doc! { "$set": lease.fields() };
        if self.update(filter, update).await?.is_some() {
            return Ok(lease);
        }
        match self.find(&entry.file_id).await? {
            Some(now) if (&now.round, now.state) == (&entry.round, entry.state) => {
                Err(being_removed())
            }
            _ => Err(Failure::superseded(Stage::Mongodb)),
        }
    }

    /// Runs a removal as long as its lease is held. Fails with the class `Superseded` when it is
    /// lost: a deletion has taken it, or this worker stood still for longer than it lasts.
    pub(crate) async fn under_lease<T>(
        &self,
        lease: &Lease,
        removal: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        while_renewed(removal, RENEWAL, || self.renew(lease)).await
    }

    /// Renews a lease. Fails with the class `Superseded` if it is lost.
    pub(crate) async fn ensure_held(&self, lease: &Lease) -> Result<(), Failure> {
        if self.renew(lease).await? {
            Ok(())
        } else {
            Err(Failure::superseded(Stage::Mongodb))
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, Failure> {
        let update = doc! { "$set": lease.fields() };
        Ok(self.update(lease.filter(), update).await?.is_some())
    }

    /// Ends a lease after a complete removal. After a failed one a request may still be in flight,
    /// so the lease must end by itself.
    pub(crate) async fn end_lease(&self, lease: &Lease) -> Result<(), Failure> {
        self.finish(lease, Document::new()).await
    }

    /// Ends a lease and sets further fields. A lease that was taken from another worker ends by
    /// itself: no round may begin while a request of that worker can still land.
    pub(super) async fn finish(&self, lease: &Lease, mut set: Document) -> Result<(), Failure> {
        set.extend(match lease.former_until {
            None => doc! { "cleaner": null, "cleaning_until": null },
            Some(until) => doc! { "cleaning_until": until },
        });
        let update = doc! { "$set": set };
        self.update(lease.filter(), update).await?;
        Ok(())
    }
}

impl Entry {
    /// Whether a worker removes the document, or a request of one that did may still land.
    pub(super) fn is_leased(&self) -> bool {
        self.cleaning_until
            .is_some_and(|until| until > DateTime::now())
    }
}

/// When a right that is taken or renewed now ends by itself.
pub(crate) fn until() -> DateTime {
    after(DateTime::now(), LEASE)
}

/// Matches an entry whose document nobody is removing.
pub(super) fn no_lease() -> Document {
    doc! { "$or": [
        { "cleaning_until": null }, { "cleaning_until": { "$lte": DateTime::now() } },
    ] }
}

pub(super) fn being_removed() -> Failure {
    let message = "a worker is removing what the stores hold of the document";
    Failure::transient(Stage::Mongodb, Reason::BeingRemoved, message)
}

/// Runs `work` and calls `renew` in intervals, until that returns `false` or fails. After a pause
/// of the whole process `renew` comes first.
pub(crate) async fn while_renewed<T, Renewal>(
    work: impl Future<Output = Result<T, Failure>>,
    interval: Duration,
    mut renew: impl FnMut() -> Renewal,
) -> Result<T, Failure>
where
    Renewal: Future<Output = Result<bool, Failure>>,
{
    let mut work = pin!(work);
    loop {
        let due = tokio::time::sleep(interval);
        tokio::select! {
            biased;
            () = due => {}
            result = &mut work => return result,
        }
        if !renew().await? {
            return Err(Failure::superseded(Stage::Mongodb));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::runtime::failure::Class;
    use crate::stores::ledger::{State, an_entry};

    const INTERVAL: Duration = Duration::from_millis(20);

    #[test]
    fn a_lease_that_is_taken_from_a_worker_outlasts_its_last_request() {
        let mut entry = an_entry(State::Deleted);
        let now = DateTime::now();
        assert_eq!(Lease::taken_from(&entry).former_until, None, "nobody's");
        entry.cleaning_until = Some(now);
        assert_eq!(Lease::taken_from(&entry).former_until, None, "it has ended");
        entry.cleaning_until = Some(after(now, Duration::from_mins(1)));
        let until = Lease::taken_from(&entry).former_until;
        let worst = after(now, RENEWAL + super::super::longest_request());
        assert!(until.is_some_and(|until| until >= worst), "{until:?}");
    }

    #[tokio::test]
    async fn a_long_removal_is_renewed_until_it_ends() {
        let renewals = Cell::new(0);
        let work = async {
            while renewals.get() < 3 {
                tokio::time::sleep(INTERVAL / 20).await;
            }
            Ok(7)
        };
        let result = while_renewed(work, INTERVAL, || async {
            renewals.set(renewals.get() + 1);
            Ok(true)
        });
        assert_eq!(result.await, Ok(7));
    }

    #[tokio::test]
    async fn a_removal_takes_no_further_step_after_its_lease_is_lost() {
        let is_lost = Cell::new(false);
        let work = async {
            loop {
                assert!(!is_lost.get(), "a step without the lease");
                tokio::time::sleep(INTERVAL / 20).await;
            }
        };
        let result: Result<(), _> = while_renewed(work, INTERVAL, || async {
            is_lost.set(true);
            Ok(false)
        })
        .await;
        assert_eq!(result.unwrap_err().class, Class::Superseded);
    }

    #[tokio::test]
    async fn a_worker_that_stood_still_renews_its_lease_before_its_next_step() {
        let stood_still = Cell::new(false);
        let work = async {
            // The whole process stands still.
            std::thread::sleep(2 * INTERVAL);
            stood_still.set(true);
            tokio::task::yield_now().await;
            unreachable!("a step before the renewal")
        };
        let result: Result<(), _> = while_renewed(work, INTERVAL, || async {
            assert!(stood_still.get());
            Ok(false)
        })
        .await;
        assert_eq!(result.unwrap_err().class, Class::Superseded);
    }
}
