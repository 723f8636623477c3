//! What every catalog must do on every storage, with real ones of each: SQLite or Iceberg's own REST server, a folder or S3.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Literal, NestedField, PrimitiveType, SnapshotReference,
    SnapshotRetention, Struct, Transform, Type,
};
use phronis_store::{Options, Store};
use phronis_tests::{rest, s3};
use tempfile::TempDir;

use super::*;
use crate::testing::put_ahead;
use crate::{Archive, CatalogSettings, Settings, snapshot};

/// The store as the pipeline shows it.
#[derive(Debug)]
pub(crate) struct Rows(pub Store);

fn told(error: phronis_store::Error) -> PointerError {
    PointerError { reason: error.to_string(), is_refused: false }
}

#[async_trait]
impl Pointers for Rows {
    async fn list(&self, catalog: &str, namespace: &str) -> Result<Vec<String>, PointerError> {
        self.0.iceberg_tables(catalog, namespace).await.map_err(told)
    }
    async fn get(&self, catalog: &str, namespace: &str, table: &str) -> Result<Option<String>, PointerError> {
        self.0.iceberg_table(catalog, namespace, table).await.map_err(told)
    }
    async fn create(&self, catalog: &str, namespace: &str, table: &str, to: &str) -> Result<bool, PointerError> {
        self.0.create_iceberg_table(catalog, namespace, table, to).await.map_err(told)
    }
    async fn swap(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, PointerError> {
        self.0.swap_iceberg_table(catalog, namespace, table, from, to).await.map_err(told)
    }
}

/// Settings of a SQL catalog on a warehouse.
pub(crate) fn sql(warehouse: String, storage: BTreeMap<String, String>) -> Settings {
    let catalog = CatalogSettings::Sql { name: "phronis".to_owned() };
    Settings { namespace: "phronis".to_owned(), catalog, warehouse, storage }
}

/// An archive as a process opens it: the store is `folder/store.sqlite`.
pub(crate) async fn open(folder: &TempDir, settings: &Settings) -> Archive {
    let store = Store::open(&Options::Sqlite(folder.path().join("store.sqlite"))).await.unwrap();
    Archive::open(settings, Some(Arc::new(Rows(store)))).await.unwrap()
}

fn new_table() -> NewTable {
    let column = |id, name: &str, kind| Arc::new(NestedField::optional(id, name, Type::Primitive(kind)));
    let schema = Schema::builder()
        .with_fields([column(1, "id", PrimitiveType::Long), column(2, "at", PrimitiveType::Timestamptz)])
        .build()
        .unwrap();
    let partition = UnboundPartitionSpec::builder().add_partition_field(2, "at_day", Transform::Day).unwrap().build();
    let properties = HashMap::from([("phronis.progress".to_owned(), "{}".to_owned())]);
    NewTable { schema, partition, order: SortOrder::unsorted_order(), properties }
}

fn file(table: &Table, name: &str, rows: u64) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("{}/data/{name}", table.metadata().location()))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([Some(Literal::int(20_000))]))
        .partition_spec_id(table.metadata().default_partition_spec_id())
        .record_count(rows)
        .file_size_in_bytes(rows * 10)
        .build()
        .unwrap()
}

async fn append(archive: &Archive, base: &Table, name: &str, rows: u64) -> Result<Table, CommitError> {
    let change = snapshot::append(archive, base, vec![file(base, name, rows)], HashMap::new()).await.unwrap();
    archive.catalog().commit(base, change.updates, change.requirements).await
}

/// Names of files that are alive, and how many manifests name them.
async fn alive(table: &Table) -> (Vec<String>, usize) {
    let manifests = snapshot::current_manifests(table).await.unwrap();
    let mut names = Vec::new();
    for manifest in &manifests {
        let entries = snapshot::load_manifest(table, manifest).await.unwrap();
        names.extend(entries.alive().map(|entry| entry.file_path().rsplit('/').next().unwrap().to_owned()));
    }
    names.sort();
    (names, manifests.len())
}

fn total(table: &Table, key: &str) -> String {
    table.metadata().current_snapshot().unwrap().summary().additional_properties[key].clone()
}

/// Two processes on one archive.
async fn suite(one: &Archive, other: &Archive) {
    let name = "acme_sensors_events";
    assert!(one.catalog().load(name).await.unwrap().is_none());
    assert_eq!(one.catalog().list().await.unwrap(), [""; 0]);
    let (made, same) = tokio::join!(one.catalog().create(name, new_table()), other.catalog().create(name, new_table()));
    let (base, same) = (made.unwrap(), same.unwrap());
    assert_eq!(base.metadata().uuid(), same.metadata().uuid(), "who loses the race gets the winner's");
    assert_eq!(other.catalog().list().await.unwrap(), [name]);

    // Of two who commit to the same state one wins; the other tries again and both are there.
    let (left, right) = tokio::join!(append(one, &base, "l", 10), append(other, &base, "r", 5));
    let (won, lost, again) = match (left, right) {
        (Ok(won), Err(lost)) => (won, lost, ("r", 5)),
        (Err(lost), Ok(won)) => (won, lost, ("l", 10)),
        both => panic!("one of two wins: {both:?}"),
    };
    assert!(matches!(lost, CommitError::Conflict), "{lost}");
    let now = one.catalog().load(name).await.unwrap().unwrap();
    assert_eq!(now.metadata_location(), won.metadata_location());
    let both = append(one, &now, again.0, again.1).await.unwrap();
    assert_eq!(alive(&both).await, (vec!["l".to_owned(), "r".to_owned()], 2));
    assert_eq!((total(&both, "total-records"), total(&both, "total-data-files")), ("15".into(), "2".into()));

    retention(one, &both).await;
    rewrites(one, other, name).await;
    ahead(one, name).await;
}

