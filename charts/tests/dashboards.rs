//! The dashboards are generated from their descriptions.

use std::collections::BTreeSet;

use layra_charts::{dashboards, path};
use serde_json::Value;

#[test]
fn the_files_are_what_the_descriptions_give() {
    for dashboard in dashboards::all() {
        let fresh = dashboard.json().unwrap();
        let file = path(&dashboard.file());
        if std::env::var_os("UPDATE_DASHBOARDS").is_some() {
            std::fs::write(&file, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(&file).unwrap_or_default() == fresh,
            "{} is stale: run `UPDATE_DASHBOARDS=1 cargo test --workspace --test dashboards`",
            file.display()
        );
    }
}

/// What a person sees first: every panel has a title, and a sentence that says what it shows.
#[test]
fn panels_are_described_and_do_not_overlap() {
    for dashboard in dashboards::all() {
        let json: Value = serde_json::from_str(&dashboard.json().unwrap()).unwrap();
        let mut taken = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                assert!(x < 24, "{panel}");
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{} overlaps", panel["title"]);
                }
            }
            if panel["type"] != "row" {
                let description = panel["description"].as_str().unwrap();
                assert!(description.ends_with('.'), "{}", panel["title"]);
                assert!(!panel["targets"].as_array().unwrap().is_empty());
            }
        }
    }
}
