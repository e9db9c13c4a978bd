//! The hidden `proxy` command: forwards connections to one server, and cuts them off for some seconds
//! when it is asked to. `kubectl layra validate --disruptive` puts it in front of Milvus, for a
//! pipeline of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use clap::Args;
use layra_crds::{FaultAnswer, VALIDATION_FAULTS_PATH, ValidationFault};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the server is cut off.
const CUT: Duration = Duration::from_secs(8);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Address for the connections that are forwarded.
    #[arg(long)]
    listen: SocketAddr,
    /// The server, HOST:PORT.
    #[arg(long)]
    to: String,
    /// Address of the HTTP server that cuts them off.
    #[arg(long)]
    control: SocketAddr,
}

pub(crate) async fn run(args: ProxyArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let bind = async |address: SocketAddr| {
        let listener = TcpListener::bind(address).await;
        listener.with_context(|| format!("listening on {address}"))
    };
    let (listener, control) = (bind(args.listen).await?, bind(args.control).await?);
    let cut = Arc::new(watch::Sender::new(false));
    tokio::select! {
        () = forward(listener, &args.to, &cut) => {}
        served = axum::serve(control, router(Arc::clone(&cut), CUT)).into_future() => served?,
        () = stop.cancelled() => {}
    }
    Ok(())
}

#[derive(Clone)]
struct Line {
    cut: Arc<watch::Sender<bool>>,
    time: Duration,
}

fn router(cut: Arc<watch::Sender<bool>>, time: Duration) -> Router {
    Router::new()
        .route(&format!("{VALIDATION_FAULTS_PATH}/{{fault}}"), post(inject))
        .with_state(Line { cut, time })
}

/// Answers when the server can be reached again.
async fn inject(
    State(Line { cut, time }): State<Line>,
    Path(fault): Path<ValidationFault>,
) -> Json<FaultAnswer> {
    if fault != ValidationFault::MilvusCutOff {
        return Json(FaultAnswer::not_met("a worker does that"));
    }
    // It ends also if whoever asked has gone.
    let ended = tokio::spawn(async move {
        cut.send_replace(true);
        tokio::time::sleep(time).await;
        cut.send_replace(false);
    });
    let _ = ended.await;
    let seconds = time.as_secs();
    Json(FaultAnswer::met(format!(
        "Milvus was cut off for {seconds} s"
    )))
}

/// While the server is cut off, connections are closed: those that exist, and new ones at once.
async fn forward(listener: TcpListener, to: &str, cut: &watch::Sender<bool>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (line, to) = (cut.subscribe(), to.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = until_cut(line) => {}
                // The client notices.
                _ = pass(client, &to) => {}
            }
        });
    }
}

async fn until_cut(mut line: watch::Receiver<bool>) {
    let _ = line.wait_for(|cut| *cut).await;
}

async fn pass(mut client: TcpStream, to: &str) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends a byte and waits for it to come back.
    async fn echo(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_all(b"a").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn connections_are_forwarded_except_while_the_server_is_cut_off() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(watch::Sender::new(false));
        let line = Arc::clone(&cut);
        tokio::spawn(async move { forward(listener, &to, &line).await });

        let mut before = TcpStream::connect(address).await.unwrap();
        assert_eq!(echo(&mut before).await.unwrap(), b'a');
        let state = Line {
            cut: Arc::clone(&cut),
            time: Duration::from_millis(300),
        };
        let fault = Path(ValidationFault::MilvusCutOff);
        let asked = tokio::spawn(async move { inject(State(state), fault).await });
        cut.subscribe().wait_for(|cut| *cut).await.unwrap();
        assert!(echo(&mut before).await.is_err());
        let mut meanwhile = TcpStream::connect(address).await.unwrap();
        assert!(echo(&mut meanwhile).await.is_err());
        let Json(answer) = asked.await.unwrap();
        assert!(answer.met, "{answer:?}");
        let mut after = TcpStream::connect(address).await.unwrap();
        assert_eq!(echo(&mut after).await.unwrap(), b'a');
    }
}
