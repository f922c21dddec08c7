//! TLS 1.3 records after the handshake (RFC 8446 §5): sealed and opened in buffers of the caller. No IO, no state but
//! keys and sequence numbers.
//!
//! A protected record is a header of [`HEADER`] bytes, then the content, its type, padding of zeros, and the tag of the
//! AEAD, which covers the header too. [`Sealer`] never pads.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error};

/// Bytes before the protected part.
pub(super) const HEADER: usize = 5;
/// The most content of one record, in bytes (RFC 8446 §5.1).
pub(super) const MAX_CONTENT: usize = 1 << 14;
/// What [`Sealer`] adds to the content, in bytes: the header, the type, the tag.
pub(super) const OVERHEAD: usize = HEADER + TYPE + TAG;
/// The longest record that a peer may send, in bytes (RFC 8446 §5.2).
pub(super) const MAX_RECORD: usize = HEADER + MAX_CONTENT + 256;

const TYPE: usize = 1;
const TAG: usize = 16;

/// What a record carries (RFC 8446 §B.1). What else there is has no place after a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Alert,
    ApplicationData,
    Handshake,
}

/// Why a record was not taken. The connection ends by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// It was changed on the way, or its peer and we have different keys.
    #[error("a TLS record doesn't authenticate")]
    BadMac,
    /// A type that may not come now, or none at all.
    #[error("a TLS record of type {kind}, expected application data, an alert or a handshake message")]
    Unexpected {
        /// The type.
        kind: u8,
    },
    /// Longer than any may be.
    #[error("a TLS record of {length} bytes, expected at most {}", MAX_RECORD - HEADER)]
    TooLong {
        /// Bytes after the header.
        length: usize,
    },
    /// Too short to hold a type and a tag.
    #[error("a TLS record of {length} bytes, expected at least {}", TYPE + TAG)]
    TooShort {
        /// Bytes after the header.
        length: usize,
    },
}

impl RecordError {
    /// What the peer is told.
    pub(super) fn alert(self) -> AlertDescription {
        match self {
            Self::BadMac => AlertDescription::BadRecordMac,
            Self::Unexpected { .. } => AlertDescription::UnexpectedMessage,
            Self::TooLong { .. } => AlertDescription::RecordOverflow,
            Self::TooShort { .. } => AlertDescription::DecodeError,
        }
    }
}

/// One direction's key, and the number of the next record under it.
struct Key {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            _ => return Err(Error::General("a cipher suite that was not offered".to_owned())),
        };
        let unusable = |_| Error::General("a traffic key of a wrong length".to_owned());
        Ok(Self {
            aead: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?),
            iv: iv
                .as_ref()
                .try_into()
                .map_err(|_| Error::General("a traffic IV of a wrong length".to_owned()))?,
            sequence,
        })
    }

    /// The nonce of the next record (RFC 8446 §5.3). Numbers never wrap: keys are changed long before.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The sending direction.
pub(super) struct Sealer(Key);

impl Sealer {
    /// # Errors
    /// The secrets are of no cipher suite that is offered.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        Key::new(secrets).map(Self)
    }

    /// Records sealed with this key.
    pub(super) fn sealed(&self) -> u64 {
        self.0.sequence
    }

    /// Seals `content`, at most [`MAX_CONTENT`] bytes, into `record`, which is [`OVERHEAD`] longer.
    pub(super) fn seal(&mut self, kind: Content, content: &[u8], record: &mut [u8]) {
        debug_assert_eq!(record.len(), content.len() + OVERHEAD);
        let header = write_header(record);
        let (protected, type_and_tag) = record[HEADER..].split_at_mut(content.len());
        let (nonce, aad) = (self.0.nonce(), Aad::from(header));
        self.0
            .aead
            .seal_out_of_place_scatter(nonce, aad, content, protected, &[kind.wire()], type_and_tag)
            .expect("the lengths fit each other and are far below the AEAD's limits");
    }

    /// Seals the content that lies in `record` already, behind room for the header and before room for type and tag.
    pub(super) fn seal_in_place(&mut self, kind: Content, record: &mut [u8]) {
        let header = write_header(record);
        let content = record.len() - OVERHEAD;
        let (protected, type_and_tag) = record[HEADER..].split_at_mut(content);
        let (nonce, aad) = (self.0.nonce(), Aad::from(header));
        self.0
            .aead
            .seal_in_place_scatter(nonce, aad, protected, &[kind.wire()], type_and_tag)
            .expect("the lengths fit each other and are far below the AEAD's limits");
    }
}

fn write_header(record: &mut [u8]) -> [u8; HEADER] {
    let [high, low] = ((record.len() - HEADER) as u16).to_be_bytes();
    // A protected record says that it's application data of TLS 1.2, for the sake of middleboxes.
    let header = [Content::ApplicationData.wire(), 3, 3, high, low];
    record[..HEADER].copy_from_slice(&header);
    header
}

/// The receiving direction.
pub(super) struct Opener(Key);

