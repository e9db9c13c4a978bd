//! The list of artifacts. The recipe of each, with its pinned versions, is in `artifacts/NAME`.

use std::path::PathBuf;

use crate::settings::Settings;

/// Something that is downloaded or built once and kept in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Name of the artifact and of its recipe's directory.
    pub name: &'static str,
    /// Description, with the size of the download or the build time on two cores.
    pub what: &'static str,
    /// Its directory in the cache.
    pub destination: &'static str,
    /// Its programs; `bin/` of the cache has a link to each.
    pub programs: &'static [&'static str],
    /// Whether it is compiled. These are built one at a time, while others are downloaded.
    pub is_compiled: bool,
}

impl Artifact {
    /// Path of its directory.
    #[must_use]
    pub fn path(&self, settings: &Settings) -> PathBuf {
        settings.cache.join(self.destination)
    }
}

const KUBERNETES: Artifact = Artifact {
    name: "kubernetes",
    what: "Kubernetes 1.36.3, built from its Go module (4-5 minutes)",
    destination: "kubernetes",
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ],
    is_compiled: true,
};

const ETCD: Artifact = Artifact {
    name: "etcd",
    what: "etcd 3.6.16, built from its Go module (30 s)",
    destination: "etcd",
    programs: &["etcd"],
    is_compiled: true,
};

const MINIO: Artifact = Artifact {
    name: "minio",
    what: "MinIO, built from its Go module (2-3 minutes)",
    destination: "minio",
    programs: &["minio"],
    is_compiled: true,
};

/// Prometheus, for the tests of metrics and alerts.
pub const PROMETHEUS: Artifact = Artifact {
    name: "prometheus",
    what: "Prometheus 3.16, built from its Go module (2-3 minutes)",
    destination: "prometheus",
    programs: &["prometheus", "promtool"],
    is_compiled: true,
};

/// Judges what the chart renders.
const KUBE_SCORE: Artifact = Artifact {
    name: "kube-score",
    what: "kube-score 1.20, built from its Go module (1-2 minutes)",
    destination: "kube-score",
    programs: &["kube-score"],
    is_compiled: true,
};

/// The command-line tools `kubectl` and `helm`.
pub const KUBECTL: Artifact = Artifact {
    name: "kubectl",
    what: "kubectl 1.36 and helm 4 (37 MB)",
    destination: "kubectl",
    programs: &["kubectl", "helm"],
    is_compiled: false,
};

const KAFKA: Artifact = Artifact {
    name: "kafka",
    what: "Apache Kafka 4.3.1 (43 MB)",
    destination: "kafka",
    programs: &[],
    is_compiled: false,
};

const MONGODB: Artifact = Artifact {
    name: "mongodb",
    what: "mongo-java-server 1.47.0 (6 MB)",
    destination: "mongodb",
    programs: &[],
    is_compiled: false,
};

const MILVUS: Artifact = Artifact {
    name: "milvus",
    what: "Milvus 2.3.5 (58 MB)",
    destination: "milvus",
    programs: &[],
    is_compiled: false,
};

/// The base image, the fonts of the worker image, and the pause image.
pub const IMAGES: Artifact = Artifact {
    name: "images",
    what: "base of the container images and fonts, from Debian packages (84 MB)",
    destination: "images",
    programs: &[],
    is_compiled: false,
};

/// The library of the PDF renderer, `libpdfium.so`.
pub const PDFIUM: Artifact = Artifact {
    name: "pdfium",
    what: "PDFium, build 8149 (4 MB)",
    destination: "pdfium",
    programs: &[],
    is_compiled: false,
};

/// The embedding model for the CPU.
pub const MINILM: Artifact = Artifact {
    name: "minilm",
    what: "the model all-MiniLM-L6-v2 (84 MB)",
    destination: "models/minilm",
    programs: &[],
    is_compiled: false,
};

/// The documents of the demo.
pub const PDFS: Artifact = Artifact {
    name: "pdfs",
    what: "PDF documents of Debian packages (25 MB)",
    destination: "pdfs",
    programs: &[],
    is_compiled: false,
};

/// Checks of web pages for accessibility, for the tests.
const AXE: Artifact = Artifact {
    name: "axe",
    what: "axe-core 4.12.1 (1 MB)",
    destination: "axe",
    programs: &[],
    is_compiled: false,
};

/// pandas and polars, which read archives, as a folder for `PYTHONPATH`.
pub const PARQUET: Artifact = Artifact {
    name: "parquet",
    what: "pandas 3.1 and polars 2.1 (136 MB)",
    destination: "parquet",
    programs: &[],
    is_compiled: false,
};

/// The files that unit tests read.
pub const FILES: &[Artifact] = &[PDFIUM, MINILM, PDFS, AXE];

/// Everything that a running test-bed needs.
pub const BED: &[Artifact] = &[
    KUBERNETES, MINIO, ETCD, KUBECTL, KAFKA, MONGODB, MILVUS, IMAGES,
];

/// All artifacts.
pub const ALL: &[Artifact] = &[
    KUBERNETES, MINIO, ETCD, KUBECTL, KAFKA, MONGODB, MILVUS, IMAGES, PDFIUM, MINILM, PDFS, AXE,
    PROMETHEUS, PARQUET, KUBE_SCORE,
];
