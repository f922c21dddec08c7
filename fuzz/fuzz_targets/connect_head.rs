//! Any bytes as the head of a CONNECT: a method and an authority on the first line, then `name: value` lines. What is
//! taken is an address that a socket can be connected to, and reads back as the same head once it's written.

#![no_main]

use adit_tunnel::Connect;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(request) = request(lines.next().unwrap_or_default(), lines) else {
        return;
    };
    match Connect::parse(&request) {
        Err(error) => {
            error.label();
            assert!(error.to_string().len() < 1024, "what a peer sends must not fill the log");
        }
        Ok(head) => {
            assert_ne!(head.authority.port(), 0);
            let again = Connect::parse(&head.to_request()).unwrap_or_else(|error| panic!("{head:?}: {error}"));
            assert_eq!((again.authority, again.client), (head.authority, head.client));
            assert_eq!(again.traceparent, head.traceparent);
        }
    }
});

/// As far as HTTP/2 itself lets it through.
fn request<'a>(first: &[u8], headers: impl Iterator<Item = &'a [u8]>) -> Option<Request<()>> {
    let mut words = first.splitn(2, |byte| *byte == b' ');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(words.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(words.next()?).ok()?;
    for line in headers {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next()?).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(parts.next()?).ok()?);
    }
    Some(request)
}