/// A table whose newest snapshot is of the future takes changes that are dated by a clock.
async fn ahead(archive: &Archive, name: &str) {
    put_ahead(archive, name, Duration::from_secs(3600)).await;
    let base = archive.catalog().load(name).await.unwrap().unwrap();
    let oldest = base.metadata().snapshots().min_by_key(|snapshot| snapshot.sequence_number()).unwrap().snapshot_id();
    let updates = vec![TableUpdate::RemoveSnapshots { snapshot_ids: vec![oldest] }];
    snapshot::commit_metadata(archive, &base, updates, Vec::new()).await.unwrap();
    let now = archive.catalog().load(name).await.unwrap().unwrap();
    assert!(now.metadata().snapshot_by_id(oldest).is_none());
    assert_eq!(alive(&now).await.0, ["x", "y", "z"]);
}

/// How long snapshots are kept is what was set, also after a commit.
async fn retention(archive: &Archive, base: &Table) {
    let kept = SnapshotRetention::branch(Some(7), Some(86_400_000), None);
    let id = base.metadata().current_snapshot_id().unwrap();
    let set = TableUpdate::SetSnapshotRef {
        ref_name: "main".to_owned(),
        reference: SnapshotReference::new(id, kept.clone()),
    };
    let uuid = TableRequirement::UuidMatch { uuid: base.metadata().uuid() };
    let set = archive.catalog().commit(base, vec![set], vec![uuid]).await.unwrap();
    let after = append(archive, &set, "x", 1).await.unwrap();
    let loaded = archive.catalog().load(after.identifier().name()).await.unwrap().unwrap();
    assert_eq!(snapshot::references(&loaded).unwrap()["main"].retention, kept);
    assert_eq!(loaded.metadata().properties()["phronis.progress"], "{}");
}

/// Files and manifests are replaced by others with the same rows.
async fn rewrites(one: &Archive, other: &Archive, name: &str) {
    let base = one.catalog().load(name).await.unwrap().unwrap();
    let path = |name: &str| format!("{}/data/{name}", base.metadata().location());
    let gone: HashSet<String> = [path("l"), path("nowhere")].into();
    let none = snapshot::replace(one, &base, &gone, vec![file(&base, "y", 10)], HashMap::new()).await.unwrap();
    assert!(none.is_none(), "a file is not there");
    let small: HashSet<String> = [path("l"), path("r")].into();
    let change =
        snapshot::replace(one, &base, &small, vec![file(&base, "y", 15)], HashMap::new()).await.unwrap().unwrap();
    let replaced = one.catalog().commit(&base, change.updates, change.requirements).await.unwrap();
    assert_eq!(alive(&replaced).await.0, ["x", "y"]);
    assert_eq!((total(&replaced, "total-records"), total(&replaced, "total-data-files")), ("16".into(), "2".into()));
    assert_eq!(replaced.metadata().current_snapshot().unwrap().summary().operation.as_str(), "replace");

    let grown = append(other, &replaced, "z", 1).await.unwrap();
    let manifests = snapshot::current_manifests(&grown).await.unwrap();
    let paths: Vec<String> = manifests.iter().map(|manifest| manifest.manifest_path.clone()).collect();
    let change = snapshot::merge(one, &grown, std::slice::from_ref(&paths), HashMap::new()).await.unwrap().unwrap();
    let merged = one.catalog().commit(&grown, change.updates, change.requirements).await.unwrap();
    assert_eq!(alive(&merged).await, (vec!["x".to_owned(), "y".to_owned(), "z".to_owned()], 1));
    assert_eq!(total(&merged, "total-records"), "17");
    assert!(snapshot::merge(one, &merged, &[paths], HashMap::new()).await.unwrap().is_none(), "they are gone");

    // The past is as it was.
    let first = merged.metadata().snapshots().min_by_key(|snapshot| snapshot.sequence_number()).unwrap();
    assert_eq!(merged.manifest_list_reader(first).load().await.unwrap().entries().len(), 1);
    let times: Vec<i64> = merged.metadata().history().iter().map(|entry| entry.timestamp_ms).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "times rise: {times:?}");
}

