//! `kubectl layra cost`.

use super::*;

#[test]
fn cost_reads_a_pipeline_from_the_cluster_or_from_a_file() {
    let prices = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/prices.yaml");
    let prices = prices.to_str().unwrap();
    let server = ApiServer::start(Script {
        scaling: json!({
            "desiredReplicas": 1, "message": "",
            "learned": {
                "pagesPerSecond": 2.0, "pagesPerDocument": 10.0, "startupSeconds": 1.0,
                "longestWorkSeconds": 1.0,
            },
        }),
        ..Script::default()
    });
    let table = server.run(&format!("cost contracts --prices {prices}"));
    assert_eq!((table.code, table.notes.as_str()), (Some(0), ""));
    assert!(
        table
            .output
            .contains("status.scaling.learned.pagesPerSecond"),
        "{}",
        table.output
    );
    assert!(table.output.contains("missing"), "{}", table.output);

    let object = server.directory.path().join("pipeline.yaml");
    std::fs::write(&object, PIPELINE).unwrap();
    let object = object.to_str().unwrap();
    let printed = server.run(&format!(
        "cost --file {object} --prices {prices} -o json --kubeconfig /nowhere"
    ));
    assert_eq!((printed.code, printed.notes.as_str()), (Some(0), ""));
    let json: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(json["name"], "contracts");
    assert!(!json["missing"].as_array().unwrap().is_empty(), "{json}");
}

#[test]
fn cost_refuses_a_wrong_price_file_before_it_asks_the_cluster() {
    let server = ApiServer::start(Script::default());
    let file = server.directory.path().join("prices.yaml");
    std::fs::write(&file, "currency: USD\nstorage: {s3: -1}\n").unwrap();
    let file = file.to_str().unwrap();
    let printed = server.run(&format!(
        "cost contracts --prices {file} --kubeconfig /nowhere"
    ));
    let error =
        format!("error: --prices: {file}: storage.s3: found -1; expected a number of at least 0\n");
    assert_eq!(
        (printed.notes.as_str(), printed.code),
        (error.as_str(), Some(1))
    );
    let printed = server.run("cost");
    assert_eq!(printed.code, Some(2), "{printed:?}");
}
