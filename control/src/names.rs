//! The rules that names follow.

use std::fmt;

/// The service account of a workload that names none, as in Kubernetes.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// The label by which a workload, or all of a namespace, are put into the mesh (`ambient`) or kept out (`none`). Istio's.
pub(crate) const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// The longest DNS label, in bytes (RFC 1035 section 2.3.4).
const LABEL_LIMIT: usize = 63;
/// The longest DNS name as Kubernetes counts it.
const SUBDOMAIN_LIMIT: usize = 253;
/// The longest service name (RFC 6335 section 5.1), which Kubernetes takes for port names.
const PORT_NAME_LIMIT: usize = 15;

/// Why a text isn't a name of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadName {
    Char(char),
    DoubleDash,
    Edge,
    Empty,
    NoLetter,
    TooLong { limit: usize, got: usize },
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Char(got) => write!(f, "{got:?} is not allowed"),
            Self::DoubleDash => f.write_str("it has two dashes in a row"),
            Self::Edge => f.write_str("it must begin and end with a letter or a digit"),
            Self::Empty => f.write_str("it is empty"),
            Self::NoLetter => f.write_str("it needs a letter"),
            Self::TooLong { limit, got } => write!(f, "it has {got} characters, at most {limit} are allowed"),
        }
    }
}

/// Checks a DNS label as Kubernetes' names are (RFC 1123 section 2.1): `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub(crate) fn check_label(text: &str) -> Result<(), BadName> {
    check(text, LABEL_LIMIT, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    })
}

/// Checks a DNS name: labels with dots between them, at most 253 characters.
pub(crate) fn check_subdomain(text: &str) -> Result<(), BadName> {
    match text.len() > SUBDOMAIN_LIMIT {
        true => Err(BadName::TooLong {
            limit: SUBDOMAIN_LIMIT,
            got: text.chars().count(),
        }),
        false => text.split('.').try_for_each(check_label),
    }
}

/// Checks a port's name (RFC 6335 section 5.1).
pub(crate) fn check_port_name(text: &str) -> Result<(), BadName> {
    check(text, PORT_NAME_LIMIT, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
    })?;
    if text.contains("--") {
        return Err(BadName::DoubleDash);
    }
    match text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        true => Ok(()),
        false => Err(BadName::NoLetter),
    }
}

/// Checks a label's key: `[prefix/]name`.
pub(crate) fn check_label_key(text: &str) -> Result<(), BadName> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            check_subdomain(prefix)?;
            name
        }
        None => text,
    };
    check(name, LABEL_LIMIT, in_label)
}

/// Checks a label's value, which may be empty.
pub(crate) fn check_label_value(text: &str) -> Result<(), BadName> {
    match text {
        "" => Ok(()),
        text => check(text, LABEL_LIMIT, in_label),
    }
}

/// The nearest DNS label to a text that isn't one, where there is a likely one.
pub(crate) fn repaired(text: &str) -> Option<String> {
    let lower = text.to_lowercase().replace(['_', '.', ' ', '/'], "-");
    let repaired = lower.trim_matches('-').to_owned();
    check_label(&repaired).is_ok().then_some(repaired)
}

fn in_label(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn check(text: &str, limit: usize, allowed: impl Fn(char) -> bool) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if let Some(got) = text.chars().find(|c| !allowed(*c)) {
        return Err(BadName::Char(got));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
        return Err(BadName::Edge);
    }
    match text.len() > limit {
        true => Err(BadName::TooLong {
            limit,
            got: text.len(),
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_rfc_1123() {
        for good in ["a", "0", "web-0", "a--b", &"x".repeat(63)] {
            assert_eq!(check_label(good), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            ("", BadName::Empty),
            ("-a", BadName::Edge),
            ("a-", BadName::Edge),
            ("A", BadName::Char('A')),
            ("a.b", BadName::Char('.')),
            ("a\u{e9}", BadName::Char('\u{e9}')),
            (&"x".repeat(64), BadName::TooLong { limit: 63, got: 64 }),
        ] {
            assert_eq!(check_label(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn port_names_are_those_of_rfc_6335() {
        for good in ["http", "a", "8a", "http-alt"] {
            assert_eq!(check_port_name(good), Ok(()), "{good:?}");
        }
        for bad in ["", "80", "a--b", "http_alt", "a-name-that-is-l"] {
            assert!(check_port_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn label_keys_may_have_a_prefix() {
        for good in ["app", "app.kubernetes.io/name", "a/B_c.d"] {
            assert_eq!(check_label_key(good), Ok(()), "{good:?}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a b"] {
            assert!(check_label_key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_label_value(""), Ok(()));
    }

    #[test]
    fn what_can_be_repaired_is_a_label() {
        assert_eq!(repaired("My Shop_1."), Some("my-shop-1".to_owned()));
        assert_eq!(repaired("\u{fc}nder"), None);
        assert_eq!(repaired(""), None);
    }
}
