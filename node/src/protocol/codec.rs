//! Fields in and out of a message: nothing here knows what a pod is.

use std::net::IpAddr;

use super::{InvalidMessage, MAX_NAME, VERSION, require};

/// The rest of a message that is being read.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the version and takes the kind.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<(u8, Self), InvalidMessage> {
        let mut reader = Self { rest: bytes };
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(InvalidMessage::Version { version });
        }
        Ok((reader.u8("kind")?, reader))
    }

    /// Ends a message of a protocol in which nothing may come after the last field.
    pub(crate) fn close(self) -> Result<(), InvalidMessage> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(InvalidMessage::TrailingBytes { extra }),
        }
    }

    /// A field that messages of this kind didn't always have: `None` where the message ends before it.
    pub(crate) fn later<T>(
        &mut self,
        field: impl FnOnce(&mut Self) -> Result<T, InvalidMessage>,
    ) -> Result<Option<T>, InvalidMessage> {
        match self.rest {
            [] => Ok(None),
            _ => field(self).map(Some),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], InvalidMessage> {
        let (array, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(InvalidMessage::Truncated { field })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, InvalidMessage> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, InvalidMessage> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, InvalidMessage> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, InvalidMessage> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, InvalidMessage> {
        let value = self.u8(field)?;
        require(value <= 1, field, "0 or 1")?;
        Ok(value == 1)
    }

    /// An address of either family, special ones too.
    pub(crate) fn address(&mut self) -> Result<IpAddr, InvalidMessage> {
        match self.u8("address family")? {
            4 => Ok(self.array::<4>("address")?.into()),
            6 => Ok(self.array::<16>("address")?.into()),
            _ => Err(InvalidMessage::Field {
                field: "address family",
                expected: "4 or 6",
            }),
        }
    }

    /// An address that a host can have.
    pub(crate) fn host_address(&mut self) -> Result<IpAddr, InvalidMessage> {
        let ip = self.address()?;
        require(
            !ip.is_unspecified() && !ip.is_multicast(),
            "address",
            "an address a host can have",
        )?;
        Ok(ip)
    }

    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], InvalidMessage> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(InvalidMessage::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn content(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], InvalidMessage> {
        let len = self.u32(field)? as usize;
        require(len <= max, field, "content within its bound")?;
        self.take(field, len)
    }

    pub(crate) fn text(&mut self, field: &'static str, max: usize) -> Result<String, InvalidMessage> {
        let len = usize::from(self.u16(field)?);
        require(len <= max, field, "a text within its bound")?;
        let text = str::from_utf8(self.take(field, len)?).map_err(|_| InvalidMessage::Field {
            field,
            expected: "UTF-8",
        })?;
        Ok(text.to_owned())
    }

    /// The name of a pod.
    pub(crate) fn name(&mut self) -> Result<String, InvalidMessage> {
        self.plain("pod name", MAX_NAME, "1 to 253 printable ASCII bytes")
    }

    /// A text that ends up in error messages and on terminals, so it is plain: printable ASCII, and not empty.
    pub(crate) fn plain(
        &mut self,
        field: &'static str,
        max: usize,
        expected: &'static str,
    ) -> Result<String, InvalidMessage> {
        let text = self.text(field, max)?;
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        require(plain, field, expected)?;
        Ok(text)
    }

    pub(crate) fn list<T>(
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
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn open(kind: u8) -> Self {
        Self {
            bytes: vec![VERSION, kind],
        }
    }

    pub(crate) fn close(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn with_text(mut self, text: &str) -> Vec<u8> {
        self.text(text);
        self.bytes
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn address(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.bytes(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.bytes(&ip.octets());
            }
        }
    }

    pub(crate) fn content(&mut self, content: &[u8]) {
        self.u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
        self.bytes(content);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.bytes(text.as_bytes());
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
        for one in items {
            item(self, one);
        }
    }
}
