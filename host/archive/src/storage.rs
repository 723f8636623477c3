//! Where files are: a local folder with durable writes, or an object store that speaks S3.
//!
//! Iceberg asks a [`Storage`] by the full address of each file, so one of ours sends each call where its scheme leads.
//! Listing and the time are not in iceberg's port; only the removal of orphans needs them, and has them from here.

mod listing;
mod local;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg_storage_opendal::OpenDalStorageFactory;
use serde::{Deserialize, Serialize};

pub(crate) use listing::{list, now_ms, prove};
use local::Local;

/// Access to all files, with what storage needs.
pub(crate) fn files(properties: &BTreeMap<String, String>) -> FileIO {
    FileIOBuilder::new(Arc::new(Factory)).with_props(properties.iter()).build()
}

/// The path of a file on this machine, where an address names one.
fn path_of(address: &str) -> Option<&str> {
    let path = address.strip_prefix("file://").or_else(|| address.strip_prefix("file:")).unwrap_or(address);
    path.starts_with('/').then_some(path)
}

/// Makes [`Places`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Factory;

#[typetag::serde(name = "PhronisStorageFactory")]
impl StorageFactory for Factory {
    fn build(&self, config: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(Places { properties: config.props().clone(), objects: OnceLock::new() }))
    }
}

/// Storage that looks at the scheme of each address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Places {
    properties: HashMap<String, String>,
    #[serde(skip)]
    objects: OnceLock<Arc<dyn Storage>>,
}

impl Places {
    fn of(&self, address: &str) -> iceberg::Result<&dyn Storage> {
        if path_of(address).is_some() {
            return Ok(&Local);
        }
        if let Some(objects) = self.objects.get() {
            return Ok(objects.as_ref());
        }
        let config = StorageConfig::from_props(self.properties.clone());
        let built = OpenDalStorageFactory::S3 { customized_credential_load: None }.build(&config)?;
        Ok(self.objects.get_or_init(|| built).as_ref())
    }
}

#[async_trait]
#[typetag::serde(name = "PhronisStorage")]
impl Storage for Places {
    async fn exists(&self, path: &str) -> iceberg::Result<bool> {
        self.of(path)?.exists(path).await
    }

    async fn metadata(&self, path: &str) -> iceberg::Result<FileMetadata> {
        self.of(path)?.metadata(path).await
    }

    async fn read(&self, path: &str) -> iceberg::Result<Bytes> {
        self.of(path)?.read(path).await
    }

    async fn reader(&self, path: &str) -> iceberg::Result<Box<dyn FileRead>> {
        self.of(path)?.reader(path).await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> iceberg::Result<()> {
        self.of(path)?.write(path, bytes).await
    }

    async fn writer(&self, path: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        self.of(path)?.writer(path).await
    }

    async fn delete(&self, path: &str) -> iceberg::Result<()> {
        self.of(path)?.delete(path).await
    }

    async fn delete_prefix(&self, path: &str) -> iceberg::Result<()> {
        self.of(path)?.delete_prefix(path).await
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> iceberg::Result<()> {
        // Files of one table are in one place.
        let Some(first) = paths.next().await else { return Ok(()) };
        let storage = self.of(&first)?;
        storage.delete_stream(futures::stream::iter([first]).chain(paths).boxed()).await
    }

    fn new_input(&self, path: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}
