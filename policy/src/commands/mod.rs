//! What `adit policy` does, as functions from text to results: the command line only reads files and prints.

pub mod ask;
pub mod cases;
pub mod diff;
pub mod eval;
pub mod lint;

use crate::objects::{Reader, Reading};

/// A text and the name of the file it came from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file's name, for diagnostics.
    pub file: &'a str,
    /// What it holds.
    pub text: &'a str,
}

/// Reads all of `sources` as objects.
pub fn read(reader: &Reader, sources: &[Source<'_>]) -> Reading {
    let mut reading = Reading::default();
    for source in sources {
        reader.read_into(source.file, source.text, &mut reading);
    }
    reading
}
