//! Accepts connections and answers their requests, with limits against clients that are slow on
//! purpose. A client that leaves cancels its request.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at the same time. Further ones wait until one is closed.
const CONNECTIONS: usize = 2048;
/// Longest time for the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, for example without a free file descriptor.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time for the requests in progress after `stop`.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until `stop` is cancelled and the requests in progress are answered.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: &CancellationToken) {
    serve_within(listener, router, stop, HEAD).await;
}

/// The same, with another longest time for the head of a request.
pub(super) async fn serve_within(
    listener: TcpListener,
    router: Router,
    stop: &CancellationToken,
    head: Duration,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = answer(stream, router.clone(), stop.clone(), head);
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "connection not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(requests = tasks.len(), "exiting with requests unanswered");
    }
}

async fn answer(stream: TcpStream, router: Router, stop: CancellationToken, head: Duration) {
    // Answers are small, or written in large pieces.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
