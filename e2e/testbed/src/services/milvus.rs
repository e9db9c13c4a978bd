//! Milvus standalone with embedded etcd, configured from the template in its package.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_yaml_ng::{Mapping, Value};

use super::wire;
use crate::settings::{NODE_IP, Settings};

/// Ports as offsets from the first one, which the proxy uses.
const PORTS: [(&str, u16); 8] = [
    ("proxy.port", 0),
    ("proxy.internalPort", 1),
    ("rootCoord.port", 2),
    ("queryCoord.port", 3),
    ("queryNode.port", 4),
    ("indexNode.port", 5),
    ("dataCoord.port", 6),
    ("dataNode.port", 7),
];
const ETCD_CLIENT: u16 = 9;
const ETCD_PEER: u16 = 10;
const METRICS: u16 = 11;

/// The range of the server's ports, as `first-last`.
pub(crate) fn milvus_ports(settings: &Settings) -> String {
    format!(
        "{}-{}",
        settings.ports.milvus,
        settings.ports.milvus + METRICS + 1
    )
}

/// Rate limit for writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteLimit {
    /// No limit.
    #[default]
    None,
    /// About one byte per second: every write after the first is throttled.
    Refusing,
    /// A MB per second for each collection, and two collections.
    Tight,
}

pub(super) fn command(settings: &Settings, limit: WriteLimit) -> Result<Command> {
    let artifact = settings.cache.join("milvus");
    let folder = settings.data("milvus");
    // Milvus looks for its configuration here, below its working directory.
    let configs = folder.join("configs");
    fs::create_dir_all(&configs)?;
    fs::create_dir_all(folder.join("logs"))?;
    fs::copy(artifact.join("glog.conf"), configs.join("glog.conf"))?;
    let template = fs::read_to_string(artifact.join("config.yaml.template"))?;
    let mut configuration = configure(&template, &folder, settings.ports.milvus)?;
    limit_writes(&mut configuration, limit)?;
    fs::write(
        configs.join("milvus.yaml"),
        serde_yaml_ng::to_string(&configuration)?,
    )?;
    fs::write(
        configs.join("etcd.yaml"),
        etcd_configuration(&folder, settings.ports.milvus)?,
    )?;

    let mut command = Command::new(artifact.join("bin/milvus"));
    command
        .args(["run", "standalone", "-alias", "testbed"])
        .current_dir(&folder)
        .env("DEPLOY_MODE", "STANDALONE")
        .env(
            "METRICS_PORT",
            (settings.ports.milvus + METRICS).to_string(),
        )
        .env("MILVUS_RUN_DIR", folder.join("run"))
        .env("LD_LIBRARY_PATH", artifact.join("bin"))
        .env("GOMEMLIMIT", "1500MiB");
    Ok(command)
}

/// A program that is a Milvus of a test's own, with tight limits. Its data is below `folder`, and
/// `port` is the first of thirteen. It ends when it is killed.
pub fn tight_milvus(settings: &Settings, folder: &Path, port: u16) -> Result<Command> {
    let mut settings = settings.clone();
    folder.clone_into(&mut settings.state);
    settings.ports.milvus = port;
    command(&settings, WriteLimit::Tight)
}

/// Checks that the server is healthy, since it accepts requests earlier, and answers an API
/// request.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let health = wire::http_get(settings.ports.milvus + METRICS, "/healthz").await?;
    ensure!(health.contains("OK"), "Milvus is not healthy: {health}");
    wire::http_get(settings.ports.milvus, "/v1/vector/collections").await?;
    Ok(())
}

fn configure(template: &str, folder: &Path, port: u16) -> Result<Value> {
    let mut configuration: Value = serde_yaml_ng::from_str(&with_defaults(template))
        .context("parsing the template of Milvus' configuration")?;
    for (key, offset) in PORTS {
        set(&mut configuration, key, port + offset)?;
    }
    for part in [
        "rootCoord",
        "proxy",
        "queryCoord",
        "queryNode",
        "indexNode",
        "dataCoord",
        "dataNode",
    ] {
        set(&mut configuration, &format!("{part}.ip"), NODE_IP)?;
    }
    let path = |name: &str| folder.join(name).display().to_string();
    set(
        &mut configuration,
        "etcd.endpoints",
        format!("127.0.0.1:{}", port + ETCD_CLIENT),
    )?;
    set(
        &mut configuration,
        "etcd.config.path",
        path("configs/etcd.yaml"),
    )?;
    set(&mut configuration, "etcd.data.dir", path("etcd"))?;
    set(&mut configuration, "etcd.log.path", path("logs/etcd.log"))?;
    set(&mut configuration, "etcd.log.level", "warn")?;
    set(&mut configuration, "localStorage.path", path("data"))?;
    set(&mut configuration, "rocksmq.path", path("rocksmq"))?;
    set(&mut configuration, "log.level", "warn")?;
    set(&mut configuration, "log.file.rootPath", "")?;
    Ok(configuration)
}

