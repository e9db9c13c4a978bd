//! Elections on a lease object in memory, with times a hundred times shorter.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;

const SHORT: Times = Times {
    lease: Duration::from_secs(1),
    write: Duration::from_millis(500),
    renew: Duration::from_millis(100),
    retry: Duration::from_millis(60),
    patience: Duration::from_millis(1200),
};

/// An API server with one lease.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<Value>>>,
    /// It does not answer.
    is_away: Arc<AtomicBool>,
}

impl Server {
    fn candidate(&self, identity: &str) -> Candidate {
        let server = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let client = Client::new(service, "rag");
        Candidate {
            api: Api::namespaced(client, "rag"),
            namespace: "rag".into(),
            name: "layra-operator".into(),
            identity: identity.into(),
            times: SHORT,
        }
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if self.is_away.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let method = request.method().clone();
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let mut stored = self.lease.lock().unwrap();
        let refused = |code: u16, reason: &str| {
            let body = json!({"kind": "Status", "status": "Failure", "code": code, "message": reason, "reason": reason});
            (code, body)
        };
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let (code, body) = match (method, stored.clone()) {
            (Method::GET, None) => refused(404, "NotFound"),
            (Method::GET, Some(lease)) => (200, lease),
            (Method::POST, Some(_)) => refused(409, "AlreadyExists"),
            (_, found) => {
                let mut sent: Value = serde_json::from_slice(&bytes).unwrap();
                if found
                    .as_ref()
                    .is_some_and(|found| version(found) != version(&sent))
                {
                    refused(409, "Conflict")
                } else {
                    let number = found.map_or(0, |found| {
                        version(&found).as_str().unwrap().parse::<u64>().unwrap()
                    });
                    sent["metadata"]["resourceVersion"] = json!((number + 1).to_string());
                    *stored = Some(sent.clone());
                    (200, sent)
                }
            }
        };
        let body = serde_json::to_vec(&body).unwrap();
        Response::builder()
            .status(code)
            .body(Body::from(body))
            .unwrap()
    }

    fn holder(&self) -> Option<String> {
        let lease = self.lease.lock().unwrap();
        let holder = &lease.as_ref()?["spec"]["holderIdentity"];
        holder.as_str().map(ToOwned::to_owned)
    }

    async fn acquire(&self, identity: &str) -> Leases {
        acquire(&[self], identity).await
    }
}

/// The leases of several namespaces, in this order.
async fn acquire(servers: &[&Server], identity: &str) -> Leases {
    let stop = CancellationToken::new();
    acquire_until(servers, identity, &stop).await.unwrap()
}

async fn acquire_until(
    servers: &[&Server],
    identity: &str,
    stop: &CancellationToken,
) -> Option<Leases> {
    let candidates = servers.iter().map(|server| server.candidate(identity));
    Leases::of(candidates.collect(), || {}, stop).await
}

#[tokio::test]
async fn an_operator_that_waits_for_one_namespace_leaves_the_others_to_those_that_need_only_them() {
    let (a, b) = (Server::default(), Server::default());
    let of_b = b.acquire("of b").await;
    let both = tokio::spawn({
        let (a, b) = (a.clone(), b.clone());
        async move { acquire(&[&a, &b], "both").await }
    });
    tokio::time::sleep(SHORT.write).await;
    assert_eq!(a.holder().as_deref(), Some("both"), "for a while");
    let of_a = tokio::time::timeout(2 * SHORT.patience, a.acquire("of a"));
    let of_a = of_a.await.expect("it was released");
    assert!(!both.is_finished());
    of_a.release().await;
    of_b.release().await;
    let both = both.await.unwrap();
    assert_eq!(both.fence().check(), Ok(()));
    let holders = [a.holder(), b.holder()];
    assert_eq!(holders, ["both", "both"].map(|it| Some(it.to_owned())));
}

