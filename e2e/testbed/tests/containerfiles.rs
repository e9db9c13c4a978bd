//! The images of the worker differ only in what `docs/formats.md` says.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use layra_testbed::settings::repository;

/// The instructions, without comments.
fn instructions(name: &str) -> Vec<String> {
    instructions_of("worker", name)
}

fn instructions_of(folder: &str, name: &str) -> Vec<String> {
    let file = std::fs::read_to_string(repository().join(folder).join(name)).unwrap();
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_slim_image_lacks_only_the_fonts_of_noto() {
    let mut default = instructions("Containerfile");
    default.retain(|line| !line.starts_with("COPY fonts-noto "));
    assert_eq!(instructions("Containerfile.slim"), default);
}

#[test]
fn every_image_has_the_same_fonts_but_the_slim_one() {
    for (name, has_noto) in [
        ("Containerfile", true),
        ("Containerfile.cuda", true),
        ("Containerfile.office", true),
        ("Containerfile.slim", false),
    ] {
        let has = |line: &str| instructions(name).iter().any(|found| found == line);
        assert!(has("COPY fonts /usr/share/fonts/truetype"), "{name}");
        assert_eq!(
            has("COPY fonts-noto /usr/share/fonts/noto"),
            has_noto,
            "{name}"
        );
    }
}

#[test]
fn every_image_has_labels_licences_and_a_bill_of_materials() {
    let version = env!("CARGO_PKG_VERSION");
    let label = format!("org.opencontainers.image.version=\"{version}\" \\");
    for (folder, name, from) in [
        ("operator", "Containerfile", "layra-operator"),
        ("worker", "Containerfile", "layra-worker"),
        ("worker", "Containerfile.slim", "layra-worker"),
        ("worker", "Containerfile.office", "layra-worker"),
        ("worker", "Containerfile.cuda", "layra-worker-cuda"),
    ] {
        let instructions = instructions_of(folder, name);
        let has = |line: &str| instructions.iter().any(|found| found.trim() == line);
        assert!(has(&label), "{name}");
        assert!(
            has("org.opencontainers.image.base.name=\"${BASE}\""),
            "{name}"
        );
        let doc = format!("COPY doc/{from} /usr/share/doc/layra-{folder}");
        assert!(has(&doc), "{name}");
        if folder == "worker" {
            assert!(has("COPY doc/pdfium /usr/share/doc/pdfium"), "{name}");
            assert!(has("COPY doc/fonts /usr/share/doc/fonts"), "{name}");
        }
    }
}