/// Limits can be set only at the start: this version hangs when its configuration changes at run
/// time.
fn limit_writes(configuration: &mut Value, limit: WriteLimit) -> Result<()> {
    match limit {
        WriteLimit::None => {}
        WriteLimit::Refusing => {
            set(configuration, "quotaAndLimits.dml.enabled", true)?;
            for kind in ["insertRate", "deleteRate"] {
                for scope in ["max", "collection.max"] {
                    let key = format!("quotaAndLimits.dml.{kind}.{scope}");
                    // MB per second.
                    set(configuration, &key, 1e-6)?;
                }
            }
        }
        WriteLimit::Tight => {
            set(configuration, "quotaAndLimits.dml.enabled", true)?;
            for scope in ["max", "collection.max"] {
                let key = format!("quotaAndLimits.dml.insertRate.{scope}");
                set(configuration, &key, 1)?;
            }
            set(configuration, "quotaAndLimits.limits.maxCollectionNum", 2)?;
        }
    }
    Ok(())
}

/// Without its own file, the embedded etcd uses ports 2379 and 2380, whatever `etcd.endpoints`
/// says.
fn etcd_configuration(folder: &Path, port: u16) -> Result<String> {
    let client = format!("http://127.0.0.1:{}", port + ETCD_CLIENT);
    let peer = format!("http://127.0.0.1:{}", port + ETCD_PEER);
    let settings = [
        ("name", "default".to_owned()),
        ("data-dir", folder.join("etcd").display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("default={peer}")),
    ];
    let yaml: Mapping = settings
        .into_iter()
        .map(|(key, value)| (Value::from(key), Value::from(value)))
        .collect();
    Ok(serde_yaml_ng::to_string(&yaml)?)
}

/// Replaces every `{{ name(type): default }}` by its default, or by nothing if there is none.
fn with_defaults(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, (placeholder, after))) = rest
        .split_once("{{")
        .and_then(|(before, tail)| Some((before, tail.split_once("}}")?)))
    {
        text.push_str(before);
        text.push_str(
            placeholder
                .split_once(':')
                .map_or("", |(_, default)| default.trim()),
        );
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Sets `a.b.c`, creating missing sections.
fn set(configuration: &mut Value, key: &str, value: impl Into<Value>) -> Result<()> {
    let mut place = configuration;
    for part in key.split('.') {
        if place.is_null() {
            *place = Value::Mapping(Mapping::new());
        }
        let mapping = place
            .as_mapping_mut()
            .with_context(|| format!("{key}: a parent is not a section"))?;
        place = mapping.entry(part.into()).or_insert(Value::Null);
    }
    *place = value.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "proxy:\n  ip: # none\n  port: {{ proxy_port(int): 19530 }}\netcd:\n  \
                            data:\n    dir: {{ etcd_data_dir }}\nother: {{ level: info }} # text\n";

    #[test]
    fn settings_override_the_template_and_the_rest_keeps_its_defaults() {
        let configuration = configure(TEMPLATE, Path::new("/data"), 17530).unwrap();
        assert_eq!(configuration["proxy"]["port"], Value::from(17530));
        assert_eq!(configuration["proxy"]["ip"], Value::from(NODE_IP));
        assert_eq!(
            configuration["etcd"]["data"]["dir"],
            Value::from("/data/etcd")
        );
        assert_eq!(
            configuration["rocksmq"]["path"],
            Value::from("/data/rocksmq")
        );
        assert_eq!(configuration["other"], Value::from("info"));
    }

    #[test]
    fn writes_are_limited_only_on_request() {
        let mut configuration = configure(TEMPLATE, Path::new("/data"), 17530).unwrap();
        limit_writes(&mut configuration, WriteLimit::None).unwrap();
        assert!(configuration.get("quotaAndLimits").is_none());
        limit_writes(&mut configuration, WriteLimit::Refusing).unwrap();
        let writes = &configuration["quotaAndLimits"]["dml"];
        assert_eq!(writes["insertRate"]["collection"]["max"], Value::from(1e-6));
        limit_writes(&mut configuration, WriteLimit::Tight).unwrap();
        let limits = &configuration["quotaAndLimits"];
        assert_eq!(limits["dml"]["insertRate"]["max"], Value::from(1));
        assert_eq!(limits["limits"]["maxCollectionNum"], Value::from(2));
    }

    #[test]
    fn a_setting_below_a_value_is_an_error() {
        let mut configuration = Value::from(1);
        assert!(set(&mut configuration, "a.b", 1).is_err());
    }
}
