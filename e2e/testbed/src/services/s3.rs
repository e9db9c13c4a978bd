//! MinIO with one data directory.

use std::process::Command;

use anyhow::Result;

use super::wire;
use crate::settings::{NODE_IP, Settings};

/// Access key of the only S3 user.
pub(crate) const ACCESS_KEY: &str = "layra-testbed";
/// Secret key of that user. It is public, since only this machine reaches the server.
pub(crate) const SECRET_KEY: &str = "layra-testbed-secret";

/// The topic to which notifications of buckets are sent.
pub const BUCKET_EVENTS: &str = "bucket-events";

pub(super) fn command(settings: &Settings) -> Command {
    let mut command = Command::new(settings.bin("minio"));
    command
        .args([
            "server",
            "--quiet",
            "--address",
            &format!("{NODE_IP}:{}", settings.ports.s3),
        ])
        .arg(settings.data("s3"))
        .env("MINIO_ROOT_USER", ACCESS_KEY)
        .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
        .env("MINIO_BROWSER", "off")
        .env("MINIO_UPDATE", "off")
        .env("MINIO_CALLHOME_ENABLE", "off");
    // The target `arn:minio:sqs::TESTBED:kafka`. It is idle until a bucket names it.
    let broker = format!("{NODE_IP}:{}", settings.ports.kafka);
    command
        .env("MINIO_NOTIFY_KAFKA_ENABLE_TESTBED", "on")
        .env("MINIO_NOTIFY_KAFKA_BROKERS_TESTBED", broker)
        .env("MINIO_NOTIFY_KAFKA_TOPIC_TESTBED", BUCKET_EVENTS)
        // While the topic or the broker is away, notifications wait here.
        .env(
            "MINIO_NOTIFY_KAFKA_QUEUE_DIR_TESTBED",
            settings.data("s3-notifications"),
        );
    command
}

/// Checks that the server can answer reads and writes.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    wire::http_get(settings.ports.s3, "/minio/health/cluster").await?;
    Ok(())
}
