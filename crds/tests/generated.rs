//! The checked-in CustomResourceDefinition is the one that the types give.

/// Client-side `kubectl apply` keeps the whole object in an annotation of at most 262,144 bytes.
#[test]
fn the_definition_leaves_room_for_client_side_apply() {
    let size = layra_crds::crd_yaml().expect("YAML").len();
    assert!(size < 160_000, "{size} bytes");
}

#[test]
fn the_generated_yaml_is_fresh() {
    let fresh = layra_crds::crd_yaml().expect("the definition is YAML");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in [
        "crds/ingestionpipeline.yaml",
        "charts/layra-crds/crd/ingestionpipeline.yaml",
    ] {
        let path = root.join(file);
        if std::env::var_os("UPDATE_CRD").is_some() {
            std::fs::write(&path, &fresh).expect("the file can be written");
        }
        let stored = std::fs::read_to_string(&path).expect("the file exists");
        assert!(
            stored == fresh,
            "{file} is stale: run `UPDATE_CRD=1 cargo test --workspace --test generated`"
        );
    }
}
