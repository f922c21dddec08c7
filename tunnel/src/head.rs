//! The head of a CONNECT, in both directions: a value out of headers, and headers out of a value.
//!
//! * `:authority`: the original destination, `ip:port`, IPv6 in brackets. Names are refused: who dialled one
//!   has resolved it.
//! * `forwarded` (RFC 7239): `for=` is the address from which the application dialled. We send it quoted and with
//!   its port, `for="10.0.0.1:4242"`; stock ztunnel sends no port, which reads as port 0. Of several elements
//!   the first counts: the one nearest to the client.
//! * `baggage` (W3C), `traceparent` (W3C): for people and traces; they decide nothing and are ignored where
//!   they make no sense.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

/// The response header in which an adit gives the label of its [`RefuseReason`](adit_flow::RefuseReason), because
/// three statuses can't tell nine reasons apart.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-adit-reason");

/// What a CONNECT asks for, and on whose behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The original destination.
    pub authority: SocketAddr,
    /// From where the application dialled; port 0 where only the address is known.
    pub client: Option<SocketAddr>,
    /// What the sender says of itself. Not verified: for display only.
    pub baggage: Option<Baggage>,
    /// The trace that it belongs to, as W3C spells it.
    pub traceparent: Option<HeaderValue>,
}

/// What a workload says of itself, in Istio's keys. An empty field isn't sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: String,
    /// `k8s.namespace.name`
    pub namespace: String,
    /// `k8s.pod.name`
    pub pod: String,
    /// `k8s.deployment.name`
    pub deployment: String,
    /// `service.name`
    pub service: String,
    /// `service.version`
    pub version: String,
}

/// A head that is no CONNECT for an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The authority isn't `ip:port`.
    #[error("expected :authority as IP:PORT, got {got:?}")]
    BadAuthority {
        /// What came, at most 80 characters of it.
        got: String,
    },
    /// The `forwarded` header isn't RFC 7239's, so the client's address can't be told.
    #[error("expected forwarded as for=\"IP:PORT\", got {got:?}")]
    BadForwarded {
        /// What came, at most 80 characters of it.
        got: String,
    },
    /// Extended CONNECT (RFC 8441).
    #[error("expected a plain CONNECT, got one with :protocol")]
    ExtendedConnect,
    /// h2 found the head malformed before it got here: pseudo-headers missing, twice or out of place.
    #[error("malformed request head")]
    Malformed,
    /// No authority.
    #[error("expected :authority as IP:PORT, got none")]
    NoAuthority,
    /// Another method.
    #[error("expected CONNECT, got {got:?}")]
    NotConnect {
        /// What came, at most 80 characters of it.
        got: String,
    },
    /// More than [`max_head`](crate::TunnelConfig::max_head) bytes.
    #[error("request head over the limit")]
    Oversized,
}

/// The label of a [`HeadError`] in metrics, logs and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the error of the same name, documented there")]
pub enum HeadLabel {
    BadAuthority,
    BadForwarded,
    ExtendedConnect,
    Malformed,
    NoAuthority,
    NotConnect,
    Oversized,
}

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

impl Connect {
    /// A CONNECT to `authority` for the application at `client`.
    pub fn new(authority: SocketAddr, client: SocketAddr) -> Self {
        Self {
            authority,
            client: Some(client),
            baggage: None,
            traceparent: None,
        }
    }

    /// Reads a request's head.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn parse<B>(request: &Request<B>) -> Result<Self, HeadError> {
        if request.method() != Method::CONNECT {
            return Err(HeadError::NotConnect {
                got: clipped(request.method().as_str()),
            });
        }
        if request.extensions().get::<h2::ext::Protocol>().is_some() {
            return Err(HeadError::ExtendedConnect);
        }
        let authority = request.uri().authority().ok_or(HeadError::NoAuthority)?;
        let headers = request.headers();
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Self {
            authority: parse_authority(authority.as_str())?,
            client: parse_forwarded(headers)?,
            baggage: text(&BAGGAGE).map(Baggage::parse),
            traceparent: headers
                .get(&TRACEPARENT)
                .filter(|value| is_traceparent(value.as_bytes()))
                .cloned(),
        })
    }

    /// The request that says it.
    pub fn to_request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            Uri::try_from(self.authority.to_string()).expect("a socket address is an authority");
        let headers = request.headers_mut();
        if let Some(client) = self.client {
            headers.insert(FORWARDED, ascii(format!("for=\"{client}\"")));
        }
        if let Some(baggage) = &self.baggage {
            headers.insert(BAGGAGE, ascii(baggage.to_string()));
        }
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, traceparent.clone());
        }
        request
    }
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("addresses and percent-encoded text are visible ASCII")
}

