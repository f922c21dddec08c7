//! Label selectors: one expression tree for Kubernetes' and Calico's, and what it is evaluated on.

mod endpoint;
mod expression;
mod lexer;
mod parser;

pub use endpoint::{AccountSelector, Dialect, EndpointSelector, NamespaceScope};
pub use expression::{Expression, Labels};
pub use parser::{InvalidSelector, parse};
