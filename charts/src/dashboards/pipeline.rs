//! One pipeline: the five groups of LAYRA's guide, with the scaling decision before them.

use layra_crds::metric_names::{operator, worker};

use super::{Annotation, Dashboard, Kind, Panel, Query, Row, of, query, resources};

pub(super) fn dashboard() -> Dashboard {
    let desired = of(operator::DESIRED_REPLICAS, "");
    Dashboard {
        name: "pipeline",
        title: "LAYRA pipeline",
        of_one_pipeline: true,
        annotations: vec![
            Annotation {
                name: "Scaling decisions",
                query: query(
                    format!("max without (pod, instance) (delta({desired}[2m])) != 0"),
                    "another number of workers",
                ),
            },
            Annotation {
                name: "Limits",
                query: query(
                    format!("{} == 1", of(operator::SCALING_LIMITED, "")),
                    "limited: {{limit}}",
                ),
            },
        ],
        rows: vec![
            scaling(),
            queue(),
            throughput(),
            latency(),
            resources::row(),
            errors(),
        ],
    }
}

/// A gauge of the operator. One process reports it; a replica that led before may for a moment too.
fn gauge(metric: &str) -> String {
    format!("max({})", of(metric, ""))
}

/// A gauge of the operator by a label.
fn gauge_by(label: &str, metric: &str) -> String {
    format!("max by ({label}) ({})", of(metric, ""))
}

/// What a counter of the workers grows by in a second.
fn rate(metric: &str, window: &str) -> String {
    format!("sum(rate({}[{window}]))", of(metric, ""))
}

/// What a counter of the workers grows by in an hour, by a label.
pub(super) fn hourly(metric: &str, label: &str) -> String {
    format!("sum by ({label}) (increase({}[1h]))", of(metric, ""))
}

/// Median, 95th and 99th percentile of a histogram of the workers.
fn percentiles(metric: &str, more: &str) -> Vec<Query> {
    let bucket = of(&format!("{metric}_bucket"), more);
    [("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99")]
        .into_iter()
        .map(|(share, legend)| {
            let buckets = format!("sum by (le) (rate({bucket}[$__rate_interval]))");
            query(format!("histogram_quantile({share}, {buckets})"), legend)
        })
        .collect()
}

pub(super) fn lines(title: &'static str, unit: &'static str, queries: Vec<Query>) -> Panel {
    Panel {
        title,
        description: "",
        kind: Kind::Lines,
        unit,
        width: 8,
        queries,
    }
}

fn scaling() -> Row {
    Row {
        title: "Scaling: how many workers, and why",
        panels: vec![
            Panel {
                description: "Workers that the operator wants, and what has become of them. \
                              Waiting workers have no node.",
                width: 12,
                ..lines(
                    "Workers",
                    "short",
                    vec![
                        query(gauge(operator::DESIRED_REPLICAS), "desired"),
                        query(gauge(operator::READY_REPLICAS), "ready"),
                        query(gauge(operator::STARTING_WORKERS), "starting"),
                        query(gauge(operator::WAITING_WORKERS), "waiting for a node"),
                    ],
                )
            },
            Panel {
                description: "1 while the condition is true. Ready includes topics, Milvus and \
                              workers; the object's status has the reason and what to do.",
                kind: Kind::States,
                width: 12,
                ..lines(
                    "Conditions",
                    "short",
                    vec![query(
                        gauge_by("condition", operator::PIPELINE_CONDITION),
                        "{{condition}}",
                    )],
                )
            },
            Panel {
                description: "The larger of the first two, within floor and ceiling, is desired. \
                              It falls only to the largest number of the scale-down delay.",
                width: 12,
                ..lines(
                    "Terms of the decision",
                    "short",
                    vec![
                        query(term("for_arrivals"), "for the arrivals"),
                        query(term("for_backlog"), "for the backlog in the drain target"),
                        query(term("floor"), "floor"),
                        query(term("ceiling"), "ceiling"),
                        query(term("window"), "largest in the delay"),
                    ],
                )
            },
            Panel {
                description: "What keeps the workers from the number that the backlog requires. \
                              `kubectl layra explain` has the sentence.",
                kind: Kind::States,
                width: 12,
                ..lines(
                    "Limits",
                    "short",
                    vec![query(
                        gauge_by("limit", operator::SCALING_LIMITED),
                        "{{limit}}",
                    )],
                )
            },
        ],
    }
}

fn term(name: &str) -> String {
    let matcher = format!("{}=\"{name}\"", operator::TERM_LABEL);
    format!("max({})", of(operator::SCALING_TERM_WORKERS, &matcher))
}

fn queue() -> Row {
    Row {
        title: "Queue: depth and age",
        panels: vec![
            Panel {
                description: "Tasks and page ranges that are not processed, and the pages that \
                              they are estimated to have.",
                ..lines(
                    "Depth",
                    "short",
                    vec![
                        query(gauge(operator::CONSUMER_LAG), "messages"),
                        query(gauge(operator::BACKLOG_PAGES), "pages"),
                        query(gauge(operator::BACKLOG_RANGES), "page ranges"),
                    ],
                )
            },
            Panel {
                description: "At least this old is the oldest document that waits. Compare it with \
                              scaling.drainTargetSeconds.",
                ..lines(
                    "Age",
                    "s",
                    vec![query(
                        gauge(operator::BACKLOG_OLDEST_SECONDS),
                        "oldest document",
                    )],
                )
            },
            Panel {
                description: "A stuck partition has work and makes no progress: see the worker's \
                              log and the message at the committed offset.",
                ..lines(
                    "Partitions",
                    "short",
                    vec![
                        query(gauge(operator::PARTITIONS_WITH_WORK), "with work"),
                        query(gauge(operator::STUCK_PARTITIONS), "stuck"),
                    ],
                )
            },
        ],
    }
}

