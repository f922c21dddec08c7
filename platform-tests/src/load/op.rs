//! What a connection's first bytes ask of the server, and the report at a stream's end.

use std::time::Duration;

/// Length of the header that begins every connection, in bytes.
pub const HEADER_LEN: usize = 17;
/// Length of a [`Report`] on the wire, in bytes.
pub const REPORT_LEN: usize = 24;

/// What the server does with a connection. On the wire: one letter and two little-endian 64-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sends back what comes, until the client's FIN.
    Echo,
    /// Neither reads nor writes until the connection ends; a minute at most.
    Hold,
    /// Sends `bytes`, waits for a byte that says that they have arrived, then resets the connection: a reset may
    /// overtake what is under way.
    Reset {
        /// Bytes sent before the reset.
        bytes: u64,
    },
    /// Answers every `request` bytes with `response` bytes, until the client's FIN.
    RequestResponse {
        /// Bytes of a request; 1 to 1 MiB.
        request: u32,
        /// Bytes of a response; 1 to 1 MiB.
        response: u32,
    },
    /// Reads until the client's FIN, then sends a [`Report`].
    Sink {
        /// Whether to hash what comes.
        checked: bool,
    },
    /// Sends `bytes`, a [`Report`] and a FIN.
    Source {
        /// How many.
        bytes: u64,
        /// Whether the bytes are the [`Pattern`](super::Pattern) and hashed, or any bytes.
        checked: bool,
    },
    /// Sends for some time, then a [`Report`] and a FIN.
    SourceFor {
        /// How long, in whole milliseconds.
        time: Duration,
        /// Mbit/s; as fast as it can if 0.
        rate: u32,
        /// As for [`Op::Source`].
        checked: bool,
    },
    /// Answers with the client's address as the server sees it, in text, and a FIN.
    Who,
}

/// The first bytes of a connection are no [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHeader(pub [u8; HEADER_LEN]);

/// What one end of a stream sent or received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Payload bytes.
    pub bytes: u64,
    /// Their [`Digest`](super::Digest); 0 if unchecked.
    pub hash: u64,
    /// Nanoseconds from the first byte to the last.
    pub nanos: u64,
}

impl Op {
    /// The header.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let (letter, a, b) = match self {
            Self::Echo => (b'E', 0, 0),
            Self::Hold => (b'H', 0, 0),
            Self::RequestResponse { request, response } => (b'Q', u64::from(request), u64::from(response)),
            Self::Reset { bytes } => (b'R', bytes, 0),
            Self::Sink { checked } => (b'S', 0, u64::from(checked)),
            Self::Source { bytes, checked } => (b'G', bytes, u64::from(checked)),
            Self::SourceFor { time, rate, checked } => (
                b'T',
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
                u64::from(rate) << 1 | u64::from(checked),
            ),
            Self::Who => (b'W', 0, 0),
        };
        let mut header = [0; HEADER_LEN];
        header[0] = letter;
        header[1..9].copy_from_slice(&a.to_le_bytes());
        header[9..].copy_from_slice(&b.to_le_bytes());
        header
    }

    /// What a header asks.
    ///
    /// # Errors
    /// An unknown letter, or sizes out of bounds.
    pub fn decode(header: &[u8; HEADER_LEN]) -> Result<Self, InvalidHeader> {
        const LARGEST: u32 = 1 << 20;
        let number = |from: usize| {
            u64::from_le_bytes(
                header[from..from + 8]
                    .try_into()
                    .expect("the slice has eight bytes"),
            )
        };
        let (a, b) = (number(1), number(9));
        let size = |value: u64| {
            u32::try_from(value)
                .ok()
                .filter(|size| (1..=LARGEST).contains(size))
        };
        Ok(match header[0] {
            b'E' => Self::Echo,
            b'G' => Self::Source {
                bytes: a,
                checked: b != 0,
            },
            b'H' => Self::Hold,
            b'Q' => match (size(a), size(b)) {
                (Some(request), Some(response)) => Self::RequestResponse { request, response },
                _ => return Err(InvalidHeader(*header)),
            },
            b'R' => Self::Reset { bytes: a },
            b'S' => Self::Sink { checked: b != 0 },
            b'T' => Self::SourceFor {
                time: Duration::from_millis(a),
                rate: u32::try_from(b >> 1).map_err(|_| InvalidHeader(*header))?,
                checked: b & 1 != 0,
            },
            b'W' => Self::Who,
            _ => return Err(InvalidHeader(*header)),
        })
    }
}

impl Report {
    /// Three little-endian 64-bit numbers.
    pub fn encode(self) -> [u8; REPORT_LEN] {
        let mut bytes = [0; REPORT_LEN];
        for (chunk, number) in bytes.chunks_exact_mut(8).zip([self.bytes, self.hash, self.nanos]) {
            chunk.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Report::encode`].
    pub fn decode(bytes: &[u8; REPORT_LEN]) -> Self {
        let number = |index: usize| {
            u64::from_le_bytes(
                bytes[index * 8..][..8]
                    .try_into()
                    .expect("the slice has eight bytes"),
            )
        };
        Self {
            bytes: number(0),
            hash: number(1),
            nanos: number(2),
        }
    }
}

impl std::fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected the header of an operation, got {:02x?}", self.0)
    }
}

impl std::error::Error for InvalidHeader {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_round_trips() {
        let all = [
            Op::Echo,
            Op::Hold,
            Op::RequestResponse {
                request: 1,
                response: 1 << 20,
            },
            Op::Reset { bytes: 7 },
            Op::Sink { checked: true },
            Op::Source {
                bytes: u64::MAX,
                checked: false,
            },
            Op::SourceFor {
                time: Duration::from_millis(1500),
                rate: 100,
                checked: true,
            },
            Op::Who,
        ];
        for op in all {
            assert_eq!(Op::decode(&op.encode()), Ok(op));
        }
    }

    #[test]
    fn sizes_out_of_bounds_and_unknown_letters_are_refused() {
        let mut zero = Op::RequestResponse {
            request: 1,
            response: 1,
        }
        .encode();
        zero[1] = 0;
        assert!(Op::decode(&zero).is_err());
        assert!(Op::decode(&[b'?'; HEADER_LEN]).is_err());
    }

    #[test]
    fn reports_round_trip() {
        let report = Report {
            bytes: 1,
            hash: u64::MAX,
            nanos: 1 << 40,
        };
        assert_eq!(Report::decode(&report.encode()), report);
    }
}
