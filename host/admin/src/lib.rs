//! The HTTP face of a host: events in, records and live alerts out, plugins' settings, halts of agents, health, metrics.
//!
//! [`Options`] say where to listen and who may do what, [`Server::bind`] takes the port,
//! [`Server::run`] serves until it is told to stop. `routes` is the only place that names the order of the layers;
//! each resource has one file. Nothing here judges events: it asks a [`phronis_pipeline::Handle`].
//! Blocking work (splitting bodies, reading the log) never runs on a thread that serves connections.
//!
//! [`Line`] and [`error_page`] are for a program that shows the same without a host.

mod access;
mod agents;
mod archive;
mod audit;
mod body;
mod breakers;
mod browser;
mod connection;
mod error;
mod events;
mod health;
mod home;
mod hosts;
mod letters;
mod live;
mod observe;
mod once;
mod openapi;
mod options;
mod pages;
mod paging;
mod plugins;
mod problem;
mod query;
mod records;
mod redrives;
mod routes;
mod server;
mod sign;
mod state;
mod streams;
mod topics;

pub use access::InvalidKeyHash;
pub use error::{Error, Result};
pub use options::{Key, KeyHash, Options, Role};
pub use pages::error_page;
pub use records::Line;
pub use server::Server;