fn throughput() -> Row {
    let total = |title, unit, metric, more, window| Panel {
        description: "Estimated from the counters of the workers.",
        kind: Kind::Number,
        width: 4,
        ..lines(
            title,
            unit,
            vec![query(
                format!("sum(increase({}[{window}]))", of(metric, more)),
                "",
            )],
        )
    };
    Row {
        title: "Throughput",
        panels: vec![
            Panel {
                description: "Pages made searchable, now and on average, and pages that arrive.",
                width: 12,
                ..lines(
                    "Pages a second",
                    "short",
                    vec![
                        query(rate(worker::PAGES, "$__rate_interval"), "searchable"),
                        query(rate(worker::PAGES, "1h"), "average of 1 h"),
                        query(rate(worker::PAGES, "24h"), "average of 24 h"),
                        query(rate(worker::PAGES, "7d"), "average of 7 d"),
                        query(gauge(operator::ARRIVING_PAGES_PER_SECOND), "arriving"),
                    ],
                )
            },
            Panel {
                description: "Documents by outcome. Retried ones were known to the ledger, and \
                              started again.",
                width: 12,
                ..lines(
                    "Documents an hour",
                    "short",
                    vec![query(hourly(worker::FILES, worker::STATUS), "{{status}}")],
                )
            },
            total("Pages in 1 h", "short", worker::PAGES, "", "1h"),
            total("Pages in 24 h", "short", worker::PAGES, "", "24h"),
            total("Pages in 7 d", "short", worker::PAGES, "", "7d"),
            total("Documents in 1 h", "short", worker::FILES, SUCCESS, "1h"),
            total("Documents in 24 h", "short", worker::FILES, SUCCESS, "24h"),
            total("Documents in 7 d", "short", worker::FILES, SUCCESS, "7d"),
        ],
    }
}

const SUCCESS: &str = r#"status="success""#;

fn latency() -> Row {
    let stage = |title, description, metric, more| Panel {
        description,
        ..lines(title, "s", percentiles(metric, more))
    };
    Row {
        title: "Latency",
        panels: vec![
            stage(
                "Conversion of a page",
                "To render one page.",
                worker::CONVERSION_DURATION,
                "",
            ),
            stage(
                "Embedding of a batch",
                "To compute the vectors of one batch of pages.",
                worker::EMBEDDING_DURATION,
                "",
            ),
            stage(
                "Insert of a batch",
                "To write one batch to Milvus.",
                worker::STORE_DURATION,
                r#"store="milvus""#,
            ),
            stage(
                "Document",
                "From receiving a task to its last vector.",
                worker::INGESTION_DURATION,
                "",
            ),
            stage(
                "Fetch of an original",
                "To read one original from the object store.",
                worker::FETCH_DURATION,
                "",
            ),
            stage(
                "Page images and entries of a batch",
                "To write one batch to the object store or to MongoDB.",
                worker::STORE_DURATION,
                r#"store=~"objects|mongodb""#,
            ),
        ],
    }
}

fn errors() -> Row {
    Row {
        title: "Errors",
        panels: vec![
            Panel {
                description: "Documents that became dead letters, by reason.",
                ..lines(
                    "Dead letters an hour",
                    "short",
                    vec![query(
                        hourly(worker::DEAD_LETTERS, worker::REASON),
                        "{{reason}}",
                    )],
                )
            },
            Panel {
                description: "Attempts that failed because a server did not respond, by stage.",
                ..lines(
                    "Retries an hour",
                    "short",
                    vec![query(hourly(worker::RETRIES, worker::STAGE), "{{stage}}")],
                )
            },
            Panel {
                description: "Share of the documents that failed.",
                ..lines(
                    "Failed documents",
                    "percentunit",
                    vec![query(
                        format!(
                            "sum(increase({}[1h])) / (sum(increase({}[1h])) > 0)",
                            of(worker::FILES, r#"status="failed""#),
                            of(worker::FILES, r#"status=~"failed|success""#)
                        ),
                        "failed",
                    )],
                )
            },
            Panel {
                description: "Pages that were skipped because they cannot be rendered or embedded.",
                ..lines(
                    "Pages skipped, an hour",
                    "short",
                    vec![query(
                        hourly(worker::PAGES_SKIPPED, worker::REASON),
                        "{{reason}}",
                    )],
                )
            },
            Panel {
                description: "Stored pages that cannot be found, or only in part.",
                ..lines(
                    "Pages with warnings, an hour",
                    "short",
                    vec![query(
                        hourly(worker::PAGE_WARNINGS, worker::WARNING),
                        "{{warning}}",
                    )],
                )
            },
            Panel {
                description: "Renderers that ended before their document was done, by reason.",
                ..lines(
                    "Renderers lost, an hour",
                    "short",
                    vec![query(
                        hourly(worker::RENDERERS_LOST, worker::REASON),
                        "{{reason}}",
                    )],
                )
            },
            Panel {
                description: "Records that Kafka deleted before they were processed. Raise the \
                              retention of the topic.",
                ..lines(
                    "Records lost, an hour",
                    "short",
                    vec![query(
                        format!("sum(increase({}[1h]))", of(operator::LOST_RECORDS, "")),
                        "lost",
                    )],
                )
            },
        ],
    }
}