fn parse_authority(text: &str) -> Result<SocketAddr, HeadError> {
    let bad = || HeadError::BadAuthority { got: clipped(text) };
    // A scope id means nothing to another host, and an IPv4-mapped address would be a second name of an IPv4 one.
    let addr: SocketAddr = text.parse().map_err(|_| bad())?;
    let scoped =
        matches!(addr, SocketAddr::V6(addr) if addr.scope_id() != 0 || addr.ip().to_ipv4_mapped().is_some());
    if scoped || addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
        return Err(bad());
    }
    Ok(addr)
}

/// The client's address: the `for` of the first element of all `forwarded` fields together (RFC 7239 §4).
fn parse_forwarded(headers: &HeaderMap) -> Result<Option<SocketAddr>, HeadError> {
    let mut client = None;
    for (index, value) in headers.get_all(FORWARDED).iter().enumerate() {
        let bad = || HeadError::BadForwarded {
            got: clipped(&String::from_utf8_lossy(value.as_bytes())),
        };
        let text = value.to_str().map_err(|_| bad())?;
        let first = Elements { rest: text }.first_for().map_err(|Unreadable| bad())?;
        if index == 0
            && let Some(node) = first
        {
            client = parse_node(&node).map_err(|Unreadable| bad())?;
        }
    }
    Ok(client)
}

/// A part of a header that follows no grammar.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// Reads `forwarded-element`s. Unquoted values may hold `:` and brackets, which the grammar wants quoted:
/// senders forget it often, and nothing else could be meant.
struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Elements<'a> {
    /// The `for` of the first element; all elements are checked.
    fn first_for(mut self) -> Result<Option<Cow<'a, str>>, Unreadable> {
        let (mut first, mut in_first, mut seen) = (None, true, false);
        loop {
            self.skip_space();
            if let Some((name, value)) = self.pair()? {
                if name.eq_ignore_ascii_case("for") {
                    if seen {
                        return Err(Unreadable);
                    }
                    seen = true;
                    if in_first {
                        first = Some(value);
                    }
                }
                self.skip_space();
            }
            match self.rest.as_bytes().first() {
                None => return Ok(first),
                Some(b';') => {}
                Some(b',') => (in_first, seen) = (false, false),
                Some(_) => return Err(Unreadable),
            }
            self.rest = &self.rest[1..];
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// `token "=" value`, or nothing before a separator or the end.
    fn pair(&mut self) -> Result<Option<(&'a str, Cow<'a, str>)>, Unreadable> {
        if self.rest.is_empty() || self.rest.starts_with([';', ',']) {
            return Ok(None);
        }
        let (name, after) = self.rest.split_once('=').ok_or(Unreadable)?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(Unreadable);
        }
        if let Some(quoted) = after.strip_prefix('"') {
            let (value, rest) = unquote(quoted)?;
            self.rest = rest;
            return Ok(Some((name, value)));
        }
        let end = after.find([';', ',', ' ', '\t', '"']).unwrap_or(after.len());
        let (value, rest) = after.split_at(end);
        if value.is_empty() {
            return Err(Unreadable);
        }
        self.rest = rest;
        Ok(Some((name, value.into())))
    }
}

/// The inside of a quoted-string whose opening quote is gone, and what follows it (RFC 9110 §5.6.4).
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), Unreadable> {
    let end = text.find(['"', '\\']).ok_or(Unreadable)?;
    if text.as_bytes()[end] == b'"' {
        return Ok((text[..end].into(), &text[end + 1..]));
    }
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value.into(), &text[at + 1..])),
            '\\' => value.push(chars.next().ok_or(Unreadable)?.1),
            char => value.push(char),
        }
    }
    Err(Unreadable)
}

