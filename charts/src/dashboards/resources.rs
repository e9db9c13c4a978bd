//! What the workers of one pipeline use.

use layra_crds::metric_names::worker;

use super::pipeline::{hourly, lines};
use super::{Panel, Row, of, query};

pub(super) fn row() -> Row {
    let mut panels = of_the_machine();
    panels.extend(of_the_work());
    Row {
        title: "Resources",
        panels,
    }
}

/// The gauge of each worker.
fn each(metric: &str) -> String {
    format!("sum by (pod) ({})", of(metric, ""))
}

fn of_the_machine() -> Vec<Panel> {
    vec![
        Panel {
            description: "Used part of the memory of each worker's GPU, by all processes.",
            ..lines(
                "GPU memory",
                "percentunit",
                vec![query(
                    format!(
                        "{} / ({} > 0)",
                        each(worker::GPU_MEMORY_USAGE),
                        each(worker::GPU_MEMORY_TOTAL)
                    ),
                    "{{pod}}",
                )],
            )
        },
        Panel {
            description: "Cores that all workers and their renderers use.",
            ..lines(
                "CPU",
                "short",
                vec![query(
                    format!(
                        "sum by (process) (rate({}[$__rate_interval]))",
                        of(worker::CPU_SECONDS, "")
                    ),
                    "{{process}}",
                )],
            )
        },
        Panel {
            description: "Resident memory of all workers and their renderers. Memory that \
                          renderers share counts in each.",
            ..lines(
                "Memory",
                "bytes",
                vec![query(
                    format!("sum by (process) ({})", of(worker::MEMORY, "")),
                    "{{process}}",
                )],
            )
        },
        Panel {
            description: "What all workers read from and write to disks. A renderer's share \
                          counts when it ends.",
            ..lines(
                "Disk",
                "Bps",
                vec![query(
                    format!(
                        "sum by (direction) (rate({}[$__rate_interval]))",
                        of(worker::DISK_BYTES, "")
                    ),
                    "{{direction}}",
                )],
            )
        },
    ]
}

fn of_the_work() -> Vec<Panel> {
    vec![
        Panel {
            description: "Memory of pages that are rendered and not stored yet.",
            ..lines(
                "Pages in memory",
                "bytes",
                vec![query(each(worker::PAGES_IN_FLIGHT), "{{pod}}")],
            )
        },
        Panel {
            description: "Share of its time in which a worker had work that did not wait for a \
                          server.",
            ..lines(
                "Busy",
                "percentunit",
                vec![query(
                    format!(
                        "sum by (pod) (rate({}[$__rate_interval]))",
                        of(worker::BUSY_SECONDS, "")
                    ),
                    "{{pod}}",
                )],
            )
        },
        Panel {
            description: "Documents and page ranges in progress.",
            ..lines(
                "In progress",
                "short",
                vec![query(each(worker::DOCUMENTS_IN_FLIGHT), "{{pod}}")],
            )
        },
        Panel {
            description: "Batches that did not fit into the memory of the device, and were \
                          halved. Many of them: lower embedding.batchPages.",
            ..lines(
                "Batches too large, an hour",
                "short",
                vec![query(
                    hourly(worker::EMBEDDING_OUT_OF_MEMORY, "pod"),
                    "{{pod}}",
                )],
            )
        },
        Panel {
            description: "Used part of each quota, and of the limits of LAYRA.",
            ..lines(
                "Quotas",
                "percentunit",
                vec![query(
                    format!("max by (quota) ({})", of(worker::QUOTA_USED, "")),
                    "{{quota}}",
                )],
            )
        },
    ]
}
