//! The checked-in CustomResourceDefinition is the one that the types give.

#[test]
fn the_generated_yaml_is_fresh() {
    let fresh = layra_crds::crd_yaml().expect("the definition is YAML");
    for (file, stored) in [
        (
            "crds/ingestionpipeline.yaml",
            include_str!("../ingestionpipeline.yaml"),
        ),
        (
            "charts/layra-operator/crd/ingestionpipeline.yaml",
            include_str!("../../charts/layra-operator/crd/ingestionpipeline.yaml"),
        ),
    ] {
        assert!(
            stored == fresh,
            "{file} is stale: run `cargo run -p layra-operator -- crd | tee crds/ingestionpipeline.yaml > charts/layra-operator/crd/ingestionpipeline.yaml`"
        );
    }
}
