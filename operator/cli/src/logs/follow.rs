//! Follows the logs of all workers, also of those that start later.

use std::collections::HashMap;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::line::Line;
use super::{Log, LogsArgs, Printer, logs, workers};
use crate::cluster::Cluster;
use crate::run::signals::Signals;

/// Between looks at which workers there are.
const LOOK: Duration = Duration::from_secs(3);
/// Lines of several workers are held so long, to be put into the order of time.
const HOLD: Duration = Duration::from_millis(400);
/// Lines that wait to be printed. A stream waits while so many do.
const WAITING: usize = 10_000;

/// Prints what is written after `ends`, and after `since` by others, until Ctrl-C.
pub(super) async fn follow(
    cluster: &Cluster,
    args: &LogsArgs,
    mut ends: HashMap<Log, Timestamp>,
    since: Timestamp,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let (sender, mut receiver) = mpsc::channel::<(Log, Timestamp, String)>(WAITING);
    let mut streams: HashMap<Log, JoinHandle<()>> = HashMap::new();
    let mut held: Vec<Line> = Vec::new();
    let mut number = 0;
    let mut look = tokio::time::interval(LOOK);
    let mut print = tokio::time::interval(HOLD);
    let mut last_error = None;
    loop {
        tokio::select! {
            code = signals.next() => {
                print_all(&mut held, printer);
                return Ok(ExitCode::from(code));
            }
            _ = look.tick() => {
                let found = tokio::time::timeout(LOOK, workers(cluster, &args.pipeline)).await;
                let error = match found {
                    Ok(Ok(pods)) => {
                        let logs = logs(&pods);
                        streams.retain(|log, task| logs.contains(log) || !task.is_finished());
                        for log in logs.into_iter().filter(|log| !log.previous) {
                            // Of new containers, and of streams that have broken.
                            if streams.get(&log).is_none_or(JoinHandle::is_finished) {
                                let end = ends.get(&log).copied().unwrap_or(since);
                                let task = copy(cluster.api(), log.clone(), end, sender.clone());
                                streams.insert(log, tokio::spawn(task));
                            }
                        }
                        None
                    }
                    Ok(Err(error)) => Some(format!("{error:#}; trying again")),
                    Err(_) => Some("the API server does not answer; trying again".to_owned()),
                };
                if error != last_error && let Some(error) = &error {
                    eprintln!("{error}");
                }
                last_error = error;
            }
            Some((log, time, line)) = receiver.recv() => {
                // A restarted stream may send lines again that are still buffered here.
                if ends.get(&log).is_none_or(|end| *end < time) {
                    number += 1;
                    held.extend(log.line(&line, number, args));
                    ends.insert(log, time);
                }
            }
            _ = print.tick() => {
                if !print_all(&mut held, printer) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

fn print_all(held: &mut Vec<Line>, printer: &Printer) -> bool {
    held.sort();
    let lines = std::mem::take(held);
    printer.print(&lines)
}

/// Sends the lines after `last`, until the stream ends. The next look starts another one.
async fn copy(
    pods: Api<Pod>,
    log: Log,
    last: Timestamp,
    sender: mpsc::Sender<(Log, Timestamp, String)>,
) {
    let mut params = log.params(last);
    params.follow = true;
    let Ok(stream) = pods.log_stream(&log.pod, &params).await else {
        return;
    };
    let mut lines = pin!(stream.lines());
    while let Some(Ok(line)) = lines.next().await {
        let Some((time, _)) = super::split(&line) else {
            continue;
        };
        if time > last && sender.send((log.clone(), time, line)).await.is_err() {
            return;
        }
    }
}
