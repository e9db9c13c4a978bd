//! The images of the worker differ only in what `docs/formats.md` says.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use layra_testbed::settings::repository;

/// The instructions, without comments.
fn instructions(name: &str) -> Vec<String> {
    let file = std::fs::read_to_string(repository().join("worker").join(name)).unwrap();
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
