use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A workload's name within its namespace, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName {
    /// The namespace, a DNS label (RFC 1123).
    pub namespace: String,
    /// The workload (pod), a DNS subdomain (RFC 1123).
    pub name: String,
}

/// A text that isn't `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidWorkloadName(String);

impl WorkloadName {
    /// A name from its two parts, which the caller has checked to be DNS names.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Whether `wanted` calls for this workload: by its own name, or by that of which it's a numbered replica (`web` for
    /// `web-0`).
    pub fn is_called(&self, wanted: &str) -> bool {
        let Some(rest) = self.name.strip_prefix(wanted) else {
            return false;
        };
        let numbered = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        rest.is_empty() || rest.strip_prefix('-').is_some_and(numbered)
    }
}

impl FromStr for WorkloadName {
    type Err = InvalidWorkloadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(InvalidWorkloadName(text.to_owned())),
        }
    }
}

impl TryFrom<String> for WorkloadName {
    type Error = InvalidWorkloadName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkloadName> for String {
    fn from(name: WorkloadName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for InvalidWorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a workload as NAMESPACE/NAME, got {:?}", self.0)
    }
}

impl std::error::Error for InvalidWorkloadName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_bad_ones_are_refused() {
        let name: WorkloadName = "shop/web-0".parse().unwrap();
        assert_eq!(name, WorkloadName::new("shop", "web-0"));
        assert_eq!(name.to_string(), "shop/web-0");
        for bad in ["", "web", "/web", "shop/", "a/b/c"] {
            assert!(bad.parse::<WorkloadName>().is_err(), "{bad:?} was taken");
        }
    }
}
