//! Who asks, and what that allows.
//!
//! A key comes in `X-API-Key` or as a bearer token and is compared by its hash, in constant time, with all keys.
//! Routes are grouped by the role that they need (`routes`); what belongs to another tenant is not found rather than
//! forbidden, so that nobody learns other tenants' names from a status.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use phronis_core::{Name, code};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::options::{Key, Role};
use crate::problem::Problem;
use crate::state::App;

/// A text that is not the SHA-256 of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in hex: 64 hex digits are wanted, as `printf %s \"$KEY\" | sha256sum` prints them")]
pub struct InvalidKeyHash;

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// No key is configured: whoever reaches the loopback address owns the host.
    Anyone,
    /// Keys are configured and the request brings none.
    Nameless,
    /// The request brings a key that nobody holds.
    Stranger,
    /// The holder of a key.
    Holder(Arc<Key>),
}

impl Caller {
    /// Whether the caller may know that this tenant's things exist.
    pub(crate) fn sees(&self, tenant: &Name) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nameless | Self::Stranger => false,
            Self::Holder(key) => key.tenant.as_ref().is_none_or(|own| own == tenant),
        }
    }

    /// Whether the caller may know what is open to all of this tenant: only a tenant's key looks at its own alone.
    pub(crate) fn may_know(&self, tenant: &Name) -> bool {
        match self {
            Self::Holder(_) => self.sees(tenant),
            Self::Anyone | Self::Nameless | Self::Stranger => true,
        }
    }

    /// Whether the caller sees all tenants' things and the host's own.
    pub(crate) fn sees_all(&self) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nameless | Self::Stranger => false,
            Self::Holder(key) => key.tenant.is_none(),
        }
    }

    /// The one tenant that the caller's key opens.
    pub(crate) fn tenant(&self) -> Option<&Name> {
        match self {
            Self::Holder(key) => key.tenant.as_ref(),
            _ => None,
        }
    }

    /// What the caller is called in the audit.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Holder(key) => Some(&key.name),
            _ => None,
        }
    }

    /// Checks that the caller may do what needs `role`.
    pub(crate) fn need(&self, role: Role) -> Result<(), Problem> {
        match self {
            Self::Anyone => Ok(()),
            Self::Nameless => Err(Problem::new(code::UNAUTHORIZED, "the request brings no key")),
            Self::Stranger => Err(Problem::new(code::UNAUTHORIZED, "the key of the request is not known here")),
            Self::Holder(key) if key.role >= role => Ok(()),
            Self::Holder(key) => {
                let detail = format!("this needs the role {role}, the key `{}` has {}", key.name, key.role);
                Err(Problem::new(code::FORBIDDEN, detail))
            }
        }
    }
}

/// All keys.
#[derive(Debug)]
pub(crate) struct Keyring(Vec<Arc<Key>>);

impl Keyring {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        Self(keys.into_iter().map(Arc::new).collect())
    }

    /// Who brings these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Caller {
        if self.0.is_empty() {
            return Caller::Anyone;
        }
        let Some(brought) = brought(headers) else { return Caller::Nameless };
        let hash: [u8; 32] = Sha256::digest(brought).into();
        // Every key is compared, found or not, so that the time says nothing about which one matched.
        let mut found = u64::MAX;
        for (at, key) in (0_u64..).zip(&self.0) {
            let is_it: Choice = key.hash.0.ct_eq(&hash);
            found.conditional_assign(&at, is_it);
        }
        match usize::try_from(found).ok().and_then(|at| self.0.get(at)) {
            Some(key) => Caller::Holder(Arc::clone(key)),
            None => Caller::Stranger,
        }
    }
}

