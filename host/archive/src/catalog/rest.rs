//! An Iceberg REST catalog, over plain HTTP.
//!
//! `iceberg-catalog-rest` hides the call that commits, so requests are ours; their bodies are iceberg's own types.
//! Only answers that the specification calls final are final: everything else leaves a commit unknown.

mod client;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIOBuilder;
use iceberg::spec::{Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::table::Table;
use iceberg::{NamespaceIdent, Runtime, TableIdent, TableRequirement, TableUpdate};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Catalog, CommitError, NewTable};
use crate::hook::Hook;
use crate::{Error, Result, Settings};
use client::{Answer, Client};

/// A REST catalog.
#[derive(Debug)]
pub(crate) struct Rest {
    settings: Settings,
    client: Client,
    runtime: Runtime,
    hook: Hook,
}

impl Rest {
    /// Asks the catalog how it wants to be used.
    pub(crate) async fn open(settings: &Settings, hook: Hook) -> Result<Self> {
        let client = Client::open(&settings.catalog).await?;
        Ok(Self { settings: settings.clone(), client, runtime: Runtime::current(), hook })
    }

    fn tables(&self) -> String {
        format!("namespaces/{}/tables", self.settings.namespace)
    }

    fn table(&self, name: &str, loaded: Loaded) -> Result<Table> {
        // What we were told here wins over what the server says.
        let mut properties = self.client.storage().clone();
        properties.extend(loaded.config);
        properties.extend(self.settings.storage.clone());
        let files = FileIOBuilder::new(Arc::new(crate::storage::Factory)).with_props(properties).build();
        self.opened(name, loaded.metadata_location, loaded.metadata, files)
    }

    fn opened(
        &self,
        name: &str,
        location: Option<String>,
        metadata: TableMetadata,
        files: iceberg::io::FileIO,
    ) -> Result<Table> {
        let namespace = NamespaceIdent::new(self.settings.namespace.clone());
        let mut table = Table::builder()
            .identifier(TableIdent::new(namespace, name.to_owned()))
            .file_io(files)
            .metadata(metadata)
            .runtime(self.runtime.clone());
        if let Some(location) = location {
            table = table.metadata_location(location);
        }
        table.build().map_err(|error| Error::failed("opening a table of the archive", error))
    }

    async fn make_namespace(&self) -> Result<()> {
        let body = json!({ "namespace": [self.settings.namespace], "properties": {} });
        let answer = self.client.send(Method::POST, "namespaces", &[], Some(&body)).await?;
        match answer.status {
            StatusCode::CONFLICT => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(answer.error("making the namespace of the archive")),
        }
    }
}

/// A table as the server gives it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Loaded {
    metadata_location: Option<String>,
    metadata: TableMetadata,
    #[serde(default)]
    config: HashMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Creation<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    schema: &'a Schema,
    partition_spec: &'a UnboundPartitionSpec,
    write_order: &'a SortOrder,
    stage_create: bool,
    properties: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Names {
    identifiers: Vec<TableIdent>,
    next_page_token: Option<String>,
}

#[derive(Debug, Serialize)]
struct Commit<'a> {
    identifier: &'a TableIdent,
    requirements: Vec<TableRequirement>,
    updates: Vec<TableUpdate>,
}

#[async_trait]
impl Catalog for Rest {
    async fn list(&self) -> Result<Vec<String>> {
        let doing = "listing the tables of the archive";
        let (mut names, mut page) = (Vec::new(), None::<String>);
        loop {
            let query: Vec<(&str, &str)> = page.iter().map(|page| ("pageToken", page.as_str())).collect();
            let answer = self.client.send(Method::GET, &self.tables(), &query, None).await?;
            if answer.status == StatusCode::NOT_FOUND {
                return Ok(Vec::new());
            }
            let found: Names = answer.body(doing)?;
            names.extend(found.identifiers.into_iter().map(|table| table.name));
            page = found.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                names.sort();
                return Ok(names);
            }
        }
    }

    async fn load(&self, name: &str) -> Result<Option<Table>> {
        let path = format!("{}/{name}", self.tables());
        let answer = self.client.send(Method::GET, &path, &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let loaded: Loaded = answer.body("loading a table of the archive")?;
        self.table(name, loaded).map(Some)
    }

    async fn create(&self, name: &str, new: NewTable) -> Result<Table> {
        let doing = "making a table of the archive";
        let new = new.with_defaults();
        // Java wants a number here, and gives its own.
        let partition = new.partition.with_spec_id(0);
        let mut properties = new.properties;
        properties.entry("format-version".to_owned()).or_insert_with(|| "2".to_owned());
        let creation = Creation {
            name,
            location: self.settings.location(name),
            schema: &new.schema,
            partition_spec: &partition,
            write_order: &new.order,
            stage_create: false,
            properties,
        };
        let body = serde_json::to_value(&creation).map_err(|error| Error::failed(doing, error))?;
        let send = || self.client.send(Method::POST, self.tables(), &[], Some(&body));
        let mut answer = send().await?;
        if answer.status == StatusCode::NOT_FOUND {
            self.make_namespace().await?;
            answer = send().await?;
        }
        if answer.status == StatusCode::CONFLICT {
            let reason = "it was made and removed by others meanwhile: try again".to_owned();
            return self.load(name).await?.ok_or_else(|| Error::Table { table: name.to_owned(), reason });
        }
        self.table(name, answer.body(doing)?)
    }

    async fn commit(
        &self,
        base: &Table,
        updates: Vec<TableUpdate>,
        requirements: Vec<TableRequirement>,
    ) -> Result<Table, CommitError> {
        let name = base.identifier().name();
        for requirement in &requirements {
            if requirement.check(Some(base.metadata())).is_err() {
                return Err(CommitError::Conflict);
            }
        }
        let commit = Commit { identifier: base.identifier(), requirements, updates };
        let failed = |error| CommitError::Failed(Error::failed("committing to the archive", error));
        let body = serde_json::to_value(&commit).map_err(failed)?;
        let path = format!("{}/{name}", self.tables());
        let answer = match self.client.send_once(Method::POST, &path, &body).await {
            Ok(answer) => answer,
            Err(failure) if failure.was_sent => return Err(CommitError::Unknown(failure.error)),
            Err(failure) => return Err(CommitError::Failed(failure.error)),
        };
        outcome(&answer)?;
        self.hook.pass("archive-swapped");
        let loaded: Loaded = answer.body("committing to the archive").map_err(CommitError::Unknown)?;
        // Only a table that is loaded comes with the way to its storage: credentials, say.
        self.opened(name, loaded.metadata_location, loaded.metadata, base.file_io().clone())
            .map_err(CommitError::Unknown)
    }
}

/// What a status says about a commit. The description of the REST catalog knows statuses of 5xx after which nothing was changed;
/// but who answers need not be the catalog, and to look costs one request.
fn outcome(answer: &Answer) -> Result<(), CommitError> {
    let error = || answer.error("committing to the archive");
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::CONFLICT => Err(CommitError::Conflict),
        // A proxy may say 5xx of a commit that the catalog has taken.
        status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
            Err(CommitError::Failed(error()))
        }
        _ => Err(CommitError::Unknown(error())),
    }
}
