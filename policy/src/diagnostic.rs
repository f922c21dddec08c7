//! Findings about objects as they were written.

use std::fmt;

use adit_flow::Code;

/// A place in a text. Lines and columns start at 1; 0 where it isn't known (objects that come from no text).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object can't be used as it is; a policy denies.
    Error,
    /// It is used, but probably isn't what was meant.
    Warning,
}

/// A finding about an object as it was written.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Which finding, with its cause and its fix in general.
    pub code: &'static Code,
    /// How bad it is.
    pub severity: Severity,
    /// The file; empty if the object comes from none.
    pub file: String,
    /// Where in it.
    pub at: Position,
    /// The object, `kind namespace/name`, as far as it is known.
    pub object: String,
    /// The field's path, such as `spec.ingress[0].from[1].ipBlock.cidr`.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Diagnostic {
    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `file:line:column: error[CODE] object: path: message`, and the fix on the next line.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if self.at.line > 0 {
            write!(f, "{}:{}:", self.at.line, self.at.column)?;
        }
        if !self.file.is_empty() || self.at.line > 0 {
            f.write_str(" ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]", self.code.code)?;
        for part in [&self.object, &self.path] {
            if !part.is_empty() {
                write!(f, " {part}:")?;
            }
        }
        write!(f, " {}\n  fix: {}", self.message, self.code.fix)
    }
}
