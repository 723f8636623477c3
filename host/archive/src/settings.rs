//! Where the archive is: which catalog, which storage.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use crate::{Error, Result};

/// The namespace of tables unless another is set.
pub const NAMESPACE: &str = "phronis";

/// Where the archive is.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of all tables.
    pub namespace: String,
    /// Who knows the tables.
    pub catalog: CatalogSettings,
    /// Where files are: `file:///folder` or `s3://bucket/prefix`. May be empty with a REST catalog that chooses by itself.
    pub warehouse: String,
    /// Iceberg's names for what storage needs: `s3.endpoint`, `s3.region`, `s3.access-key-id`, `s3.secret-access-key`,
    /// `s3.session-token`, `s3.path-style-access`. What is not set comes from the environment and files of AWS.
    pub storage: BTreeMap<String, String>,
}

/// Who knows the tables.
#[derive(Clone, PartialEq, Eq)]
pub enum CatalogSettings {
    /// The tables `iceberg_tables` and `iceberg_namespace_properties` of a database.
    Sql {
        /// Tells catalogs in one database apart; others who read it must use the same.
        name: String,
    },
    /// An Iceberg REST catalog.
    Rest {
        /// Its address, without `/v1`.
        uri: String,
        /// The name that it has for the warehouse, where it has several.
        warehouse: Option<String>,
        /// A token, sent with each request.
        token: Option<String>,
        /// `id:secret`, with which tokens are fetched.
        credential: Option<String>,
        /// Iceberg's names for anything else: `scope`, `oauth2-server-uri`, `prefix`, `header.…`.
        properties: BTreeMap<String, String>,
    },
}

impl Settings {
    /// Refuses what cannot be used.
    ///
    /// # Errors
    /// The setting and the reason.
    pub fn check(&self) -> Result<()> {
        let refused = |key, reason: String| Err(Error::Settings { key, reason });
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.namespace.is_empty() || !self.namespace.chars().all(fits) {
            return refused("namespace", format!("`{}` is not one of letters, digits, _ and -", self.namespace));
        }
        match &self.catalog {
            CatalogSettings::Sql { name } if name.is_empty() => {
                return refused("catalog.name", "it must not be empty".to_owned());
            }
            CatalogSettings::Rest { uri, .. } if !uri.starts_with("http://") && !uri.starts_with("https://") => {
                return refused("catalog.uri", format!("`{uri}` does not begin with http:// or https://"));
            }
            CatalogSettings::Rest { .. } if self.warehouse.is_empty() => return Ok(()),
            _ => {}
        }
        if !self.warehouse.starts_with("file:///") && !self.warehouse.starts_with("s3://") {
            let reason = format!("`{}` is neither file:///folder nor s3://bucket/prefix", self.warehouse);
            return refused("warehouse", reason);
        }
        Ok(())
    }

    /// Where a new table's files go; none when the catalog chooses. No two tables share a folder, not even one that is made again
    /// under the name of another.
    pub(crate) fn location(&self, table: &str) -> Option<String> {
        let warehouse = self.warehouse.trim_end_matches('/');
        let unique = Uuid::new_v4().simple().to_string();
        let unique = unique.get(..8).unwrap_or_default();
        (!warehouse.is_empty()).then(|| format!("{warehouse}/{}/{table}-{unique}", self.namespace))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("namespace", &self.namespace)
            .field("catalog", &self.catalog)
            .field("warehouse", &self.warehouse)
            .field("storage", &self.storage.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for CatalogSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql { name } => f.debug_struct("Sql").field("name", name).finish(),
            Self::Rest { uri, warehouse, .. } => {
                f.debug_struct("Rest").field("uri", uri).field("warehouse", warehouse).finish_non_exhaustive()
            }
        }
    }
}
