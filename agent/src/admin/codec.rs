//! Lines out of bytes, and values out of lines. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Envelope, Fault, VERSION, codes};

/// The most bytes in one line, its end included: 16 MiB, room for a mesh file with all its policies.
pub const LINE_LIMIT: usize = 16 << 20;

/// A line that grew beyond the limit of its [`LineBuffer`]. The connection can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {limit} bytes")]
pub struct LineTooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// Collects bytes as they arrive and gives them back line by line.
///
/// Holds one line's bytes at most plus what one read brought; memory grows with use.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the next line begins: bytes before it were given out.
    start: usize,
    /// Bytes before it have no line end that wasn't given out.
    searched: usize,
    limit: usize,
}

impl LineBuffer {
    /// An empty buffer for lines of `limit` bytes at most.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            searched: 0,
            limit,
        }
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its end, if there is one.
    ///
    /// # Errors
    /// When the bytes held without an end, or the line itself, exceed the limit.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        let found = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n');
        let end = found.map_or(self.bytes.len(), |offset| self.searched + offset);
        if end - self.start >= self.limit {
            return Err(LineTooLong { limit: self.limit });
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        let line = self.bytes[self.start..end].to_vec();
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(line))
    }
}

/// A request as one line, its end included.
pub(super) fn encode<T: Serialize>(body: T) -> Vec<u8> {
    line(&Envelope {
        version: VERSION,
        body,
    })
}

/// Any message as one line, its end included.
pub(super) fn line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec(message).expect("the messages have text keys and no failing serialisers");
    bytes.push(b'\n');
    bytes
}

/// The request in `line`.
///
/// # Errors
/// A fault for the sender: not JSON, of another version, or no request that this socket knows.
pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Fault> {
    #[derive(serde::Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let malformed =
        |error: serde_json::Error| Fault::new(codes::MALFORMED, format!("not a request: {error}"));
    let VersionOnly { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != VERSION {
        let message = format!("expected version {VERSION} of the control protocol, got {version}");
        return Err(Fault::new(codes::VERSION, message));
    }
    Ok(serde_json::from_slice::<Envelope<T>>(line)
        .map_err(malformed)?
        .body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::{AgentRequest, SupervisorRequest};
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrived() {
        let mut buffer = LineBuffer::new(100);
        buffer.push(b"one\ntw");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"one");
        assert_eq!(buffer.next_line().unwrap(), None);
        buffer.push(b"o\n\nthree");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"two");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"");
        assert_eq!(buffer.next_line().unwrap(), None);
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_byte_more_does_not() {
        let mut buffer = LineBuffer::new(4);
        buffer.push(b"abc\n");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"abc");
        buffer.push(b"abcd\n");
        assert_eq!(buffer.next_line(), Err(LineTooLong { limit: 4 }));
        let mut endless = LineBuffer::new(4);
        endless.push(b"abcd");
        assert_eq!(endless.next_line(), Err(LineTooLong { limit: 4 }));
    }

    #[test]
    fn another_version_is_named_in_the_refusal() {
        let fault = decode::<AgentRequest>(br#"{"version":99,"request":"identity"}"#).unwrap_err();
        assert_eq!(fault.code, codes::VERSION);
        assert!(fault.message.contains("99"), "{}", fault.message);
    }

    #[test]
    fn an_unknown_request_is_malformed() {
        let fault = decode::<AgentRequest>(br#"{"version":1,"request":"format-disk"}"#).unwrap_err();
        assert_eq!(fault.code, codes::MALFORMED);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<AgentRequest>(&bytes);
            let _ = decode::<SupervisorRequest>(&bytes);
        }

        #[test]
        fn any_json_like_text_is_a_request_or_a_fault(text in r#"\{("version":1,)?("request":"(flows|set-mesh|join|ps)",?)?("[a-z]{1,8}":("[^"\\]{0,8}"|[0-9]{1,20}|null|\[\]|\{\}),?){0,4}\}?"#) {
            let _ = decode::<AgentRequest>(text.as_bytes());
            let _ = decode::<SupervisorRequest>(text.as_bytes());
        }

        #[test]
        fn the_buffer_agrees_with_split(chunks in proptest::collection::vec("[a\n]{0,6}", 0..20)) {
            let whole = chunks.concat();
            let mut buffer = LineBuffer::new(usize::MAX);
            let mut lines = Vec::new();
            for chunk in &chunks {
                buffer.push(chunk.as_bytes());
                while let Some(line) = buffer.next_line().unwrap() {
                    lines.push(String::from_utf8(line).unwrap());
                }
            }
            let mut expected: Vec<_> = whole.split('\n').map(str::to_owned).collect();
            expected.pop();
            prop_assert_eq!(lines, expected);
        }
    }
}
