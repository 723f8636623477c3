//! Where the store is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// Which store, and where.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Options {
    /// A SQLite file, made when it is not there.
    Sqlite(PathBuf),
    /// PostgreSQL.
    Postgres(Postgres),
}

/// How PostgreSQL is used.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// The database.
    pub url: Url,
    /// The schema in it that holds the tables; made when it is not there.
    pub schema: String,
    /// Most connections of this host.
    pub connections: u32,
    /// Longest time until a call fails.
    pub patience: Duration,
}

impl Postgres {
    /// A database with the usual settings.
    pub fn new(url: Url) -> Self {
        Self { url, schema: "phronis".to_owned(), connections: 4, patience: Duration::from_secs(2) }
    }
}

/// `postgres://user:password@host:port/database?sslmode=verify-full`. Never shows its password.
#[derive(Clone)]
pub struct Url {
    pub(crate) options: Box<PgConnectOptions>,
    has_password: bool,
}

impl Url {
    /// Whether the text held a password.
    pub fn has_password(&self) -> bool {
        self.has_password
    }
}

/// A text that is not a [`Url`]. Does not repeat the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address of PostgreSQL such as `postgres://user@host:5432/database?sslmode=verify-full`{0}")]
pub struct InvalidUrl(String);

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let text = text.trim();
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(InvalidUrl(": it must begin with postgres://".to_owned()));
        }
        match PgConnectOptions::from_str(text) {
            Ok(options) => Ok(Self { options: Box::new(options), has_password: has_password(text) }),
            Err(sqlx::Error::Configuration(reason)) if reason.to_string().contains("ssl_mode") => {
                let modes = "disable, allow, prefer, require, verify-ca, verify-full";
                Err(InvalidUrl(format!(": its sslmode is none of {modes}")))
            }
            // The parser's words name the part that is wrong; what stands in it they would quote.
            Err(sqlx::Error::Configuration(reason)) if !reason.to_string().contains('"') => {
                Err(InvalidUrl(format!(": {reason}")))
            }
            Err(_) => Err(InvalidUrl(String::new())),
        }
    }
}

/// Whether there is a `:` in what stands before the host, or a parameter of this name.
fn has_password(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || parameters.contains("password=")
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        write!(f, "postgres://{}@", options.get_username())?;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None => write!(f, "{}:{}", options.get_host(), options.get_port())?,
        }
        write!(f, "/{}", options.get_database().unwrap_or_else(|| options.get_username()))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Url {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Url {}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(postgres) => write!(f, "{}", postgres.url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let url: Url = "postgres://ops:s3cret@db.example:5433/phronis?sslmode=require".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://ops@db.example:5433/phronis");
        assert!(url.has_password());
        assert!(!"postgres://ops@db:5433/phronis?sslmode=require".parse::<Url>().unwrap().has_password());
        assert!(!format!("{url:?} {:?}", Options::Postgres(Postgres::new(url.clone()))).contains("s3cret"));
    }

    #[test]
    fn what_is_wrong_with_an_address_is_told_without_repeating_it() {
        for bad in [
            "",
            "mysql://ops:s3cret@db/phronis",
            "postgres://ops:s3cret@db:port/phronis",
            "postgres://ops:s3cret@db/phronis?sslmode=s3cret",
            "postgres://ops:s3cret@[db/phronis",
        ] {
            let error = bad.parse::<Url>().unwrap_err().to_string();
            assert!(error.starts_with("not an address of PostgreSQL"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
