//! The wire format: what is read of a query, and how an answer is made to fit.

use std::net::IpAddr;

use adit_control::Snapshot;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::zone::{self, Records};
use super::{DropReason, TTL, Transport};

/// The length of a header (RFC 1035 §4.1.1), in bytes.
const HEADER: usize = 12;
/// The longest UDP answer to a query without EDNS, in bytes (RFC 1035 §4.2.1).
const PLAIN_UDP: u16 = 512;
/// The longest UDP answer whatever the query offers, in bytes. The way to the workload is a TUN device with a large
/// MTU, so that answers of this length aren't cut into fragments.
const LARGEST_UDP: u16 = 4096;

/// A query that has exactly one question.
pub(super) struct Query {
    message: Message,
}

/// What can't be read as a query.
pub(super) enum Unreadable {
    /// It deserves no answer.
    Drop(DropReason),
    /// It deserves an answer of a header alone.
    Refuse {
        id: u16,
        op_code: OpCode,
        code: ResponseCode,
    },
}

impl Query {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() < HEADER {
            return Err(Unreadable::Drop(DropReason::TooShort { got: bytes.len() }));
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let op_code = OpCode::from_u8(bytes[2] >> 3 & 0xf);
        if bytes[2] & 0x80 != 0 {
            return Err(Unreadable::Drop(DropReason::NotAQuery));
        }
        let malformed = Unreadable::Refuse {
            id,
            op_code,
            code: ResponseCode::FormErr,
        };
        match Message::read(&mut BinDecoder::new(bytes)) {
            Ok(message) if message.queries.len() == 1 => Ok(Self { message }),
            Ok(_) | Err(_) => Err(malformed),
        }
    }

    pub(super) fn op_code(&self) -> OpCode {
        self.message.metadata.op_code
    }

    pub(super) fn edns_version(&self) -> u8 {
        self.message.edns.as_ref().map_or(0, Edns::version)
    }

    pub(super) fn class(&self) -> DNSClass {
        self.question().query_class()
    }

    pub(super) fn record_type(&self) -> RecordType {
        self.question().query_type()
    }

    /// The name asked for, in the letters that it was asked in.
    pub(super) fn name(&self) -> &Name {
        self.question().name()
    }

    /// The labels of the name in lower case, from the left. Bytes that aren't ASCII match no name of a mesh.
    pub(super) fn labels(&self) -> Vec<String> {
        self.name()
            .iter()
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect()
    }

    fn question(&self) -> &hickory_proto::op::Query {
        &self.message.queries[0]
    }

    /// How many bytes an answer may have.
    fn limit(&self, transport: Transport) -> usize {
        let offered = self.message.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            // RFC 6891 §6.2.3: less than 512 is taken for 512.
            Transport::Udp => usize::from(offered.clamp(PLAIN_UDP, LARGEST_UDP)),
        }
    }
}

/// An answer in the making.
pub(super) struct Reply {
    message: Message,
}

impl Reply {
    /// An empty, successful answer.
    pub(super) fn to(query: &Query) -> Self {
        let request = &query.message;
        let mut message = Message::response(request.metadata.id, request.metadata.op_code);
        message.metadata = Metadata::response_from_request(&request.metadata);
        // What the mesh doesn't know is asked of the user's own resolver.
        message.metadata.recursion_available = true;
        message.add_query(query.question().clone());
        if let Some(asked) = &request.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_UDP);
            edns.set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        Self { message }
    }

    /// The answer that the query failed.
    pub(super) fn failed(mut self, code: ResponseCode) -> Self {
        self.message.metadata.response_code = code;
        self
    }

    /// The answer that there is no such name (RFC 2308 §2.1).
    pub(super) fn missing(&mut self, snapshot: &Snapshot, zone: Name) {
        self.message.metadata.authoritative = true;
        self.message.metadata.response_code = ResponseCode::NXDomain;
        self.message
            .add_authority(zone::start_of_authority(snapshot, zone));
    }

    /// The records of a name that exists; if none is of the wanted type, the answer that says so (RFC 2308 §2.2).
    pub(super) fn found(&mut self, snapshot: &Snapshot, query: &Query, zone: Name, records: Records) {
        self.message.metadata.authoritative = true;
        let wanted = |data: &RData| {
            matches!(query.record_type(), RecordType::ANY) || data.record_type() == query.record_type()
        };
        let mut answers: Vec<RData> = records.answers.into_iter().filter(wanted).collect();
        if answers.is_empty() {
            self.message
                .add_authority(zone::start_of_authority(snapshot, zone));
            return;
        }
        // Clients try the first address first: the query's id, which is random, spreads them.
        let start = usize::from(self.message.metadata.id) % answers.len();
        answers.rotate_left(start);
        for data in answers {
            self.message
                .add_answer(Record::from_rdata(query.name().clone(), TTL, data));
        }
        if self
            .message
            .answers
            .iter()
            .any(|record| record.record_type() == RecordType::SRV)
        {
            self.add_glue(records.glue);
        }
    }

    /// Adds the addresses of names that stand in the answer.
    pub(super) fn add_glue(&mut self, glue: impl IntoIterator<Item = (Name, IpAddr)>) {
        let records = glue
            .into_iter()
            .map(|(name, address)| Record::from_rdata(name, TTL, zone::rdata(address)));
        self.message.add_additionals(records);
    }

    /// The bytes of the answer. What doesn't fit is left out: first the additional records, which nobody waits for
    /// (RFC 2181 §9), then everything but the question, with the flag that says so.
    pub(super) fn encode(mut self, query: &Query, transport: Transport) -> Vec<u8> {
        let limit = query.limit(transport);
        for attempt in 0..3 {
            match attempt {
                0 => {}
                1 => self.message.additionals.clear(),
                _ => {
                    self.message.answers.clear();
                    self.message.authorities.clear();
                    self.message.metadata.truncation = true;
                }
            }
            if let Some(bytes) = encoded(&self.message).filter(|bytes| bytes.len() <= limit) {
                return bytes;
            }
        }
        let Metadata { id, op_code, .. } = self.message.metadata;
        refusal(id, op_code, ResponseCode::ServFail)
    }
}

/// The whole message; `None` if it doesn't fit in 65,535 bytes.
fn encoded(message: &Message) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    // The encoder leaves out what is beyond the limit of the format and sets the flag for it (third byte, TC).
    let cut = bytes.get(2).is_some_and(|flags| flags & 0x02 != 0);
    (cut == message.metadata.truncation).then_some(bytes)
}

/// An answer that has only a header (RFC 1035 §4.1.1).
pub(super) fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes[2] = RESPONSE | u8::from(op_code) << 3;
    bytes[3] = code.low();
    bytes
}