#[tokio::test]
async fn two_operators_that_hold_what_the_other_one_wants_do_not_wait_for_ever() {
    let (a, b) = (Server::default(), Server::default());
    let take = |first: &Server, second: &Server, name: &'static str| {
        let servers = [first.clone(), second.clone()];
        tokio::spawn(async move {
            let both = acquire(&[&servers[0], &servers[1]], name).await;
            both.release().await;
        })
    };
    let (one, two) = (take(&a, &b, "one"), take(&b, &a, "two"));
    let all = futures::future::try_join(one, two);
    let ended = tokio::time::timeout(20 * SHORT.patience, all).await;
    ended.expect("both had their turn").unwrap();
}

#[tokio::test]
async fn an_operator_that_is_stopped_while_it_waits_releases_what_it_holds() {
    let (a, b) = (Server::default(), Server::default());
    let _of_b = b.acquire("of b").await;
    let stop = CancellationToken::new();
    let both = tokio::spawn({
        let (a, b, stop) = (a.clone(), b.clone(), stop.clone());
        async move { acquire_until(&[&a, &b], "both", &stop).await.is_none() }
    });
    tokio::time::sleep(SHORT.write).await;
    assert_eq!(a.holder().as_deref(), Some("both"));
    stop.cancel();
    assert!(both.await.unwrap());
    assert_eq!(a.holder(), None);
}

#[tokio::test]
async fn a_lease_is_renewed_and_a_released_one_is_taken_over_at_once() {
    let server = Server::default();
    let first = server.acquire("first").await;
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.acquire("second").await }
    });
    tokio::time::sleep(3 * SHORT.write).await;
    assert_eq!(first.fence().check(), Ok(()), "it was renewed");
    assert!(!waiting.is_finished());
    first.release().await;
    let start = Instant::now();
    let second = waiting.await.unwrap();
    assert!(start.elapsed() < SHORT.lease);
    assert_eq!(server.holder().as_deref(), Some("second"));
    assert_eq!(second.fence().check(), Ok(()));
}

#[tokio::test]
async fn a_leader_without_the_api_server_stops_writing_before_another_may_take_over() {
    let server = Server::default();
    let mut first = server.acquire("first").await;
    let start = Instant::now();
    server.is_away.store(true, Ordering::Relaxed);
    first.lost().await;
    assert_eq!(first.fence().check(), Err(LeaseLost));
    assert!(start.elapsed() < SHORT.lease, "{:?}", start.elapsed());
    // It does not come back, even if nobody else has taken the lease.
    server.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(2 * SHORT.renew).await;
    assert_eq!(first.fence().check(), Err(LeaseLost));
}

#[tokio::test]
async fn a_leader_whose_lease_another_process_took_is_lost_with_its_next_renewal() {
    let server = Server::default();
    let mut first = server.acquire("first").await;
    {
        let mut lease = server.lease.lock().unwrap();
        let lease = lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("second");
        lease["metadata"]["resourceVersion"] = json!("77");
    }
    let start = Instant::now();
    first.lost().await;
    assert!(start.elapsed() < SHORT.write, "{:?}", start.elapsed());
    assert_eq!(first.fence().check(), Err(LeaseLost), "at once");
}

#[tokio::test]
async fn a_label_on_the_lease_does_not_end_it() {
    let server = Server::default();
    let first = server.acquire("first").await;
    {
        let mut lease = server.lease.lock().unwrap();
        let lease = lease.as_mut().unwrap();
        lease["metadata"]["labels"] = json!({"team": "search"});
        lease["metadata"]["resourceVersion"] = json!("77");
    }
    tokio::time::sleep(2 * SHORT.write).await;
    assert_eq!(first.fence().check(), Ok(()));
    assert_eq!(server.holder().as_deref(), Some("first"));
}

#[tokio::test]
async fn a_candidate_keeps_trying_while_the_api_server_does_not_answer() {
    let server = Server::default();
    server.is_away.store(true, Ordering::Relaxed);
    let acquired = tokio::spawn({
        let server = server.clone();
        async move { server.acquire("first").await }
    });
    tokio::time::sleep(SHORT.write / 2).await;
    server.is_away.store(false, Ordering::Relaxed);
    let first = acquired.await.unwrap();
    assert_eq!(first.fence().check(), Ok(()));
}
