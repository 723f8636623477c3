//! The archive's catalog over the store: the one place where the two crates meet.

use async_trait::async_trait;
use phronis_archive::{PointerError, Pointers};
use phronis_store::{Error, Store};

/// Rows of `iceberg_tables` in the store.
#[derive(Debug, Clone)]
pub struct StorePointers(pub Store);

fn meaning(error: Error) -> PointerError {
    PointerError { is_refused: matches!(error, Error::Refused { .. }), reason: error.to_string() }
}

#[async_trait]
impl Pointers for StorePointers {
    async fn list(&self, catalog: &str, namespace: &str) -> Result<Vec<String>, PointerError> {
        self.0.iceberg_tables(catalog, namespace).await.map_err(meaning)
    }

    async fn get(&self, catalog: &str, namespace: &str, table: &str) -> Result<Option<String>, PointerError> {
        self.0.iceberg_table(catalog, namespace, table).await.map_err(meaning)
    }

    async fn create(&self, catalog: &str, namespace: &str, table: &str, location: &str) -> Result<bool, PointerError> {
        self.0.create_iceberg_table(catalog, namespace, table, location).await.map_err(meaning)
    }

    async fn swap(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, PointerError> {
        self.0.swap_iceberg_table(catalog, namespace, table, from, to).await.map_err(meaning)
    }
}
