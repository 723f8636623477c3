//! Local files: whole or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use phronis_tests::mount::Mount;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("file://{}/a/b/c.bin", folder.path().display());
    let mut writer = Local.writer(&address).await.unwrap();
    writer.write(Bytes::from_static(b"hello ")).await.unwrap();
    assert!(!Local.exists(&address).await.unwrap(), "it is not there before it is whole");
    writer.write(Bytes::from_static(b"world")).await.unwrap();
    writer.close().await.unwrap();
    assert!(writer.close().await.is_err());
    assert_eq!(Local.read(&address).await.unwrap(), "hello world");
    assert_eq!(Local.metadata(&address).await.unwrap().size, 11);
    let reader = Local.reader(&address).await.unwrap();
    assert_eq!(reader.read(6..11).await.unwrap(), "world");
    assert!(reader.read(6..12).await.is_err(), "there is no more");
    assert_eq!(names(&folder.path().join("a/b")), ["c.bin"]);
    Local.delete(&address).await.unwrap();
    Local.delete(&address).await.unwrap();
    assert!(!Local.exists(&address).await.unwrap());
}

#[tokio::test]
async fn a_file_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("{}/a.bin", folder.path().display());
    Local.write(&address, Bytes::from_static(b"one")).await.unwrap();
    assert!(Local.write(&address, Bytes::from_static(b"two")).await.is_err());
    let mut writer = Local.writer(&address).await.unwrap();
    writer.write(Bytes::from_static(b"three")).await.unwrap();
    assert!(writer.close().await.is_err());
    drop(writer);
    assert_eq!(Local.read(&address).await.unwrap(), "one");
    assert_eq!(names(folder.path()), ["a.bin"], "what failed is gone");
}

#[tokio::test]
async fn a_file_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("file://{}/a.bin", folder.path().display());
    let mut writer = Local.writer(&address).await.unwrap();
    writer.write(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(names(folder.path()).len(), 1, "under a temporary name");
    drop(writer);
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    let Some(mount) = Mount::new("1m").unwrap() else { return };
    let address = format!("file://{}/a.bin", mount.path().display());
    let mut writer = Local.writer(&address).await.unwrap();
    let error = writer.write(Bytes::from(vec![7; 2 << 20])).await.unwrap_err();
    let error = crate::Error::of("writing", &address, error);
    assert!(matches!(error, crate::Error::StorageFull { .. }), "{error}");
    drop(writer);
    assert!(names(mount.path()).is_empty());
}
