//! `[http]`: where the host listens and who may do what.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use phronis_core::Name;
use phronis_core::name::DEFAULT_TENANT;
use phronis_core::text::nearest;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::reader::{Reader, Section};
use super::tenants::Tenant;
use super::units::Bytes;
use super::value::words;

/// The HTTP side of the host.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The largest request body.
    pub max_body: Bytes,
    /// Values of the `Host` header that are served beside the address listened on.
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call.
    pub allowed_origins: Vec<String>,
    /// Who may do what; without keys everyone on this machine may do everything.
    pub keys: Vec<Key>,
}

/// A key, known by its hash alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Stands for the key in logs and in the audit.
    pub name: Name,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// The only tenant that the key sees; `None` is all.
    pub tenant: Option<Name>,
    /// What the key may do.
    pub role: Role,
}

words! {
    /// What a key may do; each includes the ones before it.
    pub Role, "a role: \"read\", \"write\" or \"admin\"",
    /// Look.
    Read = "read",
    /// Send events.
    Write = "write",
    /// Change settings, halt and reset agents.
    Admin = "admin",
}

impl Key {
    /// The hash as 64 hex digits.
    pub fn hash_hex(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for Key {
    /// The hash of a weak key can be guessed from: it stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, tenant, role, .. } = self;
        f.debug_struct("Key").field("name", name).field("tenant", tenant).field("role", role).finish_non_exhaustive()
    }
}

pub(super) fn read(reader: &mut Reader, root: &mut Section<'_>, tenants: &BTreeMap<Name, Tenant>) -> Http {
    let mut section = root.section(reader, "http");
    let http = Http {
        listen: section.or(reader, "listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 8000))),
        max_body: section.or(reader, "max_body", Bytes(32 << 20)),
        allowed_hosts: section.or(reader, "allowed_hosts", Vec::new()),
        allowed_origins: section.or(reader, "allowed_origins", Vec::new()),
        keys: Vec::new(),
    };
    let items = section.list(reader, "keys");
    let has_keys = !items.is_empty();
    if !has_keys && !http.listen.ip().is_loopback() {
        let message = format!("{} is reachable from other machines, and there is no key", http.listen);
        let help = "add [[http.keys]] with name, key_file and role, or listen on 127.0.0.1";
        reader.problems.push(section.problem("listen", message).help(help));
    }
    section.finish(reader);
    Http { keys: read_keys(reader, items, tenants), ..http }
}

fn read_keys(reader: &mut Reader, items: Vec<Section<'_>>, tenants: &BTreeMap<Name, Tenant>) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for mut section in items {
        let Some(key) = read_key(reader, &mut section, tenants) else {
            section.finish(reader);
            continue;
        };
        if let Some(twin) = keys.iter().find(|other| other.name == key.name) {
            reader.problems.push(section.problem("name", format!("two keys are called `{}`", twin.name)));
        }
        if let Some(twin) = keys.iter().find(|other| other.hash == key.hash) {
            let message =
                format!("`{}` and `{}` are the same key: whose it is would be a matter of luck", twin.name, key.name);
            reader.problems.push(Problem::new(section.origin(), section.path(), message));
        }
        keys.push(key);
        section.finish(reader);
    }
    keys
}

fn read_key(reader: &mut Reader, section: &mut Section<'_>, tenants: &BTreeMap<Name, Tenant>) -> Option<Key> {
    let name = section.required::<Name>(reader, "name");
    let tenant = section.optional::<Name>(reader, "tenant");
    let role = section.required::<Role>(reader, "role");
    let hash_text = section.secret(reader, "hash");
    let file = section.file(reader, "key_file");
    if let Some(tenant) = &tenant
        && !tenants.contains_key(tenant)
    {
        reader.problems.push(unknown_tenant(section.problem("tenant", ""), tenant, tenants));
    }
    let hash = match (&hash_text, &file) {
        (Some(text), None) => parse_hash(text).map_err(|message| section.problem("hash", message)),
        (None, Some(path)) => hash_of_file(path).map_err(|message| section.problem("key_file", message)),
        _ => {
            let message = "needs exactly one of `hash` (SHA-256 of the key, hex) and `key_file`";
            Err(Problem::new(section.origin(), section.path(), message))
        }
    };
    match hash {
        Ok(hash) => Some(Key { name: name?, hash, tenant, role: role? }),
        Err(problem) => {
            reader.problems.push(problem);
            None
        }
    }
}

/// Completes a problem about a tenant that nobody declared.
pub(super) fn unknown_tenant(problem: Problem, tenant: &Name, tenants: &BTreeMap<Name, Tenant>) -> Problem {
    let near = nearest(tenant.as_str(), tenants.keys().map(Name::as_str).filter(|name| *name != DEFAULT_TENANT));
    let help = match near {
        Some(near) => format!("did you mean `{near}`? A tenant is declared by a section [tenants.{tenant}]"),
        None => format!("declare it with a section [tenants.{tenant}], it may be empty"),
    };
    Problem { message: format!("there is no tenant `{tenant}`"), ..problem }.help(help)
}

fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "expected the SHA-256 of the key as 64 hex digits: printf %s KEY | sha256sum".to_owned();
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}

fn hash_of_file(path: &Path) -> Result<[u8; 32], String> {
    /// A key that a person would type is too easy to guess.
    const SHORTEST: usize = 16;
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let key = text.trim();
    if key.len() < SHORTEST {
        return Err(format!("the key in {} is shorter than {SHORTEST} characters", path.display()));
    }
    Ok(Sha256::digest(key.as_bytes()).into())
}
