//! Notifications of a bucket: the test-bed's MinIO sends them to a topic, and a test may send its
//! own.

use anyhow::{Result, bail};
use layra_testbed::S3Endpoint;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use serde_json::json;

pub use layra_testbed::BUCKET_EVENTS as TOPIC;

/// Makes the server send a notification to [`TOPIC`] whenever an object of the bucket is written or
/// removed, whatever its key.
pub async fn configure(server: &S3Endpoint, bucket: &str) -> Result<()> {
    let rules = "<NotificationConfiguration><QueueConfiguration><Id>layra</Id>\
        <Queue>arn:minio:sqs::TESTBED:kafka</Queue>\
        <Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:*</Event>\
        </QueueConfiguration></NotificationConfiguration>";
    // The client has no call for this.
    let url = format!("{}/{bucket}?notification=", server.endpoint);
    let mut request = HttpRequest::new(HttpRequestBody::from(rules.to_owned()));
    *request.method_mut() = "PUT".parse()?;
    *request.uri_mut() = url.parse()?;
    let credential = AwsCredential {
        key_id: server.access_key.clone(),
        secret_key: server.secret_key.clone(),
        token: None,
    };
    AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None)?;
    let answer = reqwest::Client::new()
        .put(url)
        .headers(request.headers().clone())
        .body(rules)
        .send()
        .await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await?;
    bail!("the notifications of bucket {bucket} cannot be configured: {status} {body}")
}

/// A notification as Amazon S3 sends it, without what nobody reads. `keys` have no character that
/// must be encoded.
#[must_use]
pub fn message(event: &str, bucket: &str, keys: &[&str]) -> String {
    let records: Vec<_> = keys
        .iter()
        .map(|key| {
            json!({
                "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": event,
                "s3": {
                    "s3SchemaVersion": "1.0", "bucket": { "name": bucket },
                    "object": { "key": key, "sequencer": "0055AED6DCD90281E5" },
                },
            })
        })
        .collect();
    json!({ "Records": records }).to_string()
}
