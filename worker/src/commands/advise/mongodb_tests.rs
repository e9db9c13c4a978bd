use layra_crds::Verdict;

use super::*;

/// From public answers of real servers, cut to the fields that are read:
/// `storageEngine` from <https://www.tutorialspoint.com/how-to-know-which-storage-engine-is-used-in-mongodb>,
/// the fields of `wiredTiger.cache` from
/// <https://www.mongodb.com/docs/manual/reference/command/serverStatus/#wiredtiger>, with numbers of a
/// server with a cache of 1 GiB.
fn status() -> Document {
    doc! {
        "process": "mongod",
        "storageEngine": {
            "name": "wiredTiger", "supportsCommittedReads": true, "readOnly": false,
            "persistent": true,
        },
        "wiredTiger": {"cache": {
            "tracked dirty bytes in the cache": 0,
            "bytes currently in the cache": 534_565_485,
            "maximum bytes configured": 1_073_741_824,
            "bytes read into cache": 22_628_676,
            "bytes written from cache": 1_759_279_670_i64,
        }},
        "ok": 1.0,
    }
}

/// From <https://www.mongodb.com/docs/manual/reference/command/getCmdLineOpts/>.
fn options() -> Document {
    doc! {
        "argv": ["/usr/bin/mongod", "--config", "/etc/mongod.conf"],
        "parsed": {
            "config": "/etc/mongod.conf",
            "net": {"bindIp": "127.0.0.1", "port": 27017},
            "processManagement": {"fork": true},
            "storage": {"dbPath": "/data/db"},
            "systemLog": {
                "destination": "file", "logAppend": true, "path": "/var/log/mongodb/mongod.log",
            },
        },
        "ok": 1,
    }
}

/// Fields of <https://www.mongodb.com/docs/manual/reference/command/hostInfo/>.
fn host(mib: i32) -> Document {
    doc! {"system": {"memSizeMB": 64_000, "memLimitMB": mib}, "os": {"type": "Linux"}, "ok": 1}
}

/// The beginning of an answer in <https://jira.mongodb.org/secure/attachment/146707/Collection%20Stats>.
fn files(compressor: &str) -> Document {
    let text = format!(
        "allocation_size=4KB,app_metadata=(formatVersion=1),block_allocation=best,\
         block_compressor={compressor},cache_resident=0,checksum=on"
    );
    doc! {"ns": "mongodb.files", "count": 12, "wiredTiger": {"creationString": text}, "ok": 1}
}

fn facts() -> Facts {
    Facts {
        status: Ok(status()),
        options: Ok(options()),
        host: Ok(host(32_000)),
        files: Err("there is no collection files yet".to_owned()),
    }
}

fn of(facts: &Facts, setting: &str) -> Finding {
    let findings = findings(facts);
    let mut found = findings
        .into_iter()
        .filter(|finding| finding.setting == setting);
    found.next().unwrap()
}

#[test]
fn a_mongod_with_defaults_needs_a_larger_cache_and_zstd() {
    let facts = facts();
    let engine = of(&facts, "storage engine");
    assert_eq!(
        (engine.verdict, engine.found.as_str()),
        (Verdict::Good, "wiredTiger")
    );
    let cache = of(&facts, "wiredTiger cache");
    assert_eq!(cache.verdict, Verdict::Change);
    assert_eq!(cache.found, "1.0 GiB, 510 MiB used");
    assert_eq!(
        cache.change.as_deref(),
        Some("start mongod with --wiredTigerCacheSizeGB 4")
    );
    let compressor = of(&facts, "block compressor");
    assert_eq!(compressor.verdict, Verdict::Change);
    assert_eq!(compressor.found, "not set: the default is snappy");
    assert_eq!(of(&facts, "journal").verdict, Verdict::Good);
}

#[test]
fn a_mongod_as_the_guide_asks_is_good() {
    let mut facts = facts();
    let cache = facts.status.as_mut().unwrap();
    let cache = cache.get_document_mut("wiredTiger").unwrap();
    let cache = cache.get_document_mut("cache").unwrap();
    cache.insert("maximum bytes configured", 4_294_967_296_i64);
    facts.files = Ok(files("zstd"));
    for finding in findings(&facts) {
        assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
    }
}

#[test]
fn a_cache_that_does_not_fit_into_the_memory_is_not_asked_for_alone() {
    let facts = Facts {
        host: Ok(host(4096)),
        ..facts()
    };
    let change = of(&facts, "wiredTiger cache").change.unwrap();
    assert!(
        change.starts_with("the host has 4.0 GiB of memory"),
        "{change}"
    );
}

#[test]
fn the_compressor_is_that_of_the_collection_or_of_new_ones() {
    let mut facts = facts();
    for (compressor, found) in [("snappy", "snappy (files)"), ("", "none (files)")] {
        facts.files = Ok(files(compressor));
        let finding = of(&facts, "block compressor");
        assert_eq!(
            (finding.verdict, finding.found.as_str()),
            (Verdict::Change, found)
        );
    }
    facts.files = Err("the user may not run collStats".to_owned());
    let storage = facts.options.as_mut().unwrap();
    let storage = storage.get_document_mut("parsed").unwrap();
    let storage = storage.get_document_mut("storage").unwrap();
    storage.insert(
        "wiredTiger",
        doc! {"collectionConfig": {"blockCompressor": "zstd"}},
    );
    assert_eq!(of(&facts, "block compressor").verdict, Verdict::Good);
}

#[test]
fn a_journal_that_is_off_is_to_change() {
    let mut facts = facts();
    let storage = facts.options.as_mut().unwrap();
    let storage = storage.get_document_mut("parsed").unwrap();
    let storage = storage.get_document_mut("storage").unwrap();
    storage.insert("journal", doc! {"enabled": false});
    assert_eq!(of(&facts, "journal").verdict, Verdict::Change);
}

/// As a server that only speaks MongoDB's protocol, and a user without `clusterMonitor`.
#[test]
fn a_missing_command_or_permission_is_a_finding_and_no_error() {
    let refused = || Err("the user may not run it".to_owned());
    let nothing = Facts {
        status: refused(),
        options: refused(),
        host: refused(),
        files: refused(),
    };
    let findings = findings(&nothing);
    assert_eq!(findings.len(), 4);
    for finding in findings {
        assert_eq!(finding.verdict, Verdict::Unread, "{finding:?}");
        assert_eq!(finding.found, "the user may not run it");
    }
    let stranger = Facts {
        status: Ok(doc! {"host": "h", "ok": 1}),
        ..facts()
    };
    let engine = of(&stranger, "storage engine");
    assert_eq!(engine.found, "serverStatus has no storageEngine.name");
    let router = Facts {
        status: Ok(doc! {"process": "mongos", "ok": 1}),
        ..facts()
    };
    let cache = of(&router, "wiredTiger cache");
    assert_eq!(cache.found, "this is a mongos: the shards have it");
}
