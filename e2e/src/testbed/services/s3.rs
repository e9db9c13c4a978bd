//! MinIO on one folder.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::signer::Signer;

use super::super::S3Endpoint;
use super::super::settings::{NODE_IP, Settings};

/// The bed's only S3 user.
pub(in super::super) const ACCESS_KEY: &str = "layra-testbed";
/// That user's secret, known to everybody: the server is reached from this machine alone.
pub(in super::super) const SECRET_KEY: &str = "layra-testbed-secret";

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
    command
}

/// A bucket can be made.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let server = S3Endpoint {
        endpoint: format!("http://{NODE_IP}:{}", settings.ports.s3),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
    };
    create_bucket(&server, "testbed-probe").await
}

/// Makes a bucket; one that exists already is left as it is.
pub(in super::super) async fn create_bucket(server: &S3Endpoint, bucket: &str) -> Result<()> {
    let store = AmazonS3Builder::new()
        .with_endpoint(&server.endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id(&server.access_key)
        .with_secret_access_key(&server.secret_key)
        .build()?;
    // The client knows objects only; a signed PUT of the bucket itself makes it.
    let minute = Duration::from_mins(1);
    let url = store
        .signed_url("PUT".parse()?, &Path::default(), minute)
        .await?;
    let answer = reqwest::Client::new().put(url).send().await?;
    let status = answer.status();
    let body = answer.text().await?;
    if status.is_success() || body.contains("BucketAlreadyOwnedByYou") {
        return Ok(());
    }
    bail!("bucket {bucket} cannot be made: {status} {body}")
}
