//! What is under way, told on standard error.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Tells a line. Whether anybody reads it, on a terminal that was closed say, is no reason to fail: what runs has to be
/// taken down.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