fn local() -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = format!("file://{}/warehouse", folder.path().display());
    (folder, sql(warehouse, BTreeMap::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sql_catalog_on_a_local_folder_does_what_every_catalog_must() {
    let (folder, settings) = local();
    suite(&open(&folder, &settings).await, &open(&folder, &settings).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sql_catalog_on_s3_does_what_every_catalog_must() {
    let server = s3::Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = sql(format!("s3://{}/warehouse", s3::BUCKET), server.settings());
    suite(&open(&folder, &settings).await, &open(&folder, &settings).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_catalog_does_what_every_catalog_must() {
    let server = rest::Server::start().unwrap();
    let settings = rest_settings(&server, format!("file://{}", server.warehouse().display()));
    let open = || Archive::open(&settings, None);
    suite(&open().await.unwrap(), &open().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_catalog_may_choose_where_tables_are() {
    let server = rest::Server::start().unwrap();
    let archive = Archive::open(&rest_settings(&server, String::new()), None).await.unwrap();
    let base = archive.catalog().create("acme_sensors_events", new_table()).await.unwrap();
    let now = append(&archive, &base, "a", 1).await.unwrap();
    assert_eq!(alive(&now).await.0, ["a"]);
}

fn rest_settings(server: &rest::Server, warehouse: String) -> Settings {
    let catalog = CatalogSettings::Rest {
        uri: server.uri(),
        warehouse: None,
        token: None,
        credential: None,
        properties: BTreeMap::new(),
    };
    Settings { namespace: "phronis".to_owned(), catalog, warehouse, storage: BTreeMap::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn java_reads_and_writes_the_tables_of_our_sql_catalog() {
    let (folder, mut settings) = local();
    // The server's own name for its catalog.
    settings.catalog = CatalogSettings::Sql { name: rest::CATALOG.to_owned() };
    let ours = open(&folder, &settings).await;
    let base = ours.catalog().create("acme_sensors_events", new_table()).await.unwrap();
    let base = append(&ours, &base, "a", 1).await.unwrap();

    let server = rest::Server::over(&folder.path().join("store.sqlite")).unwrap();
    let java = Archive::open(&rest_settings(&server, String::new()), None).await.unwrap();
    assert_eq!(java.catalog().list().await.unwrap(), ["acme_sensors_events"]);
    let theirs = java.catalog().load("acme_sensors_events").await.unwrap().unwrap();
    assert_eq!(theirs.metadata_location(), base.metadata_location());
    let theirs = append(&java, &theirs, "b", 2).await.unwrap();
    assert!(matches!(append(&ours, &base, "c", 3).await, Err(CommitError::Conflict)), "Java's commit is seen");
    let now = ours.catalog().load("acme_sensors_events").await.unwrap().unwrap();
    assert_eq!(now.metadata_location(), theirs.metadata_location());
    let now = append(&ours, &now, "c", 3).await.unwrap();
    assert_eq!(alive(&now).await.0, ["a", "b", "c"]);
    assert_eq!(total(&now, "total-records"), "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_when_the_archive_is_opened() {
    let mut server = s3::Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Options::Sqlite(folder.path().join("store.sqlite"))).await.unwrap();
    let rows: Arc<dyn Pointers> = Arc::new(Rows(store));
    let attempt = async |warehouse: &str, key: &str, value: &str| {
        let mut storage = server.settings();
        storage.insert(key.to_owned(), value.to_owned());
        let opened = Archive::open(&sql(warehouse.to_owned(), storage), Some(Arc::clone(&rows))).await;
        opened.map(drop).map_err(|error| (error.code().to_string(), error.to_string()))
    };
    attempt("s3://archive/w", "s3.region", "us-east-1").await.unwrap();
    for (warehouse, key, value, code) in [
        ("s3://archive/w", "s3.secret-access-key", "wrong", "PH6002"),
        ("s3://archive/w", "s3.access-key-id", "nobody", "PH6002"),
        ("s3://elsewhere/w", "s3.region", "us-east-1", "PH6002"),
        ("s3://archive/w", "s3.endpoint", "http://127.0.0.1:1", "PH6003"),
        ("gs://archive/w", "s3.region", "us-east-1", "PH6001"),
        ("file:///etc/hostname/warehouse", "s3.region", "us-east-1", "PH6002"),
    ] {
        let (found, message) = attempt(warehouse, key, value).await.unwrap_err();
        assert_eq!(found, code, "{warehouse} {key}={value}: {message}");
        assert!(!message.contains(s3::SECRET), "{message}");
    }
    server.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_catalog_that_is_away_is_said() {
    let mut server = rest::Server::start().unwrap();
    let settings = rest_settings(&server, String::new());
    let archive = Archive::open(&settings, None).await.unwrap();
    let base = archive.catalog().create("acme_sensors_events", new_table()).await.unwrap();
    server.kill().unwrap();
    let error = Archive::open(&settings, None).await.unwrap_err();
    assert!(matches!(error, Error::CatalogUnreachable { .. }), "{error}");
    let error = append(&archive, &base, "a", 1).await.unwrap_err();
    assert!(matches!(error, CommitError::Failed(_)), "nothing was sent: {error}");
}
