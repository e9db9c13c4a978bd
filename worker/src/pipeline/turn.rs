//! The turns of a page range: it is worked on under a lock and a claim, and waits for servers
//! without both. A document that waits never stops the others, and comes under no suspicion when
//! the worker dies meanwhile.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::admit::{Job, LocalOriginal};
use super::open_claims::OpenClaim;
use super::{Observer, Pipeline};
use crate::runtime::failure::{Class, Failure, Stage};
use crate::runtime::retry::Refusals;
use crate::stores::ledger::{Claim, Entry, RangeEntry, State};

/// How long a range waits for a server before it ends its turn. Most restarts of a server take no
/// longer; afterwards pages that were not stored yet are rendered and embedded again.
const PATIENCE: Duration = Duration::from_secs(15);

/// The entry after the work on a range, and how far the range is. `None`: the document must be split.
pub(super) type Ingested = Result<(Box<Entry>, Option<Box<RangeEntry>>), Failure>;

/// How all turns of a range ended.
pub(super) enum Worked {
    /// The ledger did not grant the claim.
    Refused(OpenClaim),
    /// The claim is still held.
    Ended(OpenClaim, Ingested),
}

/// How one turn ended.
enum Turn {
    Refused,
    /// Another worker claimed the range after it was read: it needs the lock for exclusive work.
    Suspect,
    Ended(Ingested),
}

/// The waits of a range since its last progress.
#[derive(Default)]
struct Waits {
    /// The most pages of the range that were stored at one time.
    stored: u32,
    attempts: u32,
    refusals: Refusals,
}

impl Pipeline {
    /// Works on the range of `entry` that begins at page `first` until it is stored or fails.
    pub(super) async fn work_in_turns(
        &self,
        job: &Job<'_>,
        entry: &Entry,
        first: u32,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Result<Worked, Failure> {
        let (file_id, round) = (&entry.file_id, &entry.round);
        let open = || self.open_claims.open(Claim::new(file_id, round, first));
        let range = entry.range_entry(first);
        if range.done || entry.state != State::Working {
            return Ok(Worked::Refused(open()));
        }
        let mut original = match self.local_original(job, round, cancel).await {
            Err(failure) if !failure.rejects_document() && failure.class != Class::Deleted => {
                return Err(failure);
            }
            // A claim decides whether this worker may reject the document.
            original => original,
        };
        let mut exclusive = range.was_begun();
        let mut waits = Waits {
            stored: range.stored,
            ..Waits::default()
        };
        loop {
            let open = open();
            let turn = self.turn(job, open.claim(), exclusive, &original, cancel, observer);
            let failure = match Box::pin(turn).await {
                Turn::Refused => return Ok(Worked::Refused(open)),
                Turn::Suspect => {
                    self.release_to_wait(open, cancel).await?;
                    exclusive = true;
                    continue;
                }
                Turn::Ended(Err(failure)) if failure.class == Class::Transient => failure,
                Turn::Ended(result) => return Ok(Worked::Ended(open, result)),
            };
            self.release_to_wait(open, cancel).await?;
            match self.wait(&failure, &mut waits, cancel).await {
                Err(failure) if failure.rejects_document() => original = Err(failure),
                waited => waited?,
            }
            let find = || self.stores.ledger.find(file_id);
            if let Some(now) = self.ledger(cancel, find).await? {
                let range = now.range_entry(first);
                exclusive = range.was_begun();
                if now.round == *round && range.stored > waits.stored {
                    waits = Waits {
                        stored: range.stored,
                        ..Waits::default()
                    };
                }
            }
        }
    }

    /// Takes the lock and works on a range until it is stored or fails, or a server does not answer.
    async fn turn(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        exclusive: bool,
        original: &Result<LocalOriginal<'_>, Failure>,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Turn {
        let impatient = Self {
            retry: self.retry.limited_to(PATIENCE),
            ..self.clone()
        };
        // The lock comes before the claim: a worker that dies while this range waits for the lock
        // must not make the range suspect.
        let _isolated = match self.isolation.lock(exclusive, cancel).await {
            Ok(isolated) => isolated,
            Err(failure) => return Turn::Ended(Err(failure)),
        };
        let turn = impatient
            .work_under_lock(job, claim, exclusive, original, cancel, observer)
            .await;
        if let Turn::Ended(Err(failure)) = &turn
            && failure.class == Class::Fatal
        {
            self.isolation.close();
        }
        turn
    }

    async fn work_under_lock(
        &self,
        job: &Job<'_>,
        claim: &Claim,
        exclusive: bool,
        original: &Result<LocalOriginal<'_>, Failure>,
        cancel: &CancellationToken,
        observer: Observer<'_>,
    ) -> Turn {
        let claimed = self.ledger(cancel, || self.stores.ledger.claim(claim));
        let entry = match claimed.await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Turn::Refused,
            Err(failure) => return Turn::Ended(Err(failure)),
        };
        let range = entry.range_entry(claim.first);
        if !exclusive && range.is_suspect() {
            return Turn::Suspect;
        }
        match original {
            Err(failure) => Turn::Ended(Err(failure.clone())),
            Ok(original) => {
                let original = original.as_ref();
                let work = self.ingest_claimed(job, claim, &entry, original, cancel, observer);
                Turn::Ended(work.await)
            }
        }
    }

    /// Waits between two turns until the server answers. Fails for good if it has refused a request
    /// of the document for too long.
    async fn wait(
        &self,
        failure: &Failure,
        waits: &mut Waits,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let pause = self
            .retry
            .pause(cancel, failure, waits.attempts, &mut waits.refusals);
        pause.await?;
        waits.attempts += 1;
        let stage = failure.stage;
        match stage {
            Stage::Milvus => {
                let check = |_| self.stores.vectors.check();
                self.retry.run(stage, cancel, check).await
            }
            Stage::Objects => {
                let check = |_| self.stores.objects.check();
                self.retry.run(stage, cancel, check).await
            }
            _ => Ok(()),
        }
    }

    /// Releases a claim before a wait, as soon as the ledger answers.
    async fn release_to_wait(
        &self,
        open: OpenClaim,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let release = || self.stores.ledger.release(open.claim());
        let released = self.ledger(cancel, release).await;
        if released.is_err() {
            open.leave_open();
        }
        released
    }
}
