//! Keeps a process that may have lost its lease from writing. A write is sent only until some
//! seconds before another operator may take over, by this process's own monotonic clock: an API
//! server that cannot be reached, or a process that was stopped for a while, cannot say that the
//! lease is lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use axum::http::{Method, Request};
use futures::future::{Either, Ready, ready};
use tower::{BoxError, Layer, Service};

use super::LeaseLost;

/// Until when this process may write because of one lease.
#[derive(Clone, Debug)]
pub(super) struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    pub(super) fn new(at: Instant) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    pub(super) fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forbids writes from now on.
    pub(super) fn expire(&self) {
        let mut deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *deadline = (*deadline).min(Instant::now());
    }

    /// Moves the deadline. One that has passed never moves again.
    pub(super) fn extend(&self, at: Instant, now: Instant) -> Result<(), LeaseLost> {
        let mut deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= *deadline {
            return Err(LeaseLost);
        }
        *deadline = at;
        Ok(())
    }
}

/// Allows writes while every lease of this process is held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Vec<Deadline>);

impl Fence {
    pub(super) fn new(deadlines: Vec<Deadline>) -> Self {
        Self(deadlines)
    }

    /// To be called right before each write.
    pub(crate) fn check(&self) -> Result<(), LeaseLost> {
        self.check_at(Instant::now())
    }

    fn check_at(&self, now: Instant) -> Result<(), LeaseLost> {
        if self.0.iter().all(|deadline| now < deadline.get()) {
            Ok(())
        } else {
            Err(LeaseLost)
        }
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            fence: self.clone(),
            inner,
        }
    }
}

/// Refuses requests that write after the lease's time has passed.
#[derive(Clone, Debug)]
pub(crate) struct Fenced<S> {
    fence: Fence,
    inner: S,
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if *request.method() != Method::GET
            && let Err(lost) = self.fence.check()
        {
            return Either::Right(ready(Err(lost.into())));
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::service_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_write_is_allowed_after_the_first_deadline() {
        let start = Instant::now();
        let deadlines = [start + 10 * SECOND, start + 5 * SECOND].map(Deadline::new);
        let fence = Fence::new(deadlines.to_vec());
        assert_eq!(fence.check_at(start + 4 * SECOND), Ok(()));
        assert_eq!(fence.check_at(start + 5 * SECOND), Err(LeaseLost));
        let renewed = deadlines[1].extend(start + 20 * SECOND, start + 4 * SECOND);
        assert_eq!(renewed, Ok(()));
        assert_eq!(fence.check_at(start + 9 * SECOND), Ok(()));
    }

    #[test]
    fn a_deadline_that_has_passed_never_moves_again() {
        let start = Instant::now();
        let deadline = Deadline::new(start + SECOND);
        let late = deadline.extend(start + 20 * SECOND, start + SECOND);
        assert_eq!(late, Err(LeaseLost));
        assert_eq!(deadline.get(), start + SECOND);
    }

    #[tokio::test]
    async fn reads_pass_and_writes_do_not() {
        let inner = service_fn(async |_: Request<()>| Ok::<_, BoxError>(()));
        let lost = Fence::new(vec![Deadline::new(Instant::now())]);
        let mut service = lost.layer(inner);
        let mut send = async |method: Method| {
            let request = Request::builder().method(method).body(()).unwrap();
            service.call(request).await
        };
        assert!(send(Method::GET).await.is_ok());
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = send(method).await.unwrap_err();
            assert!(error.is::<LeaseLost>(), "{error}");
        }
    }
}
