//! `[archive]`: whether what passes through is kept in Iceberg tables, where, and how they are looked after.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::problem::{Origin, Problem};
use super::reader::{Effective, MASK, Reader, Section};
use super::tree::Value;
use super::units::Bytes;
use super::value::{Setting, text, words};

/// The archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where the files of tables are: `file:///…` or `s3://bucket/prefix`.
    pub warehouse: String,
    /// The namespace of the tables.
    pub namespace: String,
    /// Who knows where each table stands.
    pub catalog: Catalog,
    /// Properties of the storage: `s3.endpoint`, `s3.region` and so on.
    pub storage: Properties,
    /// How often what was read becomes visible in the tables.
    pub commit_every: Duration,
    /// About how large a data file becomes.
    pub file_size: Bytes,
    /// What all tables together may hold in memory.
    pub memory: Bytes,
    /// What events are put together by.
    pub partition_by: PartitionBy,
    /// When somebody is told that the archive is behind.
    pub late_after: Duration,
    /// What to do about records that the log deleted before they were archived.
    pub on_gap: OnGap,
    /// How tables are looked after.
    pub upkeep: Upkeep,
}

/// Who knows where each table stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Catalog {
    /// The state store, in the layout of Iceberg's SQL catalog.
    Store,
    /// A catalog that speaks Iceberg's REST protocol.
    Rest {
        /// Its address.
        uri: String,
        /// What it calls the warehouse, where it has several.
        warehouse: Option<String>,
        /// A token, or a credential that it gives tokens for, and whatever else it wants.
        properties: Properties,
    },
}

/// How tables are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// How often; `None`: only by `phronis archive maintain`.
    pub every: Option<Duration>,
    /// How long a snapshot can be read, as long as there are not too many.
    pub keep_snapshots: Duration,
    /// How many snapshots stay at least, however old.
    pub keep_at_least: u32,
    /// How old a file must be that no snapshot knows before it is deleted.
    pub orphans_after: Duration,
}

words! {
    /// Which catalog.
    CatalogKind, "\"store\" or \"rest\"",
    Store = "store",
    Rest = "rest",
}

words! {
    /// What rows of a file have in common.
    pub PartitionBy, "\"day\" or \"hour\"",
    /// The day of the event time.
    Day = "day",
    /// The hour of the event time.
    Hour = "hour",
}

words! {
    /// What to do about records that the log deleted before they were archived.
    pub OnGap, "\"stop\" or \"skip\"",
    /// The table stops and says so.
    Stop = "stop",
    /// The table goes on with the oldest record that is left, and says so.
    Skip = "skip",
}

/// Properties by name; what is secret stays out of logs.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, shown(name, value)))).finish()
    }
}

/// Whether a property must not be shown.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "password", "token", "credential", "access-key", "sas-", "account-key", "private"]
        .iter()
        .any(|part| name.contains(part))
}

fn shown<'v>(name: &str, value: &'v str) -> &'v str {
    if is_secret(name) { "***" } else { value }
}

/// A place for tables.
struct Warehouse(String);

impl Setting for Warehouse {
    const EXPECTED: &'static str = "a place such as \"s3://bucket/prefix\" or \"file:///var/lib/phronis/archive\"";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        if text.is_empty() {
            // A REST catalog chooses then.
            return Ok(Self(String::new()));
        }
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("file://").filter(|path| path.starts_with('/'));
        let bucket = text.strip_prefix("s3://").filter(|bucket| {
            !bucket.is_empty() && !bucket.starts_with('/') && !bucket.contains('@') && !bucket.contains('?')
        });
        match rest.or(bucket) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(format!("expected {}, this is `{text}`", Self::EXPECTED)),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// A name in the catalog.
struct Namespace(String);

impl Setting for Namespace {
    const EXPECTED: &'static str = "a name of letters, digits, `_` and `-`";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        match (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("expected {}, this is `{text}`", Self::EXPECTED)),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// The word `never`, or a duration.
struct Every(Option<Duration>);

impl Setting for Every {
    const EXPECTED: &'static str = "a duration such as \"1h\", or \"never\"";

    fn read(value: &Value) -> Result<Self, String> {
        match text(value, Self::EXPECTED)? {
            "never" => Ok(Self(None)),
            _ => Duration::read(value).map(|every| Self(Some(every))).map_err(|error| format!("{error}, or \"never\"")),
        }
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(|| "\"never\"".to_owned(), Duration::show)
    }
}

/// Reads `[archive]`; `None` when it is off.
pub(super) fn read(reader: &mut Reader, root: &mut Section<'_>, data_dir: &Path) -> Option<Archive> {
    let mut section = root.section(reader, "archive");
    let is_enabled = section.or(reader, "enabled", false);
    let warehouse = section.optional::<Warehouse>(reader, "warehouse").map(|place| place.0);
    let warehouse = warehouse.unwrap_or_else(|| {
        let folder = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).join("archive");
        format!("file://{}", folder.display())
    });
    section.derived(reader, "warehouse", warehouse.show());
    let archive = Archive {
        warehouse,
        namespace: section.or(reader, "namespace", Namespace("phronis".to_owned())).0,
        catalog: read_catalog(reader, &mut section),
        storage: read_storage(reader, &mut section),
        commit_every: section.or(reader, "commit_every", Duration::from_secs(60)),
        file_size: section.or(reader, "file_size", Bytes(128 << 20)),
        memory: section.or(reader, "memory", Bytes(64 << 20)),
        partition_by: section.or(reader, "partition_by", PartitionBy::Day),
        late_after: section.or(reader, "late_after", Duration::from_secs(600)),
        on_gap: section.or(reader, "on_gap", OnGap::Stop),
        upkeep: read_upkeep(reader, &mut section),
    };
    check_bounds(reader, &section, &archive);
    section.finish(reader);
    is_enabled.then_some(archive)
}

