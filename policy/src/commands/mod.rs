//! What `adit policy` does, as functions from text to results: the command line only reads files and prints.

pub mod eval;
