//! `[store]`: where the state beside the log is kept.

use std::path::{Path, PathBuf};

use phronis_store::{Options, Postgres, Url};

use super::problem::Origin;
use super::reader::{Reader, Section};
use super::tree::Value;
use super::value::{Setting, text, words};

/// The state store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// PostgreSQL: the address, and the schema in it.
    Postgres(Url, Schema),
}

impl Store {
    /// The options of the store.
    pub fn options(&self) -> Options {
        match self {
            Self::Sqlite(path) => Options::Sqlite(path.clone()),
            Self::Postgres(url, Schema(schema)) => {
                Options::Postgres(Postgres { schema: schema.clone(), ..Postgres::new(url.clone()) })
            }
        }
    }
}

words! {
    /// Which state store.
    pub StoreKind, "the kind of store: \"sqlite\" or \"postgres\"",
    /// One file.
    Sqlite = "sqlite",
    /// PostgreSQL.
    Postgres = "postgres",
}

/// Tables of one Phronis in a database that it may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema(pub String);

impl Setting for Schema {
    const EXPECTED: &'static str = "a name of 1 to 63 of a-z, 0-9 and _ that begins with a letter";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && text.starts_with(|c: char| c.is_ascii_lowercase());
        if fits { Ok(Self(text.to_owned())) } else { Err(format!("expected {}, this is `{text}`", Self::EXPECTED)) }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// An address that may have a password: what is shown of it has none.
struct Address(Url);

impl Setting for Address {
    const EXPECTED: &'static str = "an address such as \"postgres://user@host:5432/database?sslmode=verify-full\"";

    fn read(value: &Value) -> Result<Self, String> {
        // Never repeats the text.
        text(value, Self::EXPECTED)?.parse().map(Self).map_err(|error: phronis_store::InvalidUrl| error.to_string())
    }

    fn show(&self) -> String {
        self.0.to_string().show()
    }
}

/// Keys that only PostgreSQL has.
const POSTGRES: [&str; 3] = ["url", "url_file", "schema"];

pub(super) fn read(reader: &mut Reader, root: &mut Section<'_>, data_dir: &Path) -> Store {
    let mut section = root.section(reader, "store");
    let store = match section.or(reader, "kind", StoreKind::Sqlite) {
        StoreKind::Sqlite => {
            section.misplaced(reader, &POSTGRES, "belongs to `kind = \"postgres\"`, and this store is a SQLite file");
            let path = section.file(reader, "path").unwrap_or_else(|| data_dir.join("store.sqlite"));
            section.derived(reader, "path", super::show(&path));
            Store::Sqlite(path)
        }
        StoreKind::Postgres => {
            section.misplaced(reader, &["path"], "belongs to `kind = \"sqlite\"`, and this store is PostgreSQL");
            read_postgres(reader, &mut section).unwrap_or_else(|| Store::Sqlite(data_dir.join("store.sqlite")))
        }
    };
    section.finish(reader);
    store
}

/// `None` when there is a problem, which the reader knows.
fn read_postgres(reader: &mut Reader, section: &mut Section<'_>) -> Option<Store> {
    let is_given = matches!(section.origin_of("url"), Origin::Default);
    let given = section.optional::<Address>(reader, "url");
    let file = section.file(reader, "url_file");
    let schema = section.or(reader, "schema", Schema("phronis".to_owned()));
    let url = match (given, file) {
        (Some(Address(url)), None) => {
            if url.has_password() && matches!(section.origin_of("url"), Origin::File { .. }) {
                let message = "has a password, and configuration files are read and copied by many";
                let help = "put the whole address into a file that only the host may read, and name it with `url_file`";
                reader.problems.push(section.problem("url", message).help(help));
            }
            url
        }
        (None, Some(path)) => match read_file(&path) {
            Ok(url) => url,
            Err(message) => {
                reader.problems.push(section.problem("url_file", message));
                return None;
            }
        },
        (Some(_), Some(_)) => {
            reader.problems.push(section.problem("url_file", "is given beside `url`: one of the two is enough"));
            return None;
        }
        (None, None) => {
            // What `url` has wrong is told already.
            if is_given {
                let message = "is missing: with kind = \"postgres\" either `url` or `url_file` says where it is";
                reader.problems.push(section.problem("url", message));
            }
            return None;
        }
    };
    Some(Store::Postgres(url, schema))
}

fn read_file(path: &Path) -> Result<Url, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    text.trim().parse().map_err(|error| format!("{}: {error}", path.display()))
}
