//! Bytes on their way in: records in, plaintext out.

use rustls::AlertDescription;
use tokio::io::ReadBuf;

use super::record::{Content, HEADER, MAX_RECORD, Opener, RecordError};

/// Records that were read, and the plaintext of one that found no room yet.
pub(super) struct Input {
    opener: Opener,
    buffer: Vec<u8>,
    /// What was read and not opened lies in `start..end`.
    start: usize,
    end: usize,
    /// Plaintext that was opened where it lies and not handed out.
    plain: std::ops::Range<usize>,
    /// The beginning of a handshake message that goes on in the next record.
    message: Vec<u8>,
    /// Reads in a row that a small buffer could have taken.
    small_reads: u8,
}

/// What [`Input::step`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The peer said that it's done sending (RFC 8446 §6.1).
    Closed,
    /// Plaintext was handed out.
    Data,
    /// A record without any.
    Nothing,
    /// No whole record is here.
    Starved,
    /// The peer changes its key after this; whether it wants us to do the same.
    UpdateKey { ours_too: bool },
}

/// Why nothing more is taken from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputError {
    /// The peer ended the connection with an error.
    #[error("the peer ended TLS with alert {0:?}")]
    Alert(AlertDescription),
    /// A message that may not come after the handshake, or that makes no sense.
    #[error("a TLS handshake message of type {kind} that has no place here")]
    Message {
        /// Its type (RFC 8446 §4).
        kind: u8,
    },
    /// An alert that makes no sense.
    #[error("a TLS alert that isn't two bytes long")]
    MalformedAlert,
    /// The peer changed its key, and ours to read with can't be had.
    #[error("no key to follow the peer's TLS key update")]
    NoNextKey,
    /// A record that may not be.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Room for one record, whatever its length; what an idle tunnel holds at most.
const SMALL: usize = MAX_RECORD;
/// Room for several, once a read has filled the small one.
const LARGE: usize = 128 << 10;
/// Reads of less than a small buffer, one after the other, until the large one is given back.
const SMALL_READS: u8 = 16;
/// The longest handshake message after the handshake: a session ticket with room to spare.
const MESSAGE_LIMIT: usize = 16 << 10;

impl Input {
    /// With bytes that were read before, opened and not.
    pub(super) fn new(opener: Opener, plain: &[u8], unopened: &[u8]) -> Self {
        let buffer = [plain, unopened].concat();
        Self {
            opener,
            start: plain.len(),
            end: buffer.len(),
            buffer,
            plain: 0..plain.len(),
            message: Vec::new(),
            small_reads: 0,
        }
    }

    /// Hands out waiting plaintext, at most `limit` bytes.
    pub(super) fn take_plain(&mut self, limit: usize) -> &[u8] {
        let count = self.plain.len().min(limit);
        let part = self.plain.start..self.plain.start + count;
        self.plain.start += count;
        &self.buffer[part]
    }

    /// Opens the next record. Its plaintext goes into `out` if that is large enough; otherwise it waits for
    /// [`take_plain`](Self::take_plain). To be called when none waits.
    pub(super) fn step(&mut self, out: &mut ReadBuf<'_>) -> Result<Step, InputError> {
        debug_assert!(self.plain.is_empty(), "plaintext is handed out in order");
        let length = Opener::record_length(&self.buffer[self.start..self.end])?;
        let Some(length) = length.filter(|length| *length <= self.end - self.start) else {
            return Ok(Step::Starved);
        };
        let record = self.start..self.start + length;
        self.start += length;
        let wanted = Opener::room_for(length);
        let (content, count) = if out.remaining() >= wanted {
            let room = out.initialize_unfilled_to(wanted);
            let (content, count) = self.opener.open_into(&self.buffer[record.clone()], room)?;
            if content == Content::ApplicationData {
                out.advance(count);
                return Ok(if count > 0 { Step::Data } else { Step::Nothing });
            }
            // Rare, and what follows wants it in the buffer.
            self.buffer[record.start + HEADER..][..count].copy_from_slice(&room[..count]);
            (content, count)
        } else {
            self.opener.open_in_place(&mut self.buffer[record.clone()])?
        };
        let opened = record.start + HEADER..record.start + HEADER + count;
        match content {
            Content::ApplicationData => {
                self.plain = opened;
                Ok(if count > 0 { Step::Data } else { Step::Nothing })
            }
            Content::Alert => match self.buffer[opened] {
                [_, alert] => on_alert(alert.into()),
                _ => Err(InputError::MalformedAlert),
            },
            Content::Handshake => {
                self.message.extend_from_slice(&self.buffer[opened]);
                self.on_message()
            }
        }
    }

