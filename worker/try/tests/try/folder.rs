//! Files that are there, come, change and go; and a program that is killed.

use crate::common::{Scene, eventually};

const BREAD: &str = "Knead the dough for ten minutes and bake the bread in a hot oven.";
const ENGINE: &str = "Change the engine oil of the car every ten thousand kilometres.";
const GARDEN: &str = "Water the tomato plants in the garden early in the morning.";

#[test]
fn a_question_finds_the_page_that_answers_it() {
    let scene = Scene::new();
    scene.write("manuals/car.pdf", &[GARDEN, ENGINE]);
    scene.write("recipes.pdf", &[BREAD]);
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fieldfiles/files");
    for name in ["rotate.pdf", "truncated.pdf", "user-password-aes256.pdf"] {
        let to = scene.documents().join(name);
        std::fs::copy(format!("{repository}/{name}"), to).unwrap();
    }
    std::fs::write(scene.documents().join("notes.txt"), "no document").unwrap();
    let text = scene.ask("How often does a motor need a new lubricant?");
    let first = text.lines().find(|line| line.starts_with("  1. ")).unwrap();
    assert!(first.ends_with("manuals/car.pdf, page 2"), "{text}");
    assert!(text.contains("engine oil"), "a snippet: {text}");
    assert_eq!(scene.first("How do I make a loaf?"), "recipes.pdf, page 1");
}

#[test]
fn files_that_come_change_and_go_are_picked_up() {
    let scene = Scene::new();
    scene.write("a.pdf", &[BREAD]);
    assert_eq!(scene.first("baking"), "a.pdf, page 1");
    // Between two runs.
    scene.write("a.pdf", &[ENGINE, BREAD]);
    scene.write("b.pdf", &[GARDEN]);
    assert_eq!(scene.first("baking"), "a.pdf, page 2");
    assert_eq!(scene.first("vegetables"), "b.pdf, page 1");
    // And while it runs.
    let server = scene.serve();
    server.until_pages(3);
    scene.write("c.pdf", &[GARDEN, ENGINE]);
    server.until_pages(5);
    std::fs::remove_file(scene.documents().join("b.pdf")).unwrap();
    server.until_pages(4);
    scene.write("c.pdf", &["The moon orbits the earth in four weeks."]);
    eventually("the changed file", || {
        server.search("astronomy")["pages"][0]["file"] == "c.pdf"
    });
    server.until_pages(3);
}

#[test]
fn a_killed_program_continues_and_has_nothing_twice() {
    let scene = Scene::new();
    let pages: Vec<String> = (0..60)
        .map(|page| format!("{BREAD} Recipe {page}."))
        .collect();
    let pages: Vec<&str> = pages.iter().map(String::as_str).collect();
    scene.write("long.pdf", &pages);
    scene.write("other.pdf", &[ENGINE]);
    let mut before = 0;
    for _ in 0..3 {
        let server = scene.serve();
        eventually("some more pages", || {
            server.pages().0 > before || server.pages().0 == 61
        });
        before = server.pages().0;
        // Killed here.
        drop(server);
    }
    let server = scene.serve();
    assert!(server.pages().0 >= before, "committed pages stay");
    server.until_pages(61);
    let answer = server
        .post(r#"{"question": "Recipe 17", "top": 50}"#)
        .json();
    let mut found: Vec<String> = answer["pages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| format!("{} {}", page["file"], page["page"]))
        .collect();
    assert_eq!(answer["compared"], 61);
    found.sort();
    let count = found.len();
    found.dedup();
    assert_eq!(found.len(), count, "no page twice");
}
