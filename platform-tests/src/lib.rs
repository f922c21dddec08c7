//! Tests that need namespaces, real programs and real peers.
