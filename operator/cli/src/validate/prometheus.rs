//! Whether Prometheus scrapes the workers and has the alerts.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use jiff::SignedDuration;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Client, Config};
use serde_json::Value;

use crate::checks::Check;
use crate::cluster::Cluster;

/// A pod is scraped at the latest after this time.
pub(super) const SCRAPED_AFTER: SignedDuration = SignedDuration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(20);
const SCRAPING: &str = "scraping";
const ALERTS: &str = "alerts";
/// The chart's rules.
const RULES: &str = include_str!("../../../../charts/layra-operator/rules/alerts.yaml");

/// Where Prometheus is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Address(String),
    /// Asked through the API server, with the permissions of this person.
    Service {
        namespace: String,
        service: String,
    },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Address(text.trim_end_matches('/').to_owned()));
        }
        let expected = || {
            "expected an address such as http://localhost:9090, or NAMESPACE/SERVICE:PORT"
                .to_owned()
        };
        let (namespace, service) = text.split_once('/').ok_or_else(expected)?;
        let is_word = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.bytes().all(allowed)
        };
        let (name, port) = service.split_once(':').ok_or_else(expected)?;
        if [namespace, name, port].into_iter().all(is_word) {
            Ok(Self::Service {
                namespace: namespace.to_owned(),
                service: service.to_owned(),
            })
        } else {
            Err(expected())
        }
    }
}

/// What Prometheus answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    targets: Value,
    rules: Value,
}

impl Place {
    pub(super) async fn ask(&self, cluster: &Cluster) -> anyhow::Result<Found> {
        let targets = self.get(cluster, "targets?state=active").await?;
        let rules = self.get(cluster, "rules?type=alert").await?;
        Ok(Found { targets, rules })
    }

    async fn get(&self, cluster: &Cluster, what: &str) -> anyhow::Result<Value> {
        let (client, base) = match self {
            Self::Address(address) => {
                let address = address.parse().context("the address of Prometheus")?;
                (Client::try_from(Config::new(address))?, String::new())
            }
            Self::Service { namespace, service } => {
                let base = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy");
                (cluster.client.clone(), base)
            }
        };
        let request = Request::new(format!("{base}/api/v1"));
        let request = request.get(what, &GetParams::default());
        let asking = client.request_text(request?);
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        let answer = answer.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))?;
        let text = match answer {
            Err(error @ kube::Error::Api(_)) if matches!(self, Self::Service { .. }) => {
                return Err(cluster.refused("get", "services/proxy", error));
            }
            answer => answer?,
        };
        let answer: Value = serde_json::from_str(&text).context("the answer of Prometheus")?;
        if answer["status"] != "success" {
            bail!("Prometheus answered {}", answer["error"]);
        }
        Ok(answer["data"].clone())
    }
}

pub(super) fn not_named() -> Vec<Check> {
    no_answer("no Prometheus was named: --prometheus")
}

pub(super) fn no_answer(why: &str) -> Vec<Check> {
    [SCRAPING, ALERTS]
        .map(|name| Check::not_checked(name, why))
        .into()
}

/// Pure.
pub(super) fn judge(found: &Found, pods: &[(String, Option<String>)]) -> Vec<Check> {
    vec![scraping(found, pods), alerts(found)]
}

fn scraping(found: &Found, pods: &[(String, Option<String>)]) -> Check {
    if pods.is_empty() {
        let why = format!(
            "no worker runs for {} s, after which it would be scraped",
            SCRAPED_AFTER.as_secs()
        );
        return Check::not_checked(SCRAPING, why);
    }
    let none = Vec::new();
    let targets = found.targets["activeTargets"].as_array().unwrap_or(&none);
    let mut wrong = Vec::new();
    for (name, address) in pods {
        let mut own = targets
            .iter()
            .filter(|target| is_of(target, name, address.as_deref()));
        let Some(first) = own.next() else {
            wrong.push(format!("pod {name} is no target"));
            continue;
        };
        let is_up = |target: &Value| target["health"] == "up";
        if !is_up(first) && !own.any(is_up) {
            let why = first["lastError"].as_str().unwrap_or("unknown");
            wrong.push(format!("pod {name} is down: {why}"));
        }
    }
    let measured = if wrong.is_empty() {
        format!("{} workers are up", pods.len())
    } else {
        wrong.join("; ")
    };
    let to_do = "Set the chart's podMonitor and serviceMonitor, or add the scrape configuration of \
                 docs/alerts.md to Prometheus.";
    let expected = "every worker is an active target that is up";
    Check::judged(SCRAPING, wrong.is_empty(), expected, measured, to_do)
}