fn brought(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Layer: finds out who asks.
pub(crate) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let caller = app.keys.caller(request.headers());
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Layer: the route needs the role read.
pub(crate) async fn needs_read(request: Request, next: Next) -> Result<Response, Problem> {
    caller_of(&request).need(Role::Read)?;
    Ok(next.run(request).await)
}

/// Layer: the route needs the role write.
pub(crate) async fn needs_write(request: Request, next: Next) -> Result<Response, Problem> {
    caller_of(&request).need(Role::Write)?;
    Ok(next.run(request).await)
}

/// Layer: the route needs the role admin, and without keys a header that no foreign web page can send unasked.
pub(crate) async fn needs_admin(request: Request, next: Next) -> Result<Response, Problem> {
    changes(Role::Admin, request, next).await
}

/// Layer: the route changes something that the role write may change; without keys it needs the same header.
pub(crate) async fn needs_operator(request: Request, next: Next) -> Result<Response, Problem> {
    changes(Role::Write, request, next).await
}

async fn changes(role: Role, request: Request, next: Next) -> Result<Response, Problem> {
    let caller = caller_of(&request);
    caller.need(role)?;
    let is_marked = request.headers().get("x-phronis").is_some_and(|value| value == "1");
    if matches!(caller, Caller::Anyone) && !is_marked {
        let detail = "changes need the header `X-Phronis: 1` while no key is configured";
        return Err(Problem::new(code::HEADER_NEEDED, detail));
    }
    Ok(next.run(request).await)
}

/// The caller that [`identify`] found; without it nobody is let in.
fn caller_of(request: &Request) -> Caller {
    request.extensions().get().cloned().unwrap_or(Caller::Nameless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str, tenant: Option<&str>, role: Role) -> Key {
        let hash = crate::options::KeyHash(Sha256::digest(secret).into());
        Key { name: name.to_owned(), hash, tenant: tenant.map(|t| t.parse().unwrap()), role }
    }

    fn ring() -> Keyring {
        Keyring::new(vec![
            key("first", "one", None, Role::Admin),
            key("second", "two", Some("acme"), Role::Write),
            key("third", "three", Some("zeta"), Role::Read),
        ])
    }

    fn caller(ring: &Keyring, header: &'static str, value: &'static str) -> Caller {
        let mut headers = HeaderMap::new();
        headers.insert(header, value.parse().unwrap());
        ring.caller(&headers)
    }

    #[test]
    fn a_key_is_found_in_both_headers() {
        let ring = ring();
        for (header, value, name) in [
            ("x-api-key", "one", Some("first")),
            ("x-api-key", "two", Some("second")),
            ("authorization", "Bearer three", Some("third")),
            ("authorization", "bearer two", Some("second")),
            ("authorization", "Basic two", None),
            ("x-api-key", "four", None),
            ("x-api-key", "", None),
        ] {
            assert_eq!(caller(&ring, header, value).name(), name, "{header}: {value}");
        }
    }

    #[test]
    fn a_tenants_key_sees_its_own_tenant_alone() {
        let ring = ring();
        let (acme, zeta) = ("acme".parse().unwrap(), "zeta".parse().unwrap());
        let second = caller(&ring, "x-api-key", "two");
        assert!(second.sees(&acme) && !second.sees(&zeta) && !second.sees_all());
        let first = caller(&ring, "x-api-key", "one");
        assert!(first.sees(&acme) && first.sees(&zeta) && first.sees_all());
        let nobody = ring.caller(&HeaderMap::new());
        assert!(!nobody.sees(&acme) && !nobody.sees_all());
    }

    #[test]
    fn a_role_allows_what_lower_roles_allow_and_no_more() {
        let second = caller(&ring(), "x-api-key", "two");
        assert!(second.need(Role::Read).is_ok() && second.need(Role::Write).is_ok());
        assert_eq!(second.need(Role::Admin).unwrap_err().code(), code::FORBIDDEN);
        let stranger = caller(&ring(), "x-api-key", "nobody's");
        assert_eq!(stranger.need(Role::Read).unwrap_err().code(), code::UNAUTHORIZED);
    }

    #[test]
    fn without_keys_anyone_may_do_everything() {
        let caller = Keyring::new(Vec::new()).caller(&HeaderMap::new());
        assert!(caller.need(Role::Admin).is_ok() && caller.sees_all());
    }
}
