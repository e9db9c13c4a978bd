//! The addresses of page images and originals in an answer. LAYRA's own links, in `files`, are good
//! for a hundred years to everyone who has one: an answer has none of them.

use std::time::Duration;

use axum::http::Method;
use clap::Args;
use layra_crds::ObjectStoreSpec;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::Signer;

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secrets;
use crate::stores::presign::Presigner;

/// What the links of an answer look like.
#[derive(Clone, Debug, Args)]
pub(super) struct LinkArgs {
    /// Minutes for which the links of an answer are valid: those to page images and to originals.
    #[arg(long, env = "LAYRA_LINK_MINUTES", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=10_080))]
    link_minutes: u32,
    /// Everyone may read the bucket: links have no signature and no end.
    #[arg(long, env = "LAYRA_PUBLIC_BUCKET")]
    public_bucket: bool,
}

/// Creates links.
#[derive(Debug)]
pub(super) struct Links {
    presigner: Presigner,
    signature: Signature,
    lifetime: Duration,
}

#[derive(Debug)]
enum Signature {
    None,
    /// The one of LAYRA's links, which is valid behind any proxy that keeps the path.
    Version2,
    /// AWS S3 accepts only this.
    Version4(Box<AmazonS3>),
}

impl Links {
    pub(super) fn new(
        args: &LinkArgs,
        spec: &ObjectStoreSpec,
        secrets: &Secrets,
    ) -> Result<Self, Failure> {
        let is_aws = spec.endpoint.is_none() && spec.public_endpoint.is_none();
        let signature = match (args.public_bucket, is_aws) {
            (true, _) => Signature::None,
            (false, false) => Signature::Version2,
            (false, true) => Signature::Version4(Box::new(aws(spec, secrets)?)),
        };
        Ok(Self {
            presigner: Presigner::new(spec, secrets, &spec.bucket),
            signature,
            lifetime: Duration::from_mins(args.link_minutes.into()),
        })
    }

    /// The address of an object.
    pub(super) async fn link(&self, key: &str) -> String {
        match &self.signature {
            Signature::None => self.presigner.address(key),
            Signature::Version2 => {
                let now = jiff::Timestamp::now();
                self.presigner.link_for(key, now, self.lifetime)
            }
            Signature::Version4(aws) => {
                let signed = async {
                    let path = Path::parse(key)?;
                    aws.signed_url(Method::GET, &path, self.lifetime).await
                };
                // No object that was ever written has such a key.
                signed.await.map_or_else(|_| String::new(), String::from)
            }
        }
    }
}

/// A client that only signs.
fn aws(spec: &ObjectStoreSpec, secrets: &Secrets) -> Result<AmazonS3, Failure> {
    AmazonS3Builder::new()
        .with_bucket_name(&spec.bucket)
        .with_region(&spec.region)
        .with_access_key_id(secrets.access_key.reveal())
        .with_secret_access_key(secrets.secret_key.reveal())
        .build()
        .map_err(|error| Failure::fatal(Stage::Objects, Reason::InvalidObjectStore, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::settings::Settings;

    const KEY: &str = "roger_a b_0123456789abcdef01234567.png";

    async fn link(endpoint: &str, public_bucket: bool) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = format!(
            "
pipeline: rag/contracts
source: {{kafka: {{bootstrapServers: 'kafka:9092'}}}}
documents:
  objectStore:
    {endpoint}
    accessKeySecretRef: {{name: s3}}
    secretKeySecretRef: {{name: s3}}
embedding: {{model: {{family: minilm, uri: 'file:///models/minilm'}}}}
stores:
  milvus: {{uri: 'http://milvus:19530'}}
  mongodb: {{uriSecretRef: {{name: mongo}}}}
"
        );
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("worker.yaml", config.as_str()),
            ("object-store/accessKey", "AKIAIOSFODNN7EXAMPLE"),
            ("object-store/secretKey", "wJalrXUtnFEMI"),
            ("mongodb/uri", "mongodb://127.0.0.1:9"),
        ] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let config = directory.path().join("worker.yaml");
        let settings = Settings::load(&config, directory.path()).unwrap();
        let args = LinkArgs {
            link_minutes: 15,
            public_bucket,
        };
        let store = &settings.config.documents.object_store;
        let links = Links::new(&args, store, &settings.secrets).unwrap();
        links.link(KEY).await
    }

    #[tokio::test]
    async fn links_end_soon() {
        let link = link("publicEndpoint: 'https://files.example.com'", false).await;
        let begin = "https://files.example.com/minio-file/roger_a%20b_";
        assert!(link.starts_with(begin), "{link}");
        let (_, expires) = link.rsplit_once("&Expires=").unwrap();
        let expires: i64 = expires.parse().unwrap();
        let seconds = expires - jiff::Timestamp::now().as_second();
        assert!((890..=900).contains(&seconds), "{seconds}");
    }

    #[tokio::test]
    async fn aws_gets_the_signature_that_it_accepts() {
        let link = link("region: eu-central-1", false).await;
        let begin = "https://s3.eu-central-1.amazonaws.com/minio-file/roger_a%20b_";
        assert!(link.starts_with(begin), "{link}");
        for part in ["X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Expires=900"] {
            assert!(link.contains(part), "{link}");
        }
        assert!(!link.contains("wJalrXUtnFEMI"));
    }

    #[tokio::test]
    async fn links_to_a_public_bucket_are_plain() {
        let link = link("endpoint: 'http://minio:9000'", true).await;
        let plain = "http://minio:9000/minio-file/roger_a%20b_0123456789abcdef01234567.png";
        assert_eq!(link, plain);
    }
}
