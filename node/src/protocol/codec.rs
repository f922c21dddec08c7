//! Fields in and out of a message: nothing here knows what a pod is.

use super::{InvalidMessage, MAX_NAME, VERSION, require};

/// The rest of a message that is being read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the version and takes the kind.
    pub(super) fn open(bytes: &'a [u8]) -> Result<(u8, Self), InvalidMessage> {
        let mut reader = Self { rest: bytes };
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(InvalidMessage::Version { version });
        }
        Ok((reader.u8("kind")?, reader))
    }

    pub(super) fn close(self) -> Result<(), InvalidMessage> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(InvalidMessage::TrailingBytes { extra }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], InvalidMessage> {
        let (array, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(InvalidMessage::Truncated { field })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, InvalidMessage> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, InvalidMessage> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, InvalidMessage> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, InvalidMessage> {
        let value = self.u8(field)?;
        require(value <= 1, field, "0 or 1")?;
        Ok(value == 1)
    }

    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], InvalidMessage> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(InvalidMessage::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn content(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], InvalidMessage> {
        let len = u32::from_le_bytes(self.array(field)?) as usize;
        require(len <= max, field, "content within its bound")?;
        self.take(field, len)
    }

    pub(super) fn text(&mut self, field: &'static str, max: usize) -> Result<String, InvalidMessage> {
        let len = usize::from(self.u16(field)?);
        require(len <= max, field, "a text within its bound")?;
        let text = str::from_utf8(self.take(field, len)?).map_err(|_| InvalidMessage::Field {
            field,
            expected: "UTF-8",
        })?;
        Ok(text.to_owned())
    }

    /// The name of a pod. It ends up in error messages and on terminals, so it is plain.
    pub(super) fn name(&mut self) -> Result<String, InvalidMessage> {
        let name = self.text("pod name", MAX_NAME)?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        require(plain, "pod name", "1 to 253 printable ASCII bytes")?;
        Ok(name)
    }

    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, InvalidMessage>,
    ) -> Result<Vec<T>, InvalidMessage> {
        let len = usize::from(self.u16(field)?);
        require(len <= max, field, "a list within its bound")?;
        (0..len).map(|_| item(self)).collect()
    }
}

/// A message that is being written. Lengths are cast: what does not fit its field is over the reader's bound as well,
/// and [`Request::encode`](super::Request::encode) reads back what it wrote.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn open(kind: u8) -> Self {
        Self {
            bytes: vec![VERSION, kind],
        }
    }

    pub(super) fn close(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn with_text(mut self, text: &str) -> Vec<u8> {
        self.text(text);
        self.bytes
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn content(&mut self, content: &[u8]) {
        self.bytes(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes(content);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.bytes(text.as_bytes());
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
        for one in items {
            item(self, one);
        }
    }
}
