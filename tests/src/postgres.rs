//! A real PostgreSQL of a test's own: started, stopped and killed as a test likes. It lives with the store's own tests.

pub use phronis_store::conformance::server::{PASSWORD, Server, free_ports};
