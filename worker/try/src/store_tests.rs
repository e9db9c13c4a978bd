//! A process that is killed at any time leaves whole pages, and none twice.

use super::*;
use proptest::prelude::*;

const WIDTH: usize = 2;

fn stamp() -> Stamp {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a"), "x").unwrap();
    crate::folder::scan(root.path()).unwrap()["a"]
}

fn page(file: u64, page: u32, rows: usize) -> NewPage {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let value = file as f32 * 16.0 + page as f32;
    NewPage {
        file,
        page,
        text: format!("page {page} of {file}"),
        words: Vec::new(),
        picture: vec![7; 3],
        size: (3, 4),
        grid: None,
        vectors: MultiVector::new(WIDTH, vec![value; rows * WIDTH]),
    }
}

/// What is searchable: file, page and the first value.
fn content(store: &Store) -> Vec<(u64, u32, f32)> {
    let (pages, values) = store.searchable();
    let found = pages.iter().map(|page| {
        let vectors = page.vectors(&values);
        assert!(vectors.iter().all(|value| *value == vectors[0]));
        let record = store.page(page.file, page.page).unwrap().unwrap();
        assert_eq!(record.text, format!("page {} of {}", page.page, page.file));
        assert_eq!(
            store.picture(page.file, page.page).unwrap(),
            Some(vec![7; 3])
        );
        (page.file, page.page, vectors[0].to_f32())
    });
    found.collect()
}

#[test]
fn pages_are_there_after_a_restart_and_a_torn_write_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), "m").unwrap();
    let file = store.begin("a.pdf", stamp()).unwrap().id;
    store
        .add(vec![page(file, 0, 2), page(file, 1, 3)], &[])
        .unwrap();
    let before = content(&store);
    // As a process that is killed before the index's transaction leaves it.
    store
        .vectors
        .append(store.catalogue().end, &[f16::ONE; 5])
        .unwrap();
    drop(store);
    let store = Store::open(folder.path(), "m").unwrap();
    assert_eq!(content(&store), before);
    assert_eq!(store.files()["a.pdf"].state, State::Begun);
    // The page is offered again, and its neighbour for the first time.
    let done = State::Done {
        pages: 3,
        skipped: 0,
    };
    let ended = [("a.pdf".to_owned(), file, done.clone())];
    store
        .add(vec![page(file, 1, 3), page(file, 2, 1)], &ended)
        .unwrap();
    assert_eq!(store.pages_of(file), BTreeSet::from([0, 1, 2]));
    assert_eq!(content(&store).len(), 3);
    assert_eq!(store.files()["a.pdf"].state, done);
}

#[test]
fn pages_of_a_file_that_changed_meanwhile_are_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), "m").unwrap();
    let old = store.begin("a.pdf", stamp()).unwrap().id;
    let new = store.begin("a.pdf", stamp()).unwrap().id;
    let ended = [(
        "a.pdf".to_owned(),
        old,
        State::Done {
            pages: 1,
            skipped: 0,
        },
    )];
    store
        .add(vec![page(old, 0, 1), page(new, 0, 1)], &ended)
        .unwrap();
    assert_eq!(content(&store).len(), 1);
    assert_eq!(store.files()["a.pdf"].state, State::Begun);
}

#[test]
fn vectors_of_two_models_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), "one").unwrap());
    let error = Store::open(folder.path(), "two").err().unwrap();
    assert!(error.to_string().contains("another model (one)"), "{error}");
}

#[test]
fn two_processes_do_not_share_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let _open = Store::open(folder.path(), "m").unwrap();
    let error = Store::open(folder.path(), "m").err().unwrap();
    assert!(error.to_string().contains("another `cargo try`"), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    Remove(u8),
    Add(u8, u32, usize),
    /// The process is killed and started again.
    Restart,
    /// The same, with values that no transaction followed.
    TornRestart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8).prop_map(Step::Begin),
        (0..3_u8).prop_map(Step::Remove),
        (0..3_u8, 0..4_u32, 1..5_usize).prop_map(|(file, page, rows)| Step::Add(file, page, rows)),
        (0..3_u8, 0..4_u32, 1..5_usize).prop_map(|(file, page, rows)| Step::Add(file, page, rows)),
        Just(Step::Restart),
        Just(Step::TornRestart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_store_is_what_was_committed(steps in proptest::collection::vec(step(), 0..24)) {
        let folder = tempfile::tempdir().unwrap();
        let stamp = stamp();
        let mut store = Store::open(folder.path(), "m").unwrap();
        let mut expected: BTreeMap<(u64, u32), f32> = BTreeMap::new();
        for step in steps {
            let id = |file: u8| store.files().get(&file.to_string()).map(|file| file.id);
            match step {
                Step::Begin(file) => {
                    let old = id(file);
                    store.begin(&file.to_string(), stamp).unwrap();
                    expected.retain(|(file, _), _| Some(*file) != old);
                }
                Step::Remove(file) => {
                    let old = id(file);
                    store.remove(&file.to_string()).unwrap();
                    expected.retain(|(file, _), _| Some(*file) != old);
                }
                Step::Add(file, number, rows) => {
                    let Some(id) = id(file) else { continue };
                    store.add(vec![page(id, number, rows)], &[]).unwrap();
                    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                    expected.insert((id, number), id as f32 * 16.0 + number as f32);
                }
                Step::Restart | Step::TornRestart => {
                    if matches!(step, Step::TornRestart) {
                        let end = store.catalogue().end;
                        store.vectors.append(end, &[f16::ONE; 3]).unwrap();
                    }
                    drop(store);
                    store = Store::open(folder.path(), "m").unwrap();
                }
            }
            let expected = expected.iter().map(|((file, page), value)| (*file, *page, *value));
            prop_assert_eq!(content(&store), expected.collect::<Vec<_>>());
        }
    }
}
