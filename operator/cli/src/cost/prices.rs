//! The price file: what hardware and stores cost, and what people expect of the documents.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// A price file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Prices {
    /// Printed behind every price.
    pub(super) currency: String,
    /// The entry of `hardware` that one worker has.
    pub(super) workers: Option<String>,
    #[serde(default)]
    pub(super) hardware: BTreeMap<String, Hardware>,
    #[serde(default)]
    pub(super) storage: StoragePrices,
    #[serde(default)]
    pub(super) workload: Workload,
}

/// The hardware of one worker.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hardware {
    /// Price of a month.
    pub(super) monthly: f64,
    pub(super) pages_per_second: Option<f64>,
}

/// Prices of a GiB for a month.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StoragePrices {
    pub(super) milvus_memory: Option<f64>,
    pub(super) milvus_disk: Option<f64>,
    pub(super) s3: Option<f64>,
    pub(super) mongodb: Option<f64>,
    /// A storage class for what is rarely read.
    pub(super) archive: Option<f64>,
}

/// Figures that replace measured and derived ones.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Workload {
    pub(super) files_per_day: Option<f64>,
    pub(super) stored_pages: Option<f64>,
    pub(super) pages_per_file: Option<f64>,
    /// As stored, after pooling.
    pub(super) vectors_per_page: Option<f64>,
    pub(super) image_kib_per_page: Option<f64>,
}

impl Prices {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--prices: {file} cannot be read"))?;
        Self::parse(&text).with_context(|| format!("--prices: {file}"))
    }

    /// Refuses a file with the path of the field that is wrong.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let prices: Self = serde_yaml_ng::from_str(text)?;
        ensure!(
            !prices.currency.trim().is_empty(),
            "currency: found nothing; expected a name such as USD"
        );
        if let Some(name) = &prices.workers
            && !prices.hardware.contains_key(name)
        {
            let known: Vec<&str> = prices.hardware.keys().map(String::as_str).collect();
            let known = known.join(", ");
            bail!("workers: found {name}; expected an entry of hardware ({known})");
        }
        for (path, value, lowest) in prices.numbers() {
            let Some(value) = value else { continue };
            let is_good = match lowest {
                Lowest::Zero => value >= 0.0,
                Lowest::AboveZero => value > 0.0,
            };
            let expected = match lowest {
                Lowest::Zero => "of at least 0",
                Lowest::AboveZero => "above 0",
            };
            ensure!(
                is_good && value.is_finite(),
                "{path}: found {value}; expected a number {expected}"
            );
        }
        Ok(prices)
    }

    /// Every number of the file with its path.
    fn numbers(&self) -> Vec<(String, Option<f64>, Lowest)> {
        use Lowest::{AboveZero, Zero};
        let Self {
            storage, workload, ..
        } = self;
        let mut numbers: Vec<_> = [
            ("storage.milvusMemory", storage.milvus_memory, Zero),
            ("storage.milvusDisk", storage.milvus_disk, Zero),
            ("storage.s3", storage.s3, Zero),
            ("storage.mongodb", storage.mongodb, Zero),
            ("storage.archive", storage.archive, Zero),
            ("workload.filesPerDay", workload.files_per_day, Zero),
            ("workload.storedPages", workload.stored_pages, Zero),
            ("workload.pagesPerFile", workload.pages_per_file, AboveZero),
            (
                "workload.vectorsPerPage",
                workload.vectors_per_page,
                AboveZero,
            ),
            (
                "workload.imageKibPerPage",
                workload.image_kib_per_page,
                AboveZero,
            ),
        ]
        .map(|(path, value, lowest)| (path.to_owned(), value, lowest))
        .into();
        for (name, hardware) in &self.hardware {
            let path = format!("hardware.{name}");
            let (price, speed) = (hardware.monthly, hardware.pages_per_second);
            numbers.push((format!("{path}.monthly"), Some(price), Zero));
            numbers.push((format!("{path}.pagesPerSecond"), speed, AboveZero));
        }
        numbers
    }
}

#[derive(Clone, Copy)]
enum Lowest {
    Zero,
    AboveZero,
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../../docs/prices.yaml");

    fn refused(text: &str) -> String {
        format!("{:#}", Prices::parse(text).unwrap_err())
    }

    #[test]
    fn the_shipped_example_is_valid_with_and_without_its_workload() {
        let prices = Prices::parse(EXAMPLE).unwrap();
        assert_eq!(prices.hardware.len(), 5);
        assert_eq!(
            prices.workload.stored_pages, None,
            "the object knows better"
        );
        let with_workload = EXAMPLE
            .replace("# workload:", "workload:")
            .replace("\n#   ", "\n  ");
        let prices = Prices::parse(&with_workload).unwrap();
        assert_eq!(prices.workload.stored_pages, Some(5e6));
    }

    #[test]
    fn only_the_currency_is_required() {
        assert!(Prices::parse("currency: EUR").is_ok());
        assert!(refused("storage: {}").contains("missing field `currency`"));
        assert!(refused("currency: ' '").starts_with("currency: found nothing"));
    }

    #[test]
    fn a_wrong_field_is_refused_with_its_path() {
        for (field, start) in [
            ("storage: {s3: -1}", "storage.s3: found -1"),
            ("storage: {s3: .nan}", "storage.s3: found NaN"),
            ("storage: {s3: .inf}", "storage.s3: found inf"),
            ("storage: {s3: much}", "storage.s3: invalid type"),
            ("storage: {glacier: 1}", "storage: unknown field `glacier`"),
            ("storage: 3", "storage: invalid type"),
            (
                "workload: {pagesPerFile: 0}",
                "workload.pagesPerFile: found 0",
            ),
            (
                "hardware: {l4: {monthly: -600}}",
                "hardware.l4.monthly: found -600",
            ),
            (
                "hardware: {l4: {monthly: 1, pagesPerSecond: 0}}",
                "hardware.l4.pagesPerSecond: found 0; expected a number above 0",
            ),
            (
                "hardware: {l4: {pagesPerSecond: 1}}",
                "hardware.l4: missing field `monthly`",
            ),
            (
                "hardware: {l4: {monthly: 1}}\nworkers: l5",
                "workers: found l5; expected an entry of hardware (l4)",
            ),
        ] {
            let error = refused(&format!("currency: USD\n{field}"));
            assert!(error.starts_with(start), "{field}: {error}");
        }
    }
}
