//! What a host is called among others: chosen by the configuration, or made once and kept in the data folder.

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::kafka::NodeId;
use crate::failure::{Exit, Failure};

/// The file that keeps a name that was made.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("node_id")
}

/// The name of the host of this configuration, if it has one yet.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn known(config: &Config) -> Result<Option<String>, Failure> {
    if let Some(node_id) = config.log.kafka().and_then(|kafka| kafka.node_id.clone()) {
        return Ok(Some(node_id.0));
    }
    let path = file(&config.data_dir);
    let unusable = |why: &str| {
        let message = format!("{} {why}", path.display());
        Failure::new(Exit::CheckFailed, message).next("set `log.node_id`, or remove the file: then a new name is made")
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim() {
            name if is_fine(name) => Ok(Some(name.to_owned())),
            _ => Err(unusable("does not hold the name of a host")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&format!("cannot be read: {error}"))),
    }
}

/// The name of the host of this configuration; makes one and keeps it where there is none.
///
/// # Errors
/// When the data folder cannot be read or written.
pub fn name(config: &Config) -> Result<String, Failure> {
    if let Some(name) = known(config)? {
        return Ok(name);
    }
    let name = make(&hostname());
    let path = file(&config.data_dir);
    let written = std::fs::create_dir_all(&config.data_dir).and_then(|()| std::fs::write(&path, format!("{name}\n")));
    written.map_err(|error| Failure::new(Exit::CheckFailed, format!("cannot write {}: {error}", path.display())))?;
    Ok(name)
}

fn is_fine(name: &str) -> bool {
    (1..=NodeId::LONGEST).contains(&name.len()) && name.bytes().all(NodeId::takes)
}

/// `<hostname>-<4 hex>`: several hosts of one machine differ, and a person sees which machine it is.
fn make(hostname: &str) -> String {
    let plain: String = hostname.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let short: String = plain.trim_matches('-').chars().take(NodeId::LONGEST - 5).collect();
    let short = if short.is_empty() { "host" } else { &short };
    // The keys of a `RandomState` come from the operating system's randomness.
    let chance = RandomState::new().hash_one(std::process::id()) & 0xffff;
    format!("{short}-{chance:04x}")
}

fn hostname() -> String {
    let read =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let full = read.ok().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    full.trim().split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    #[test]
    fn a_made_name_is_allowed_whatever_the_machine_is_called() {
        for hostname in ["web-1", "", "-", "mächine_7", &"x".repeat(200)] {
            let name = make(hostname);
            assert!(is_fine(&name), "{name}");
        }
        assert!(make("web-1").starts_with("web-1-"));
    }

    #[test]
    fn a_name_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let overrides = Overrides::default().flag("--data-dir", "data_dir", Some(data_dir.display()));
        let config = config::load(&[], &overrides).unwrap();
        assert_eq!(known(&config).unwrap(), None);
        let first = name(&config).unwrap();
        assert_eq!(name(&config).unwrap(), first);
        assert_eq!(known(&config).unwrap(), Some(first));
        std::fs::write(file(&data_dir), "two words").unwrap();
        assert!(name(&config).unwrap_err().message.contains("does not hold the name of a host"));
    }
}
