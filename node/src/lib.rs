//! The privileged helper: it makes pods (namespaces with a TUN device in them) and hands out their descriptors.

mod client;
pub mod codes;
pub mod protocol;

pub use client::{Client, ClientError, Namespaces};
