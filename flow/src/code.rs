/// A coded finding: what `adit explain CODE` says.
///
/// Each crate that reports to people has a table of these; the codes are an interface and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The code itself, such as `ADIT-M001`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub summary: &'static str,
    /// Why it is a problem and how people come to it.
    pub cause: &'static str,
    /// What to do.
    pub fix: &'static str,
}
