//! The engine against second implementations that walk everything, and what must hold whatever the policies are.
//!
//! The models read the JSON as the APIs' texts do: no index, no compilation, no code shared with the engine.

mod calico;
mod cluster;
mod istio;
mod network;
mod world;