    /// The messages that may follow a handshake without post-handshake authentication (RFC 8446 §4.6).
    fn on_message(&mut self) -> Result<Step, InputError> {
        const NEW_SESSION_TICKET: u8 = 4;
        const KEY_UPDATE: u8 = 24;
        while let Some(&[kind, a, b, c]) = self.message.first_chunk() {
            let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MESSAGE_LIMIT {
                return Err(InputError::Message { kind });
            }
            if self.message.len() < length {
                return Ok(Step::Nothing);
            }
            match (kind, &self.message[4..length]) {
                // Nothing is ever resumed.
                (NEW_SESSION_TICKET, _) => {}
                // The last of its record: what follows has the next key.
                (KEY_UPDATE, [ours_too @ (0 | 1)]) if self.message.len() == length => {
                    let ours_too = *ours_too == 1;
                    self.message = Vec::new();
                    return Ok(Step::UpdateKey { ours_too });
                }
                _ => return Err(InputError::Message { kind }),
            }
            self.message.drain(..length);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(Step::Nothing)
    }

    /// Records from now on are sealed with the peer's next key.
    pub(super) fn update_key(&mut self, opener: Opener) {
        self.opener = opener;
    }

    /// Room for the next read from the transport. To be called when no plaintext waits.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.plain = 0..0; // where it ended may lie beyond a smaller buffer
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > SMALL && self.small_reads >= SMALL_READS {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() < SMALL {
            self.buffer.resize(SMALL, 0);
        }
        if self.buffer.len() - self.start < MAX_RECORD || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// `count` bytes were read into [`room`](Self::room).
    pub(super) fn was_read(&mut self, count: usize) {
        self.end += count;
        if count >= SMALL / 2 {
            self.small_reads = 0;
        } else {
            self.small_reads = self.small_reads.saturating_add(1);
        }
        if self.end == self.buffer.len() && self.buffer.len() < LARGE {
            self.buffer.resize(LARGE, 0);
        }
    }
}

fn on_alert(alert: AlertDescription) -> Result<Step, InputError> {
    match alert {
        AlertDescription::CloseNotify => Ok(Step::Closed),
        // A warning without consequence (RFC 8446 §6.1).
        AlertDescription::UserCanceled => Ok(Step::Nothing),
        alert => Err(InputError::Alert(alert)),
    }
}

impl InputError {
    /// What the peer is told; nothing where it ended the connection itself.
    pub(super) fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::Alert(_) => None,
            Self::Message { .. } => Some(AlertDescription::UnexpectedMessage),
            Self::NoNextKey => Some(AlertDescription::InternalError),
            Self::MalformedAlert => Some(AlertDescription::DecodeError),
            Self::Record(error) => Some(error.alert()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::ConnectionTrafficSecrets;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::super::record::{OVERHEAD, Sealer};
    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
        (0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
    }

    /// What an input made of the bytes: plaintext, other steps, and the error that ended it.
    fn feed(bytes: &[u8], reads: usize, room: usize) -> (Vec<u8>, Vec<Step>, Option<InputError>) {
        let mut input = Input::new(Opener::new(secrets()).unwrap(), &[], &[]);
        let (mut plain, mut steps, mut rest) = (Vec::new(), Vec::new(), bytes);
        loop {
            let mut out = vec![0; room];
            let mut out = ReadBuf::new(&mut out);
            let step = input.step(&mut out);
            plain.extend_from_slice(out.filled());
            loop {
                let part = input.take_plain(room);
                if part.is_empty() {
                    break;
                }
                plain.extend_from_slice(part);
            }
            match step {
                Err(error) => return (plain, steps, Some(error)),
                Ok(Step::Data | Step::Nothing) => {}
                Ok(Step::Starved) if rest.is_empty() => return (plain, steps, None),
                Ok(Step::Starved) => {
                    let space = input.room();
                    let count = reads.min(rest.len()).min(space.len());
                    space[..count].copy_from_slice(&rest[..count]);
                    input.was_read(count);
                    rest = &rest[count..];
                }
                Ok(step) => steps.push(step),
            }
        }
    }

    fn sealed(records: &[(Content, Vec<u8>)]) -> Vec<u8> {
        let mut sealer = Sealer::new(secrets()).unwrap();
        let mut bytes = Vec::new();
        for (kind, content) in records {
            let at = bytes.len();
            bytes.resize(at + content.len() + OVERHEAD, 0);
            sealer.seal(*kind, content, &mut bytes[at..]);
        }
        bytes
    }

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![
            Just(Content::Alert),
            Just(Content::ApplicationData),
            Just(Content::Handshake)
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_peer_seals_is_taken_or_refused(
            records in prop::collection::vec((content(), prop::collection::vec(any::<u8>(), 0..40)), 0..10),
            reads in 1_usize..300,
            room in 1_usize..200,
        ) {
            let (plain, steps, error) = feed(&sealed(&records), reads, room);
            let sent: Vec<u8> = records
                .iter()
                .filter(|(kind, _)| *kind == Content::ApplicationData)
                .flat_map(|(_, content)| content.clone())
                .collect();
            prop_assert!(sent.starts_with(&plain));
            prop_assert!(error.is_some() || !steps.is_empty() || plain == sent);
        }

        #[test]
        fn whatever_else_comes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), reads in 1_usize..100) {
            let (plain, steps, _) = feed(&bytes, reads, 64);
            prop_assert!(plain.is_empty() && steps.is_empty(), "nothing authenticates");
        }
    }

    #[test]
    fn messages_after_the_handshake_are_read_across_records() {
        let ticket = [&[4, 0, 0, 6][..], b"ticket"].concat();
        let records = [
            (Content::Handshake, ticket[..5].to_vec()),
            (Content::Handshake, [&ticket[5..], &[24, 0, 0, 1, 1]].concat()),
        ];
        let (_, steps, error) = feed(&sealed(&records), 1000, 64);
        assert_eq!((steps, error), (vec![Step::UpdateKey { ours_too: true }], None));
    }

    #[test]
    fn messages_that_may_not_come_are_refused() {
        let certificate = (Content::Handshake, vec![11, 0, 0, 0]);
        let early_update = (Content::Handshake, vec![24, 0, 0, 1, 0, 4]);
        let endless = (Content::Handshake, vec![4, 1, 0, 0]);
        for (record, kind) in [(certificate, 11), (early_update, 24), (endless, 4)] {
            let (_, _, error) = feed(&sealed(&[record]), 1000, 64);
            assert_eq!(error, Some(InputError::Message { kind }));
        }
    }

    #[test]
    fn alerts_end_the_connection_each_in_its_way() {
        let alert = |alert: &[u8]| feed(&sealed(&[(Content::Alert, alert.to_vec())]), 1000, 64);
        assert_eq!(alert(&[1, 0]).1, [Step::Closed]);
        assert_eq!(
            alert(&[2, 42]).2,
            Some(InputError::Alert(AlertDescription::BadCertificate))
        );
        assert_eq!(alert(&[1]).2, Some(InputError::MalformedAlert));
        let (_, steps, error) = alert(&[1, 90]);
        assert!(
            steps.is_empty() && error.is_none(),
            "user_canceled has no consequence"
        );
    }
}
