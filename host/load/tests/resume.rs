//! The note about an interrupted load, on disk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is wrong"
)]

use std::{fs, path::Path, time::Duration};

use phronis_load::Resume;

#[test]
fn progress_is_found_again_for_the_same_file_only() {
    let folder = tempfile::tempdir().unwrap();
    let (input, notes) = (folder.path().join("a.csv"), folder.path().join("data/load"));
    fs::write(&input, "value\n1\n2\n").unwrap();
    let note = Resume::path(&notes, &input, "sensors").unwrap();
    let start = || Resume::start(&input).unwrap().unwrap();
    assert_eq!(start().load(&note).unwrap(), None);

    let mut progress = start();
    progress.rows = 2;
    progress.save(&note).unwrap();
    progress.save(&note).unwrap();
    assert_eq!(start().load(&note).unwrap(), Some(progress));
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 1, "no drafts are left");

    let modified = fs::metadata(&input).unwrap().modified().unwrap();
    let change = |content: &str, age: Duration| {
        fs::write(&input, content).unwrap();
        fs::File::options().write(true).open(&input).unwrap().set_modified(modified - age).unwrap();
        start().load(&note).unwrap().is_some()
    };
    assert!(change("value\n1\n2\n", Duration::ZERO), "the same again");
    assert!(!change("value\n1\n3\n", Duration::ZERO), "another content");
    assert!(!change("value\n1\n2\n3\n", Duration::ZERO), "another size");
    assert!(!change("value\n1\n2\n", Duration::from_secs(1)), "another age");

    fs::write(&note, "{ half a note").unwrap();
    assert_eq!(start().load(&note).unwrap(), None);
    Resume::forget(&note).unwrap();
    Resume::forget(&note).unwrap();
    assert!(!note.exists());
}

#[test]
fn each_stream_and_file_has_its_own_note_and_a_pipe_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&one, "").unwrap();
    fs::write(&two, "").unwrap();
    let path = |input, stream| Resume::path(folder.path(), input, stream).unwrap();
    assert_ne!(path(&one, "sensors"), path(&two, "sensors"));
    assert_ne!(path(&one, "sensors"), path(&one, "agents"));
    assert_eq!(Resume::start(Path::new("-")).unwrap(), None);
}
