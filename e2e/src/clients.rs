//! Clients of the test-bed's Kubernetes and S3.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use layra_testbed::{S3Endpoint, Testbed};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::Signer;

/// Installs the process's TLS provider. Called before any client is created; a second call changes
/// nothing.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A Kubernetes client with all permissions.
pub async fn kubernetes(testbed: &Testbed) -> Result<kube::Client> {
    install_crypto();
    let kubeconfig = Kubeconfig::read_from(testbed.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// A client of one bucket.
pub fn bucket(server: &S3Endpoint, name: &str) -> Result<AmazonS3> {
    install_crypto();
    AmazonS3Builder::new()
        .with_endpoint(&server.endpoint)
        .with_region("us-east-1")
        .with_bucket_name(name)
        .with_access_key_id(&server.access_key)
        .with_secret_access_key(&server.secret_key)
        .with_allow_http(true)
        .with_virtual_hosted_style_request(false)
        .build()
        .context("S3 client")
}

/// Creates a bucket; an existing one is left unchanged.
pub async fn create_bucket(server: &S3Endpoint, bucket: &str) -> Result<()> {
    let store = self::bucket(server, bucket)?;
    // The client has no call for this: a signed PUT of the bucket itself creates it.
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
    bail!("bucket {bucket} cannot be created: {status} {body}")
}