fn read_catalog(reader: &mut Reader, section: &mut Section<'_>) -> Catalog {
    let kind = section.or(reader, "catalog", CatalogKind::Store);
    let mut rest = section.section(reader, "rest");
    let catalog = match kind {
        CatalogKind::Store => {
            let keys = ["uri", "warehouse", "token_file", "credential_file", "properties"];
            rest.misplaced(reader, &keys, "belongs to `catalog = \"rest\"`, and this catalog is the store");
            Catalog::Store
        }
        CatalogKind::Rest => {
            let uri = rest.required::<String>(reader, "uri").unwrap_or_default();
            if !uri.is_empty() && !uri.starts_with("http://") && !uri.starts_with("https://") {
                reader.problems.push(rest.problem("uri", "expected an address that begins with http:// or https://"));
            }
            let warehouse = rest.optional::<String>(reader, "warehouse");
            let mut properties = Properties::default();
            for (key, name) in [("token_file", "token"), ("credential_file", "credential")] {
                if let Some(secret) = read_secret(reader, &mut rest, key) {
                    properties.0.insert(name.to_owned(), secret);
                }
            }
            take_properties(reader, &mut rest, "properties", &mut properties);
            Catalog::Rest { uri, warehouse, properties }
        }
    };
    rest.finish(reader);
    catalog
}

fn read_secret(reader: &mut Reader, section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let path = section.file(reader, key)?;
    let message = match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Some(text.trim().to_owned()),
        Ok(_) => format!("{} is empty", path.display()),
        Err(error) => format!("cannot read {}: {error}", path.display()),
    };
    reader.problems.push(section.problem(key, message));
    None
}

/// Properties of the storage: of the file with the secrets, and of `[archive.storage]`, which come after and override.
fn read_storage(reader: &mut Reader, section: &mut Section<'_>) -> Properties {
    let mut properties = Properties::default();
    if let Some(path) = section.file(reader, "storage_file") {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
                    if line.is_empty() || line.starts_with('#') {
                        continue;
                    }
                    match line.split_once('=') {
                        Some((name, value)) => {
                            properties.0.insert(name.trim().to_owned(), value.trim().to_owned());
                        }
                        // Never repeats the line: it may be a secret.
                        None => {
                            let origin = Origin::File { path: path.as_path().into(), line: number };
                            let message = "expected `name=value`, such as `s3.secret-access-key=…`";
                            reader.problems.push(Problem::new(&origin, "", message));
                        }
                    }
                }
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                reader.problems.push(section.problem("storage_file", message));
            }
        }
    }
    take_properties(reader, section, "storage", &mut properties);
    properties
}

fn take_properties(reader: &mut Reader, section: &mut Section<'_>, key: &'static str, into: &mut Properties) {
    let header = format!("[{}]", section.path_of(key));
    for property in section.properties(reader, key) {
        let value = if is_secret(&property.name) { MASK.to_owned() } else { property.value.clone().show() };
        let (header, key) = (header.clone(), property.name.clone().show());
        reader.effective.push(Effective { header, key, value: Some(value), origin: property.origin });
        into.0.insert(property.name, property.value);
    }
}

fn read_upkeep(reader: &mut Reader, section: &mut Section<'_>) -> Upkeep {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut section = section.section(reader, "upkeep");
    let upkeep = Upkeep {
        every: section.or(reader, "every", Every(Some(Duration::from_secs(3600)))).0,
        keep_snapshots: section.or(reader, "keep_snapshots", 5 * DAY),
        keep_at_least: section.or(reader, "keep_at_least", 100_u32),
        orphans_after: section.or(reader, "orphans_after", 3 * DAY),
    };
    if upkeep.every.is_some_and(|every| every < Duration::from_secs(1)) {
        reader.problems.push(section.problem("every", "expected at least \"1s\", or \"never\""));
    }
    if upkeep.orphans_after < DAY {
        let message = "expected at least \"1d\": a younger file may belong to a commit that is under way";
        reader.problems.push(section.problem("orphans_after", message));
    }
    section.finish(reader);
    upkeep
}

fn check_bounds(reader: &mut Reader, section: &Section<'_>, archive: &Archive) {
    /// Each commit writes a manifest and the table's metadata; more of them than one a second are all overhead.
    /// One that waits for half a day is given up, before upkeep may take its files for orphans.
    const COMMIT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(6 * 3600);
    /// Three tables need room for a batch each, and for the file that is being written.
    const LEAST_MEMORY: Bytes = Bytes(48 << 20);
    const LEAST_FILE: Bytes = Bytes(1 << 20);
    let mut wrong = |key: &str, message: String| reader.problems.push(section.problem(key, message));
    if !COMMIT.contains(&archive.commit_every) {
        wrong("commit_every", format!("{} is not between \"1s\" and \"6h\"", archive.commit_every.show()));
    }
    if archive.warehouse.is_empty() && archive.catalog == Catalog::Store {
        wrong("warehouse", format!("expected {}: only a REST catalog chooses one itself", Warehouse::EXPECTED));
    }
    if archive.memory < LEAST_MEMORY {
        wrong("memory", format!("{} is less than the {} that three tables need", archive.memory, LEAST_MEMORY));
    }
    if archive.file_size < LEAST_FILE {
        wrong("file_size", format!("{} is less than {LEAST_FILE}", archive.file_size));
    }
    if archive.late_after <= archive.commit_every {
        let message = format!(
            "{} is not longer than commit_every ({}): it would always be late",
            archive.late_after.show(),
            archive.commit_every.show()
        );
        wrong("late_after", message);
    }
}
