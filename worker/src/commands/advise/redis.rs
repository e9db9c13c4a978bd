//! Redis: `INFO` and `CONFIG GET`.

use std::collections::BTreeMap;

use layra_crds::Finding;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::TIMEOUT;
use super::finding::{Answer, Server, size};
use crate::runtime::settings::Settings;
use crate::stores::progress;

const SETTINGS: [&str; 4] = [
    "maxmemory",
    "maxmemory-policy",
    "maxclients",
    "tcp-keepalive",
];
/// The pool of connections that the guide asks LAYRA to have.
const LAYRA_POOL: u64 = 50;

/// What Redis said.
#[derive(Debug)]
pub(super) struct Facts {
    info: Answer<BTreeMap<String, String>>,
    settings: BTreeMap<&'static str, Answer<String>>,
}

/// `None`: the pipeline has no Redis.
pub(super) async fn read(settings: &Settings) -> Option<Answer<Facts>> {
    let uri = settings.secrets.redis_uri.as_ref()?;
    let authorities = settings.secrets.authorities.redis.as_deref();
    let client = match progress::client(uri, authorities) {
        Ok(client) => client,
        Err(failure) => return Some(Err(failure.message)),
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = match connection.await {
        Ok(connection) => connection,
        Err(error) => return Some(Err(error.to_string())),
    };
    let request = redis::cmd("INFO");
    let info = request.query_async::<String>(&mut connection).await;
    let info = info
        .map(|text| sections(&text))
        .map_err(|error| words(&error));
    let mut found = BTreeMap::new();
    for name in SETTINGS {
        found.insert(name, setting(&mut connection, name).await);
    }
    Some(Ok(Facts {
        info,
        settings: found,
    }))
}

async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Answer<String> {
    let request = redis::cmd("CONFIG").arg("GET").arg(name).to_owned();
    let answer = request.query_async::<BTreeMap<String, String>>(connection);
    let mut answer = answer.await.map_err(|error| words(&error))?;
    answer
        .remove(name)
        .ok_or_else(|| "the server does not have it".to_owned())
}

fn words(error: &redis::RedisError) -> String {
    match error.code() {
        Some("NOPERM") => "the user may not ask for it (NOPERM)".to_owned(),
        _ => error.to_string(),
    }
}

/// The lines `name:value` of `INFO`.
fn sections(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let redis = Server::new("Redis");
    vec![
        policy(&redis, facts),
        evictions(&redis, facts),
        memory(&redis, facts),
        connections(&redis, facts),
        keepalive(&redis, facts),
    ]
}

impl Facts {
    fn setting(&self, name: &str) -> Answer<&str> {
        match self.settings.get(name) {
            Some(Ok(value)) => Ok(value),
            Some(Err(why)) => Err(why.clone()),
            None => Err("not asked".to_owned()),
        }
    }

    fn number_set(&self, name: &str) -> Answer<u64> {
        number(name, self.setting(name)?)
    }

    fn info(&self, name: &str) -> Answer<u64> {
        let info = self.info.as_ref().map_err(Clone::clone)?;
        let value = info
            .get(name)
            .ok_or_else(|| format!("INFO has no {name}"))?;
        number(name, value)
    }
}

fn number(name: &str, text: &str) -> Answer<u64> {
    text.parse()
        .map_err(|_| format!("{name} is {text}, which is no number"))
}

/// An evicted `task:*` hash is not created again: LAYRA shows its upload as failed.
fn policy(redis: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("maxmemory-policy", "noeviction");
    match facts.setting(setting) {
        Ok(found) => redis.judge(found == asked, setting, asked, found, || {
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf: an evicted task:* hash is \
             not created again, and LAYRA shows its upload as failed"
                .to_owned()
        }),
        Err(why) => redis.unread(setting, asked, why),
    }
}

fn evictions(redis: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("evicted_keys", "0");
    match facts.info(setting) {
        Ok(found) => redis.judge(found == 0, setting, asked, found.to_string(), || {
            "give Redis more memory (maxmemory): it has thrown keys away".to_owned()
        }),
        Err(why) => redis.unread(setting, asked, why),
    }
}

fn memory(redis: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("used_memory", "below 80 % of maxmemory");
    let known = facts.info(setting);
    match known.and_then(|used| Ok((used, facts.number_set("maxmemory")?))) {
        Ok((used, 0)) => redis.good(
            setting,
            asked,
            format!("{}, no maxmemory", size(used as f64)),
        ),
        Ok((used, most)) => {
            let found = format!("{} of {}", size(used as f64), size(most as f64));
            redis.judge(used / 4 < most / 5, setting, asked, found, || {
                "raise maxmemory: a full Redis refuses writes, or evicts".to_owned()
            })
        }
        Err(why) => redis.unread(setting, asked, why),
    }
}

fn connections(redis: &Server, facts: &Facts) -> Finding {
    let setting = "maxclients";
    let asked = format!("room for LAYRA's pool of {LAYRA_POOL}");
    let known = facts.number_set(setting).and_then(|most| {
        Ok((
            most,
            facts.info("connected_clients")?,
            facts.info("rejected_connections")?,
        ))
    });
    match known {
        Ok((most, connected, rejected)) => {
            let is_good = rejected == 0 && most.saturating_sub(connected) >= LAYRA_POOL;
            let found = format!("{connected} of {most} connected, {rejected} rejected");
            redis.judge(is_good, setting, asked, found, || {
                "raise maxclients, and the limit of open files of the server".to_owned()
            })
        }
        Err(why) => redis.unread(setting, asked, why),
    }
}

fn keepalive(redis: &Server, facts: &Facts) -> Finding {
    let (setting, asked) = ("tcp-keepalive", "on");
    match facts.number_set(setting) {
        Ok(seconds) => {
            let found = format!("{seconds} s");
            redis.judge(seconds > 0, setting, asked, found, || {
                "CONFIG SET tcp-keepalive 300: dead connections stay open without it".to_owned()
            })
        }
        Err(why) => redis.unread(setting, asked, why),
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::Verdict;

    use super::*;

    /// From an answer of Redis 7.0.15.
    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n\
        # Clients\r\nconnected_clients:3\r\nmaxclients:10000\r\n\r\n\
        # Memory\r\nused_memory:1048576\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n\r\n\
        # Stats\r\nrejected_connections:0\r\nevicted_keys:0\r\n";

    fn facts(info: &str, changed: &[(&'static str, Answer<&str>)]) -> Facts {
        let defaults = [
            ("maxmemory", Ok("0")),
            ("maxmemory-policy", Ok("noeviction")),
            ("maxclients", Ok("10000")),
            ("tcp-keepalive", Ok("300")),
        ];
        let all = defaults.iter().chain(changed);
        Facts {
            info: Ok(sections(info)),
            settings: all
                .map(|(name, value)| (*name, value.clone().map(str::to_owned)))
                .collect(),
        }
    }

    fn verdict(facts: &Facts, setting: &str) -> Verdict {
        let findings = findings(facts);
        let mut found = findings.iter().filter(|finding| finding.setting == setting);
        found.next().unwrap().verdict
    }

    #[test]
    fn a_redis_with_defaults_is_good() {
        for finding in findings(&facts(INFO, &[])) {
            assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
            assert_eq!(finding.change, None);
        }
    }

    #[test]
    fn what_loses_the_progress_display_is_to_change() {
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let facts = facts(INFO, &[("maxmemory-policy", Ok(policy))]);
            assert_eq!(verdict(&facts, "maxmemory-policy"), Verdict::Change);
        }
        let evicted = INFO.replace("evicted_keys:0", "evicted_keys:7");
        assert_eq!(
            verdict(&facts(&evicted, &[]), "evicted_keys"),
            Verdict::Change
        );
        let full = facts(INFO, &[("maxmemory", Ok("1100000"))]);
        assert_eq!(verdict(&full, "used_memory"), Verdict::Change);
        let ample = facts(INFO, &[("maxmemory", Ok("2200000"))]);
        assert_eq!(verdict(&ample, "used_memory"), Verdict::Good);
        let silent = facts(INFO, &[("tcp-keepalive", Ok("0"))]);
        assert_eq!(verdict(&silent, "tcp-keepalive"), Verdict::Change);
    }

    #[test]
    fn too_few_connections_are_to_change() {
        let few = facts(INFO, &[("maxclients", Ok("52"))]);
        assert_eq!(verdict(&few, "maxclients"), Verdict::Change);
        let rejected = INFO.replace("rejected_connections:0", "rejected_connections:1");
        assert_eq!(
            verdict(&facts(&rejected, &[]), "maxclients"),
            Verdict::Change
        );
    }

    /// Managed servers refuse `CONFIG`.
    #[test]
    fn a_missing_permission_is_a_finding_and_no_error() {
        let refused = Err("the user may not ask for it (NOPERM)");
        let facts = facts(
            INFO,
            &SETTINGS.map(|name| (name, refused.map_err(|why: &str| why.to_owned()))),
        );
        assert_eq!(verdict(&facts, "maxmemory-policy"), Verdict::Unread);
        assert_eq!(verdict(&facts, "evicted_keys"), Verdict::Good);
        let nothing = Facts {
            info: Err("away".to_owned()),
            settings: BTreeMap::new(),
        };
        for finding in findings(&nothing) {
            assert_eq!(finding.verdict, Verdict::Unread, "{finding:?}");
        }
    }
}
