//! The engine against real components that misbehave: the host lives, the other rows are judged, the guilty are named.

#[path = "engine/contract.rs"]
mod contract;
#[path = "engine/hostile.rs"]
mod hostile;
#[path = "engine/loading.rs"]
mod loading;
#[path = "engine/support.rs"]
mod support;
#[path = "engine/watching.rs"]
mod watching;
