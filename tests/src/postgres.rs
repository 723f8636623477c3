//! A real PostgreSQL of a test's own: started, stopped and killed as a test likes. It lives with the store's own tests.

pub use phronis_store::conformance::server::{PASSWORD, Server, free_ports, shared};

/// The database of a host's catalog, whose store is in this schema, as SQLAlchemy names it.
pub fn catalog(server: &Server, schema: &str) -> String {
    let url = server.url();
    let address = url.trim_start_matches("postgres://").split('?').next().unwrap_or_default();
    format!("postgresql+psycopg2://{address}?options=-csearch_path%3D{schema}")
}
