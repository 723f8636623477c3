//! Which files there are, what time it is there, and proof that storage lets us in.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use iceberg::io::FileIO;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::{Operator, services::S3};
use uuid::Uuid;

use super::path_of;
use crate::{Error, Result};

/// A file in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its full address, as metadata has it.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in milliseconds since 1970.
    pub changed_ms: i64,
}

/// Files, in no order.
pub(crate) type Listing = BoxStream<'static, Result<Listed>>;

/// All files under a place, with what storage needs.
pub(crate) async fn list(place: &str, properties: &BTreeMap<String, String>) -> Result<Listing> {
    match path_of(place) {
        Some(path) => list_folder(place, path).await,
        None => list_bucket(place, properties).await,
    }
}

async fn list_folder(place: &str, path: &str) -> Result<Listing> {
    let (root, prefix) = (path.to_owned(), place.to_owned());
    let walk = move || {
        let mut found = Vec::new();
        let outcome = walk(Path::new(&root), &mut found);
        outcome.map(|()| {
            let cut = root.len();
            found.iter_mut().for_each(|file: &mut Listed| {
                file.path = format!("{prefix}{}", file.path.get(cut..).unwrap_or_default());
            });
            found
        })
    };
    let doing = "listing files of the archive";
    let found = tokio::task::spawn_blocking(walk).await.map_err(|error| Error::failed(doing, error))?;
    let found = found.map_err(|error| Error::of(doing, place, error))?;
    Ok(stream::iter(found.into_iter().map(Ok)).boxed())
}

fn walk(folder: &Path, found: &mut Vec<Listed>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Someone was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            walk(&entry.path(), found)?;
        } else if let Ok(path) = entry.path().into_os_string().into_string() {
            found.push(Listed { path, size: metadata.len(), changed_ms: millis(metadata.modified()?) });
        }
    }
    Ok(())
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn list_bucket(place: &str, properties: &BTreeMap<String, String>) -> Result<Listing> {
    let (bucket, path) = operator(place, properties)?;
    let doing = "listing files of the archive";
    let of = |error, place: &str| Error::of(doing, place, error);
    let root = place.strip_suffix(path.trim_end_matches('/')).unwrap_or(place).to_owned();
    let folder = format!("{}/", path.trim_end_matches('/'));
    let lister = bucket.lister_with(&folder).recursive(true).await.map_err(|error| of(error, place))?;
    let place = place.to_owned();
    let files = lister.filter_map(move |entry| {
        let listed = entry.map_err(|error| of(error, &place)).map(|entry| {
            let metadata = entry.metadata();
            let changed_ms = metadata.last_modified().map_or(i64::MAX, |at| at.into_inner().as_millisecond());
            metadata.is_file().then(|| Listed {
                path: format!("{root}{}", entry.path()),
                size: metadata.content_length(),
                changed_ms,
            })
        });
        futures::future::ready(listed.transpose())
    });
    Ok(files.boxed())
}

/// What time it is where files are kept, in milliseconds since 1970, as [`list`] tells times: that of a file under `place` which
/// was just written, and is removed again.
pub(crate) async fn now_ms(files: &FileIO, place: &str, properties: &BTreeMap<String, String>) -> Result<i64> {
    let folder = format!("{}/clock-{}", place.trim_end_matches('/'), Uuid::now_v7().simple());
    let path = format!("{folder}/now");
    let doing = "asking storage for the time";
    let written = async { files.new_output(&path)?.write(Bytes::from_static(b"now")).await }.await;
    written.map_err(|error| Error::of(doing, &path, error))?;
    let listed = async { list(&folder, properties).await?.try_next().await }.await;
    // What stays of it is an orphan some day.
    let removed = match path_of(&folder) {
        Some(_) => files.delete_prefix(&folder).await,
        None => files.delete(&path).await,
    };
    if let Err(error) = removed {
        tracing::debug!(%error, path, "a file that told the time is left");
    }
    let untold = || Error::Failed { doing: doing.to_owned(), reason: "it tells none".to_owned(), source: None };
    // A store that lists files without their time says nothing.
    listed?.map(|file| file.changed_ms).filter(|time| *time < i64::MAX).ok_or_else(untold)
}

/// The bucket of an address, and the path in it.
fn operator<'a>(place: &'a str, properties: &BTreeMap<String, String>) -> Result<(Operator, &'a str)> {
    let refused = |reason: &str| Error::Settings { key: "warehouse", reason: format!("{place}: {reason}") };
    let rest = place.split_once("://").ok_or_else(|| refused("it is no address"))?.1;
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let config: HashMap<&str, &str> = properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut builder = S3::default().bucket(bucket);
    let set = |key: &str| config.get(key).copied();
    if let Some(endpoint) = set("s3.endpoint") {
        builder = builder.endpoint(endpoint);
    }
    if let Some(region) = set("client.region").or_else(|| set("s3.region")) {
        builder = builder.region(region);
    }
    if let (Some(id), Some(secret)) = (set("s3.access-key-id"), set("s3.secret-access-key")) {
        builder = builder.access_key_id(id).secret_access_key(secret);
    }
    if let Some(token) = set("s3.session-token") {
        builder = builder.session_token(token);
    }
    if set("s3.path-style-access").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        builder = builder.enable_virtual_host_style();
    }
    let operator = Operator::new(builder).map_err(|error| Error::of("opening the bucket", place, error))?.finish();
    Ok((operator.layer(TimeoutLayer::new()).layer(RetryLayer::new().with_max_times(3)), path))
}

/// Proves that storage is there and takes the credentials; makes a local folder that is not there.
pub(crate) async fn prove(warehouse: &str, properties: &BTreeMap<String, String>) -> Result<()> {
    let doing = "opening the archive's storage";
    if let Some(path) = path_of(warehouse) {
        let path = path.to_owned();
        let attempt = move || {
            fs::create_dir_all(&path)?;
            tempfile::tempfile_in(&path).map(drop)
        };
        let outcome = tokio::task::spawn_blocking(attempt).await.map_err(|error| Error::failed(doing, error))?;
        return outcome.map_err(|error| Error::of(doing, warehouse, error));
    }
    let (bucket, path) = operator(warehouse, properties)?;
    let folder = format!("{}/", path.trim_end_matches('/'));
    let of = |error| Error::of(doing, warehouse, error);
    let mut lister = bucket.lister_with(&folder).limit(1).await.map_err(of)?;
    lister.next().await.transpose().map_err(of).map(drop)
}
