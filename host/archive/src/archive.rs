//! The handle: a catalog, the files behind it, and proof that both answer.

use std::sync::Arc;

use crate::catalog::{Catalog, Pointers, Rest, Sql};
use crate::hook::Hook;
use crate::snapshot::Known;
use crate::storage;
use crate::{CatalogSettings, Error, Result, Settings};
use futures::future::BoxFuture;

/// A handle of the archive. Clones share it.
#[derive(Debug, Clone)]
pub struct Archive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Box<dyn Catalog>,
    settings: Settings,
    hook: Hook,
    retention: Known,
}

impl Archive {
    /// Opens the archive, and proves that storage and catalog answer and take the credentials. Makes nothing but the folder
    /// of a local warehouse. A SQL catalog needs `pointers`.
    ///
    /// It lives on the runtime that this is called on.
    ///
    /// # Errors
    /// Settings that cannot be used; storage or a catalog that is away or does not let us in.
    pub fn open<'a>(settings: &'a Settings, pointers: Option<Arc<dyn Pointers>>) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            settings.check()?;
            let files = storage::files(&settings.storage);
            let hook = Hook::default();
            let catalog: Box<dyn Catalog> = match &settings.catalog {
                CatalogSettings::Sql { name } => {
                    let pointers = pointers.ok_or_else(|| Error::Settings {
                        key: "catalog",
                        reason: "a SQL catalog needs a store".to_owned(),
                    })?;
                    Box::new(Sql::new(name, settings, pointers, files, hook.clone()))
                }
                CatalogSettings::Rest { .. } => Box::new(Rest::open(settings, hook.clone()).await?),
            };
            if !settings.warehouse.is_empty() {
                storage::prove(&settings.warehouse, &settings.storage).await?;
            }
            catalog.list().await?;
            Ok(Self(Arc::new(Inner { catalog, settings: settings.clone(), hook, retention: Known::default() })))
        })
    }

    /// An archive on files and pointers of a test.
    #[cfg(test)]
    pub(crate) fn of(settings: Settings, pointers: Arc<dyn Pointers>, files: iceberg::io::FileIO) -> Self {
        let hook = Hook::default();
        let catalog = Box::new(Sql::new("phronis", &settings, pointers, files, hook.clone()));
        Self(Arc::new(Inner { catalog, settings, hook, retention: Known::default() }))
    }

    /// Who knows the tables.
    pub fn catalog(&self) -> &dyn Catalog {
        self.0.catalog.as_ref()
    }

    /// Where it is.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Calls `hook` with the name of every place between two steps of a commit.
    #[must_use]
    pub fn with_hook(self, hook: fn(&'static str)) -> Self {
        self.0.hook.set(hook);
        self
    }

    /// What is known of the retention of tables.
    pub(crate) fn retention(&self) -> &Known {
        &self.0.retention
    }

    /// Passes a place between two steps of a commit.
    pub(crate) fn pass(&self, place: &'static str) {
        self.0.hook.pass(place);
    }
}