impl Opener {
    /// # Errors
    /// The secrets are of no cipher suite that is offered.
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        Key::new(secrets).map(Self)
    }

    /// The length of the record that begins `bytes`, header included; `None` while that can't be told.
    ///
    /// # Errors
    /// No such record may come.
    pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        if kind != Content::ApplicationData.wire() {
            return Err(RecordError::Unexpected { kind });
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_RECORD - HEADER {
            return Err(RecordError::TooLong { length });
        }
        if length < TYPE + TAG {
            return Err(RecordError::TooShort { length });
        }
        Ok(Some(HEADER + length))
    }

    /// How much room [`open_into`](Self::open_into) needs for a record of `length` bytes.
    pub(super) fn room_for(length: usize) -> usize {
        length - HEADER - TAG
    }

    /// Opens a whole `record` into `out`, of [`room_for`](Self::room_for) bytes: what it carries, and how many bytes.
    ///
    /// # Errors
    /// It's not the next record of the peer, or not one that may come.
    pub(super) fn open_into(
        &mut self,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<(Content, usize), RecordError> {
        let (header, protected) = record.split_at(HEADER);
        let (ciphertext, tag) = protected.split_at(protected.len() - TAG);
        let nonce = self.0.nonce();
        self.0
            .aead
            .open_separate_gather(nonce, Aad::from(header), ciphertext, tag, out)
            .map_err(|_| RecordError::BadMac)?;
        content_of(out)
    }

    /// Opens a whole `record` where it lies: what it carries, and how many bytes behind the header.
    ///
    /// # Errors
    /// As [`open_into`](Self::open_into).
    pub(super) fn open_in_place(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (header, protected) = record.split_at_mut(HEADER);
        let nonce = self.0.nonce();
        let inner = self
            .0
            .aead
            .open_in_place(nonce, Aad::from(&*header), protected)
            .map_err(|_| RecordError::BadMac)?;
        content_of(inner)
    }
}

/// Finds the type behind the content and before the padding.
fn content_of(inner: &[u8]) -> Result<(Content, usize), RecordError> {
    let Some(at) = inner.iter().rposition(|byte| *byte != 0) else {
        return Err(RecordError::Unexpected { kind: 0 });
    };
    if at > MAX_CONTENT {
        return Err(RecordError::TooLong { length: at });
    }
    Ok((Content::from_wire(inner[at])?, at))
}

impl Content {
    fn wire(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }

    fn from_wire(kind: u8) -> Result<Self, RecordError> {
        match kind {
            21 => Ok(Self::Alert),
            22 => Ok(Self::Handshake),
            23 => Ok(Self::ApplicationData),
            kind => Err(RecordError::Unexpected { kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        let key = AeadKey::from([7; 32]);
        let iv = Iv::from([9; NONCE_LEN]);
        (3, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
    }

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap())
    }

    fn seal(sealer: &mut Sealer, kind: Content, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; content.len() + OVERHEAD];
        sealer.seal(kind, content, &mut record);
        record
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_either_way(
            contents in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..8),
        ) {
            let (mut sealer, mut opener) = pair();
            for (content, in_place) in contents {
                let mut record = vec![0; content.len() + OVERHEAD];
                if in_place {
                    record[HEADER..HEADER + content.len()].copy_from_slice(&content);
                    sealer.seal_in_place(Content::ApplicationData, &mut record);
                } else {
                    sealer.seal(Content::ApplicationData, &content, &mut record);
                }
                prop_assert_eq!(Opener::record_length(&record), Ok(Some(record.len())));
                let opened = if in_place {
                    let mut out = vec![0; Opener::room_for(record.len())];
                    let (kind, length) = opener.open_into(&record, &mut out).unwrap();
                    (kind, out[..length].to_vec())
                } else {
                    let (kind, length) = opener.open_in_place(&mut record).unwrap();
                    (kind, record[HEADER..HEADER + length].to_vec())
                };
                prop_assert_eq!(opened, (Content::ApplicationData, content));
            }
        }

        #[test]
        fn a_changed_record_is_never_opened(at in 0_usize..60, bit in 0_u8..8) {
            let (mut sealer, mut opener) = pair();
            let mut record = seal(&mut sealer, Content::Handshake, &[1; 60 - OVERHEAD]);
            record[at] ^= 1 << bit;
            prop_assert_eq!(opener.open_in_place(&mut record), Err(RecordError::BadMac));
        }
    }

    #[test]
    fn a_record_out_of_order_is_not_opened() {
        let (mut sealer, mut opener) = pair();
        let _lost = seal(&mut sealer, Content::ApplicationData, b"one");
        let mut second = seal(&mut sealer, Content::ApplicationData, b"two");
        assert_eq!(opener.open_in_place(&mut second), Err(RecordError::BadMac));
    }

    #[test]
    fn padding_is_taken_off() {
        assert_eq!(content_of(&[5, 6, 22, 0, 0]), Ok((Content::Handshake, 2)));
        assert_eq!(content_of(&[0, 0]), Err(RecordError::Unexpected { kind: 0 }));
        assert_eq!(content_of(&[1, 20]), Err(RecordError::Unexpected { kind: 20 }));
    }

    #[test]
    fn headers_that_may_not_come_are_refused() {
        let length = |bytes: &[u8]| Opener::record_length(bytes);
        assert_eq!(length(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(
            length(&[20, 3, 3, 0, 1]),
            Err(RecordError::Unexpected { kind: 20 })
        );
        assert_eq!(
            length(&[23, 3, 3, 0, 16]),
            Err(RecordError::TooShort { length: 16 })
        );
        assert_eq!(
            length(&[23, 3, 3, 0x41, 0x01]),
            Err(RecordError::TooLong { length: 0x4101 })
        );
    }
}