/// Whether a target is a pod: by its label, or by its address.
fn is_of(target: &Value, pod: &str, address: Option<&str>) -> bool {
    let labels = [
        &target["labels"]["pod"],
        &target["discoveredLabels"]["__meta_kubernetes_pod_name"],
    ];
    let url = target["scrapeUrl"].as_str().unwrap_or_default();
    labels.into_iter().any(|label| label == pod)
        || address.is_some_and(|address| {
            url.contains(&format!("//{address}:")) || url.contains(&format!("//[{address}]:"))
        })
}

fn alerts(found: &Found) -> Check {
    let none = Vec::new();
    let groups = found.rules["groups"].as_array().unwrap_or(&none);
    let loaded: BTreeSet<&str> = groups
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .filter_map(|rule| rule["name"].as_str())
        .collect();
    let known: Vec<&str> = names().collect();
    let missing: Vec<&str> = known
        .iter()
        .filter(|name| !loaded.contains(*name))
        .copied()
        .collect();
    let measured = if missing.is_empty() {
        format!("all {} are loaded", known.len())
    } else {
        format!(
            "{} of {} are missing: {}",
            missing.len(),
            known.len(),
            missing.join(", ")
        )
    };
    let to_do =
        "Set the chart's prometheusRule.create, or load charts/layra-operator/rules/alerts.yaml.";
    let expected = "the rules of this version are loaded";
    Check::judged(ALERTS, missing.is_empty(), expected, measured, to_do)
}

fn names() -> impl Iterator<Item = &'static str> {
    RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Verdict;

    fn pods() -> Vec<(String, Option<String>)> {
        vec![
            ("w-1".to_owned(), Some("10.0.0.7".to_owned())),
            ("w-2".to_owned(), Some("10.0.0.8".to_owned())),
        ]
    }

    fn found(targets: &Value) -> Found {
        let rules: Vec<Value> = names().map(|name| json!({"name": name})).collect();
        Found {
            targets: json!({"activeTargets": targets}),
            rules: json!({"groups": [{"rules": rules}]}),
        }
    }

    #[test]
    fn a_place_is_an_address_or_a_service() {
        let service = Place::Service {
            namespace: "monitoring".into(),
            service: "prometheus:9090".into(),
        };
        assert_eq!("monitoring/prometheus:9090".parse(), Ok(service));
        let address = Place::Address("https://p.example/prom".into());
        assert_eq!("https://p.example/prom/".parse(), Ok(address));
        for wrong in ["", "prometheus", "a/b", "a/b/c:1", "../b:1", "a/b:"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn workers_that_are_no_targets_or_down_fail_with_their_names() {
        let up = json!({"labels": {"pod": "w-1"}, "health": "up"});
        let by_address = json!({"scrapeUrl": "http://10.0.0.8:9090/metrics", "health": "up"});
        let checks = judge(&found(&json!([up, by_address])), &pods());
        assert!(
            checks.iter().all(|check| check.verdict == Verdict::Pass),
            "{checks:?}"
        );

        let down = json!({"labels": {"pod": "w-1"}, "health": "down", "lastError": "refused"});
        let check = &judge(&found(&json!([down])), &pods())[0];
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(
            check.measured,
            "pod w-1 is down: refused; pod w-2 is no target"
        );
        assert_eq!(
            judge(&found(&json!([])), &[])[0].verdict,
            Verdict::NotChecked
        );
    }

    #[test]
    fn rules_that_are_not_loaded_are_named() {
        assert!(names().count() > 20);
        for name in [
            "GPUMemoryHigh",
            "IngestionFailureRate",
            "KafkaLagHigh",
            "MilvusDown",
        ] {
            assert!(names().any(|known| known == name), "{name}");
        }
        let mut found = found(&json!([]));
        found.rules["groups"][0]["rules"]
            .as_array_mut()
            .unwrap()
            .remove(0);
        let check = &judge(&found, &pods())[1];
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(
            check.measured.contains("are missing: IngestionFailureRate"),
            "{check:?}"
        );
    }
}
