//! The worker's commands, run on this machine with the configuration of a pipeline.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use layra_testbed::Testbed;
use layra_testbed::artifacts::PDFIUM;
use layra_testbed::settings::repository;
use serde::Deserialize;
use tempfile::TempDir;

use crate::cluster::Scene;

/// A page found by a search.
#[derive(Clone, Debug, Deserialize)]
pub struct Hit {
    /// File name of the document.
    pub file: String,
    /// Page number, from 1.
    pub page: u64,
    /// `MaxSim` score of the page for the question.
    pub score: f64,
}

/// `layra-worker` with a pipeline's configuration and secrets.
pub struct WorkerCli {
    binary: PathBuf,
    directory: TempDir,
    pdfium: PathBuf,
    /// Arguments added to every command.
    extra_arguments: Vec<String>,
}

impl WorkerCli {
    /// Reads the configuration from the pipeline's ConfigMap.
    pub async fn of_pipeline(scene: &Scene, testbed: &Testbed, pipeline: &str) -> Result<Self> {
        let endpoints = testbed.endpoints();
        let directory = TempDir::new()?;
        for (kind, key, value) in [
            ("object-store", "accessKey", &endpoints.s3.access_key),
            ("object-store", "secretKey", &endpoints.s3.secret_key),
            ("mongodb", "uri", &endpoints.mongodb_uri),
            ("redis", "uri", &endpoints.redis_uri),
        ] {
            let secret = directory.path().join("secrets").join(kind);
            std::fs::create_dir_all(&secret)?;
            std::fs::write(secret.join(key), value)?;
        }
        let cli = Self {
            binary: repository().join("dist/layra-worker"),
            directory,
            pdfium: PDFIUM.path(testbed.settings()).join("libpdfium.so"),
            extra_arguments: Vec::new(),
        };
        cli.read_configuration(scene, pipeline).await?;
        Ok(cli)
    }

    /// Reads the configuration from the pipeline's ConfigMap again. Commands that run already keep
    /// what they have read.
    pub async fn read_configuration(&self, scene: &Scene, pipeline: &str) -> Result<()> {
        let map = scene
            .api::<ConfigMap>()
            .get(&format!("{pipeline}-worker"))
            .await?;
        let config = map
            .data
            .and_then(|mut data| data.remove("worker.yaml"))
            .context("worker.yaml in the ConfigMap")?;
        Ok(std::fs::write(self.configuration_file(), config)?)
    }

    /// The configuration as it was read last.
    pub fn configuration(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.configuration_file())?)
    }

    fn configuration_file(&self) -> PathBuf {
        self.directory().join("worker.yaml")
    }

    /// Adds arguments to every command.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        self.extra_arguments.extend(arguments);
        self
    }

    /// Runs `layra-worker search` and returns the best `top` pages.
    pub async fn search(&self, question: &str, knowledge_base: &str, top: u32) -> Result<Vec<Hit>> {
        let top = top.to_string();
        let output = self
            .run(&[
                "search",
                question,
                "--knowledge-base",
                knowledge_base,
                "--top",
                &top,
                "--output",
                "json",
            ])
            .await?;
        serde_json::from_str(&output).with_context(|| format!("the output is not JSON: {output}"))
    }

    /// The directory of the configuration.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A command with the pipeline's configuration, not yet started. Its cache is the subdirectory
    /// `cache` of the configuration's directory.
    #[must_use]
    pub fn command(&self, arguments: &[&str], cache: &str) -> Command {
        let directory = self.directory.path();
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.configuration_file())
            .arg("--secrets")
            .arg(directory.join("secrets"))
            .arg("--cache-dir")
            .arg(directory.join(cache))
            .args(&self.extra_arguments)
            .env("LAYRA_PDFIUM", &self.pdfium);
        command
    }

    /// Runs a command and returns its standard output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let command = self.command(arguments, "cache");
        let output = tokio::process::Command::from(command).output().await?;
        ensure!(
            output.status.success(),
            "layra-worker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
