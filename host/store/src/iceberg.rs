//! Where the newest metadata of each table of the archive is.
//!
//! The tables are those of Iceberg's JDBC catalog, so that other engines find the archive by this database alone.
//! A table's row changes by compare-and-set: of two who commit at once one wins, and the other is told.

use crate::database::{Begin as _, with};
use crate::store::Patience;
use crate::{Result, Store};

impl Store {
    /// The names of a catalog's tables in a namespace, in order.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn iceberg_tables(&self, catalog: &str, namespace: &str) -> Result<Vec<String>> {
        with!(self, "listing the tables of the archive", Patience::Short, |pool| {
            sqlx::query_scalar(
                "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2
                 AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL) ORDER BY table_name",
            )
            .bind(catalog)
            .bind(namespace)
            .fetch_all(&pool)
            .await
        })
    }

    /// Where the newest metadata of a table is.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn iceberg_table(&self, catalog: &str, namespace: &str, table: &str) -> Result<Option<String>> {
        let found: Option<Option<String>> =
            with!(self, "looking for a table of the archive", Patience::Short, |pool| {
                sqlx::query_scalar(
                    "SELECT metadata_location FROM iceberg_tables
                     WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3
                     AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)",
                )
                .bind(catalog)
                .bind(namespace)
                .bind(table)
                .fetch_optional(&pool)
                .await
            })?;
        Ok(found.flatten())
    }

    /// Makes the row of a table, and its namespace where there is none; false when the table is there.
    ///
    /// # Errors
    /// When the store does not answer: whether it was done is not known then.
    pub async fn create_iceberg_table(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        location: &str,
    ) -> Result<bool> {
        with!(self, "making a table of the archive", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            // Both known catalogs mark a namespace without properties like this.
            sqlx::query(
                "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
                 VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING",
            )
            .bind(catalog)
            .bind(namespace)
            .execute(&mut *tx)
            .await?;
            let made = sqlx::query(
                "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
                 VALUES ($1, $2, $3, $4, 'TABLE') ON CONFLICT DO NOTHING",
            )
            .bind(catalog)
            .bind(namespace)
            .bind(table)
            .bind(location)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            tx.commit().await?;
            Ok(made == 1)
        })
    }

    /// Puts a location in place of another; false when a third one is there.
    ///
    /// # Errors
    /// When the store does not answer: whether it was done, or still will be, is not known then.
    pub async fn swap_iceberg_table(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        from: &str,
        to: &str,
    ) -> Result<bool> {
        with!(self, "committing to a table of the archive", Patience::Short, |pool| {
            let swapped = sqlx::query(
                "UPDATE iceberg_tables SET metadata_location = $5, previous_metadata_location = $4
                 WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3 AND metadata_location = $4",
            )
            .bind(catalog)
            .bind(namespace)
            .bind(table)
            .bind(from)
            .bind(to)
            .execute(&pool)
            .await?
            .rows_affected();
            Ok(swapped == 1)
        })
    }
}
