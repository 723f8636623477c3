//! The store on SQLite: the suite, and what only a file can suffer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use phronis_core::Time;
use phronis_store::audit::{Entry, Filter};
use phronis_store::conformance::{CASES, Hosts};
use phronis_store::{Error, Options, Store};
use phronis_tests::mount::Mount;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tempfile::TempDir;

fn entry(id: &str) -> Entry {
    Entry {
        id: id.to_owned(),
        at: Time(1),
        actor: "ops".to_owned(),
        action: "test".to_owned(),
        subject: "x".to_owned(),
        tenant: None,
        reason: None,
        facts: serde_json::json!({ "text": "x".repeat(2000) }),
    }
}

fn room() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/store.sqlite");
    (folder, path)
}

async fn open(path: &Path) -> Result<Store, Error> {
    Store::open(&Options::Sqlite(path.to_owned())).await
}

async fn by_hand(path: &Path, sql: &'static str) {
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_must_do() {
    for (name, case) in CASES {
        let (_folder, path) = room();
        println!("{name}");
        case(Hosts { one: open(&path).await.unwrap(), other: open(&path).await.unwrap() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_belongs_to_the_operator_alone() {
    let (_folder, path) = room();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = open(&path).await.unwrap();
    store.append_audit(&[entry("e")]).await.unwrap();
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_is_synced() {
    let (_folder, path) = room();
    let store = open(&path).await.unwrap();
    assert_eq!(store.pragma("journal_mode").await, "wal");
    assert_eq!(store.pragma("synchronous").await, "2", "FULL");
    assert_eq!(store.pragma("foreign_keys").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_open_an_empty_folder_at_once_all_get_a_store() {
    let (_folder, path) = room();
    let mut openers = tokio::task::JoinSet::new();
    for opener in 0..8 {
        let path = path.clone();
        openers.spawn(async move {
            let store = open(&path).await.unwrap();
            store.append_audit(&[entry(&opener.to_string())]).await.unwrap();
        });
    }
    openers.join_all().await;
    let all = open(&path).await.unwrap().audit(&Filter::default(), 100, None).await.unwrap();
    assert_eq!(all.items.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_made_is_refused_untouched() {
    let (_folder, path) = room();
    drop(open(&path).await.unwrap());
    by_hand(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', TRUE, x'00', 0)",
    )
    .await;
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error}");
    assert_eq!(error.code().to_string(), "PH5003");
    assert!(error.to_string().contains("newer version of Phronis"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_another_program_is_refused_untouched() {
    let (_folder, path) = room();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    by_hand(&path, "CREATE TABLE theirs (x)").await;
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_told_at_the_start() {
    let (_folder, path) = room();
    let store = open(&path).await.unwrap();
    let entries: Vec<Entry> = (0..200).map(|number| entry(&number.to_string())).collect();
    store.append_audit(&entries).await.unwrap();
    store.close().await;
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 200_000, "everything is in the file");

    let mut middle = whole.clone();
    let at = middle.len() / 2;
    middle[at..at + 4096 * 4].fill(0xa5);
    let garbage = vec![0x42; 8192];
    let cut = whole[..whole.len() / 3].to_vec();
    for (what, bytes) in [("middle", middle), ("garbage", garbage), ("cut", cut)] {
        std::fs::write(&path, bytes).unwrap();
        for beside in ["-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{beside}", path.display())));
        }
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
        assert_eq!(error.code().to_string(), "PH5004");
        assert!(error.to_string().contains("store.sqlite"), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = open(&file.join("store.sqlite")).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("store.sqlite"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_when_there_is_room_it_goes_on() {
    let Some(mount) = Mount::new("4m").unwrap() else {
        println!("skipped: mounting a small file system needs root");
        return;
    };
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let path = mount.path().join("store.sqlite");
    let store = open(&path).await.unwrap();
    let mut stored = Vec::new();
    let error = loop {
        let id = stored.len().to_string();
        match store.append_audit(&[entry(&id)]).await {
            Ok(()) => stored.push(id),
            Err(error) => break error,
        }
        assert!(stored.len() < 4000, "it never fills");
    };
    assert!(matches!(error, Error::Full { .. }) && error.is_retriable(), "{error:?}");
    assert_eq!(error.code().to_string(), "PH5005");
    assert!(store.health().is_err());
    std::fs::remove_file(&ballast).unwrap();
    store.append_audit(&[entry("last")]).await.unwrap();
    assert!(store.health().is_ok());
    stored.push("last".to_owned());
    stored.reverse();
    let all = store.audit(&Filter::default(), 10_000, None).await.unwrap();
    assert_eq!(all.items.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), stored);
}

#[test]
fn threads_that_are_no_workers_wait_for_it() {
    let (_folder, path) = room();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = runtime.block_on(open(&path)).unwrap();
    let worker = std::thread::spawn(move || {
        store.wait(store.append_audit(&[entry("e")])).unwrap();
        store.wait(store.audit(&Filter::default(), 10, None)).unwrap().items.len()
    });
    assert_eq!(worker.join().unwrap(), 1);
}
