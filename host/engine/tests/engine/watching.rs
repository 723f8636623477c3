//! What the watcher says of a folder that people and tools write to.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use phronis_core::code::{BAD_PLUGIN_PATH, COMPONENT_TOO_LARGE};
use phronis_engine::watch::{Change, Watcher, What};

const PATIENCE: Duration = Duration::from_secs(120);

struct Folder {
    root: tempfile::TempDir,
    changes: Receiver<Change>,
    _watcher: Watcher,
}

impl Folder {
    /// Watches `plugins` in a fresh folder, after `prepare` has put things there.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        prepare(&root.path().join("plugins"));
        let (sender, changes) = channel();
        let watcher = Watcher::start(root.path().join("plugins"), 1000, sender).unwrap();
        Self { root, changes, _watcher: watcher }
    }

    /// One with the folder of a stream, after the first look.
    fn ready() -> Self {
        let folder = Self::new(|plugins| fs::create_dir_all(plugins.join("acme/sensors")).unwrap());
        assert_eq!(folder.next(), Change::ScanDone);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("plugins").join(name)
    }

    fn next(&self) -> Change {
        self.changes.recv_timeout(PATIENCE).unwrap()
    }

    #[track_caller]
    fn expect_component(&self, name: &str, wanted: &[u8]) {
        match self.next() {
            Change::Component { id, bytes, .. } => assert_eq!((id.to_string().as_str(), &bytes[..]), (name, wanted)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_that_are_there_are_reported_settings_first_and_then_the_scan_is_done() {
    let folder = Folder::new(|plugins| {
        fs::create_dir_all(plugins.join("acme/sensors")).unwrap();
        for name in ["a.wasm", "a.toml", ".hidden.wasm", "a.wasm~", "README.md"] {
            let path = plugins.join("acme/sensors").join(name);
            fs::write(&path, name).unwrap();
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
            fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        }
    });
    let Change::Settings { id, text, .. } = folder.next() else { panic!() };
    assert_eq!((id.to_string().as_str(), text.as_str()), ("acme/sensors/a", "a.toml"));
    folder.expect_component("acme/sensors/a", b"a.wasm");
    assert_eq!(folder.next(), Change::ScanDone);
}

#[test]
fn a_written_overwritten_and_renamed_file_is_reported_once_each() {
    let folder = Folder::ready();
    fs::write(folder.path("acme/sensors/a.wasm"), "one").unwrap();
    folder.expect_component("acme/sensors/a", b"one");
    fs::write(folder.path("acme/sensors/a.wasm"), "one").unwrap();
    fs::write(folder.path("acme/sensors/a.wasm"), "two").unwrap();
    folder.expect_component("acme/sensors/a", b"two");
    fs::write(folder.path("acme/sensors/.a.tmp"), "three").unwrap();
    fs::rename(folder.path("acme/sensors/.a.tmp"), folder.path("acme/sensors/a.wasm")).unwrap();
    folder.expect_component("acme/sensors/a", b"three");
}

#[test]
fn a_half_written_file_is_never_loaded() {
    let folder = Folder::ready();
    let mut file = fs::File::create(folder.path("acme/sensors/a.wasm")).unwrap();
    file.write_all(b"half").unwrap();
    // Longer than two looks of the net.
    assert!(folder.changes.recv_timeout(Duration::from_secs(12)).is_err());
    file.write_all(b" and half").unwrap();
    drop(file);
    folder.expect_component("acme/sensors/a", b"half and half");
}

#[test]
fn a_deletion_counts_after_its_grace_and_a_replacement_is_none() {
    let folder = Folder::ready();
    let path = folder.path("acme/sensors/a.wasm");
    fs::write(&path, "one").unwrap();
    folder.expect_component("acme/sensors/a", b"one");
    let mut replaced = b"one".to_vec();
    loop {
        let begun = Instant::now();
        fs::remove_file(&path).unwrap();
        replaced.push(b'!');
        fs::write(&path, &replaced).unwrap();
        // Where the machine stood still in between, there was a deletion: once more.
        let is_proof = begun.elapsed() < Duration::from_millis(500);
        match folder.next() {
            Change::Removed { .. } if !is_proof => folder.expect_component("acme/sensors/a", &replaced),
            Change::Component { bytes, .. } if bytes == replaced && is_proof => break,
            Change::Component { bytes, .. } if bytes == replaced => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(folder.changes.recv_timeout(Duration::from_secs(3)).is_err());
    fs::remove_file(&path).unwrap();
    assert_eq!(folder.next(), Change::Removed { id: "acme/sensors/a".parse().unwrap(), what: What::Component });
}

#[test]
fn folders_that_come_later_or_are_made_anew_are_watched() {
    let folder = Folder::new(|_| {});
    assert_eq!(folder.next(), Change::ScanDone);
    fs::create_dir_all(folder.path("acme/sensors")).unwrap();
    fs::write(folder.path("acme/sensors/a.wasm"), "one").unwrap();
    folder.expect_component("acme/sensors/a", b"one");
    fs::remove_dir_all(folder.path("")).unwrap();
    assert!(matches!(folder.next(), Change::Removed { .. }));
    fs::create_dir_all(folder.path("acme/sensors")).unwrap();
    fs::write(folder.path("acme/sensors/b.wasm"), "two").unwrap();
    folder.expect_component("acme/sensors/b", b"two");
}

#[test]
fn symlinks_and_files_that_are_too_large_are_refused() {
    let folder = Folder::ready();
    let outside = folder.root.path().join("outside.wasm");
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, folder.path("acme/sensors/a.wasm")).unwrap();
    let Change::Refused { refusal, .. } = folder.next() else { panic!() };
    assert_eq!(refusal.code, BAD_PLUGIN_PATH);
    fs::write(folder.path("acme/sensors/b.wasm"), vec![0; 1001]).unwrap();
    let Change::Refused { refusal, .. } = folder.next() else { panic!() };
    assert_eq!(refusal.code, COMPONENT_TOO_LARGE);
}

#[test]
fn a_file_in_the_wrong_place_or_with_a_bad_name_is_said_once() {
    let folder = Folder::ready();
    for path in ["stray.wasm", "acme/sensors/Bad_Name.wasm"] {
        fs::write(folder.path(path), "x").unwrap();
        let Change::BadPath { path: said, .. } = folder.next() else { panic!() };
        assert_eq!(said, folder.path(path));
    }
    assert!(folder.changes.recv_timeout(Duration::from_secs(7)).is_err());
}
