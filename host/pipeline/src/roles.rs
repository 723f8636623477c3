//! Which host of several this is, and which branches run in it.
//!
//! Branches share nothing but the log, so that each may run in a process of its own: `phronis run --role process,alert`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// This host among those that share a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; no two live hosts have the same.
    pub id: String,
    /// Where it serves HTTP, for those who look for it; none when it does not.
    pub listen: Option<SocketAddr>,
}

/// A branch that may run in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Judges events: workers of all streams and their plugins.
    Process,
    /// Hands alerts to those who listen.
    Alert,
    /// Takes events over HTTP.
    Serve,
    /// Keeps time for letters, and moves them.
    Retry,
    /// Writes the tables of the archive, where one is configured.
    Archive,
}

impl Role {
    /// All of them: what a host does unless told otherwise.
    pub const ALL: [Self; 5] = [Self::Process, Self::Alert, Self::Serve, Self::Retry, Self::Archive];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Alert => "alert",
            Self::Serve => "serve",
            Self::Retry => "retry",
            Self::Archive => "archive",
        }
    }

    /// All of them, as a set.
    pub fn all() -> BTreeSet<Self> {
        Self::ALL.into()
    }

    /// Their words, with commas between.
    pub fn list(roles: &BTreeSet<Self>) -> String {
        roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text.trim());
        known.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// No branch has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role `{0}`: use {roles}, with commas between", roles = Role::list(&Role::all()))]
pub struct UnknownRole(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_the_words_of_the_command_line() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let error = "cook".parse::<Role>().unwrap_err().to_string();
        assert_eq!(error, "there is no role `cook`: use process, alert, serve, retry, archive, with commas between");
    }
}