/// `node` of RFC 7239 §6: an address with or without port, `unknown`, or a made-up name, which both are nobody.
fn parse_node(text: &str) -> Result<Option<SocketAddr>, Unreadable> {
    if text.eq_ignore_ascii_case("unknown") || text.starts_with('_') {
        return Ok(None);
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        let scoped = matches!(addr, SocketAddr::V6(addr) if addr.scope_id() != 0);
        return if scoped { Err(Unreadable) } else { Ok(Some(addr)) };
    }
    // An obfuscated port, `10.0.0.1:_p`, is as good as none.
    let address = text.split_once(":_").map_or(text, |(address, _)| address);
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(ip, 0)));
    }
    let inside = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or(Unreadable)?;
    let ip: Ipv6Addr = inside.parse().map_err(|_| Unreadable)?;
    Ok(Some(SocketAddr::new(ip.into(), 0)))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `version "-" trace-id "-" parent-id "-" flags`, in lower-case hex (W3C Trace Context §3.2).
fn is_traceparent(value: &[u8]) -> bool {
    let dashes = [2, 35, 52];
    value.len() == 55
        && value.iter().enumerate().all(|(at, byte)| match byte {
            b'-' => dashes.contains(&at),
            b'0'..=b'9' | b'a'..=b'f' => !dashes.contains(&at),
            _ => false,
        })
}

fn clipped(text: &str) -> String {
    const LONGEST: usize = 80;
    text.chars().take(LONGEST).collect()
}

impl Baggage {
    /// Reads the members that it knows; skips all others.
    fn parse(text: &str) -> Self {
        let mut baggage = Self::default();
        for member in text.split(',') {
            // Properties after `;` belong to a member and mean nothing here.
            let pair = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = pair.split_once('=') else {
                continue;
            };
            if let Some(field) = baggage.field(key.trim()) {
                *field = percent_decoded(value.trim());
            }
        }
        baggage
    }

    fn field(&mut self, key: &str) -> Option<&mut String> {
        Some(match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "k8s.pod.name" => &mut self.pod,
            "k8s.deployment.name" => &mut self.deployment,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            _ => return None,
        })
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            ("k8s.pod.name", &self.pod),
            ("k8s.deployment.name", &self.deployment),
            ("service.name", &self.service),
            ("service.version", &self.version),
        ];
        let mut separator = "";
        for (key, value) in members {
            if !value.is_empty() {
                write!(f, "{separator}{key}=")?;
                write_percent_encoded(f, value)?;
                separator = ",";
            }
        }
        Ok(())
    }
}

fn write_percent_encoded(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// What isn't an escape stays as it is; what isn't UTF-8 is replaced.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl HeadError {
    /// The label under which it is counted.
    pub fn label(&self) -> HeadLabel {
        match self {
            Self::BadAuthority { .. } => HeadLabel::BadAuthority,
            Self::BadForwarded { .. } => HeadLabel::BadForwarded,
            Self::ExtendedConnect => HeadLabel::ExtendedConnect,
            Self::Malformed => HeadLabel::Malformed,
            Self::NoAuthority => HeadLabel::NoAuthority,
            Self::NotConnect { .. } => HeadLabel::NotConnect,
            Self::Oversized => HeadLabel::Oversized,
        }
    }
}

impl HeadLabel {
    /// Every label.
    pub const ALL: &'static [Self] = &[
        Self::BadAuthority,
        Self::BadForwarded,
        Self::ExtendedConnect,
        Self::Malformed,
        Self::NoAuthority,
        Self::NotConnect,
        Self::Oversized,
    ];

    /// As metrics, logs and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadAuthority => "bad-authority",
            Self::BadForwarded => "bad-forwarded",
            Self::ExtendedConnect => "extended-connect",
            Self::Malformed => "malformed-head",
            Self::NoAuthority => "no-authority",
            Self::NotConnect => "not-connect",
            Self::Oversized => "oversized-head",
        }
    }
}

impl fmt::Display for HeadLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
