//! Names of tenants, streams and plugins, parsed once and right ever after.
//!
//! They end up in paths, topic names and metric labels, so the alphabet is small on purpose.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The tenant whose streams have short names (`sensors` instead of `acme.sensors`).
pub const DEFAULT_TENANT: &str = "default";

/// A lower-case name, `[a-z0-9-]{1,63}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// A text that is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: names are 1 to 63 of a-z, 0-9 and -")]
pub struct InvalidName(pub String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.into())) } else { Err(InvalidName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stream of a tenant. Shown as `sensors` for the default tenant, else as `acme.sensors`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamId {
    /// Who owns the stream.
    pub tenant: Name,
    /// The stream's name within the tenant.
    pub stream: Name,
}

impl FromStr for StreamId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (tenant, stream) = text.split_once('.').unwrap_or((DEFAULT_TENANT, text));
        Ok(Self { tenant: tenant.parse()?, stream: stream.parse()? })
    }
}

impl TryFrom<String> for StreamId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<StreamId> for String {
    fn from(id: StreamId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tenant.as_str() == DEFAULT_TENANT {
            f.pad(self.stream.as_str())
        } else {
            write!(f, "{}.{}", self.tenant, self.stream)
        }
    }
}

/// A plugin: whose it is, what it judges, what it is called. Shown as `tenant/stream/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginId {
    /// The stream that the plugin judges.
    pub stream: StreamId,
    /// The plugin's name within the stream.
    pub name: Name,
}

impl FromStr for PluginId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(tenant), Some(stream), Some(name), None) => {
                Ok(Self { stream: StreamId { tenant: tenant.parse()?, stream: stream.parse()? }, name: name.parse()? })
            }
            _ => Err(InvalidName(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for PluginId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<PluginId> for String {
    fn from(id: PluginId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for PluginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stream.tenant, self.stream.stream, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_lower_case_names_pass() {
        for good in ["a", "high-temperature", "0-9", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "A", "a_b", "a.b", "../x", "ü", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_of_the_default_tenant_has_a_short_name() {
        assert_eq!("sensors".parse::<StreamId>().unwrap().to_string(), "sensors");
        assert_eq!("default.sensors".parse::<StreamId>().unwrap().to_string(), "sensors");
        assert_eq!("acme.sensors".parse::<StreamId>().unwrap().to_string(), "acme.sensors");
        assert_eq!("acme/sensors/hot".parse::<PluginId>().unwrap().to_string(), "acme/sensors/hot");
        assert!("acme/sensors".parse::<PluginId>().is_err());
    }
}
