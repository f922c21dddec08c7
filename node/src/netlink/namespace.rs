//! The numbers by which one network namespace knows others.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Rtnetlink;
use super::message::{Request, attributes, read_u32};

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// `NETNSA_NSID_NOT_ASSIGNED`, which is -1.
const NO_NUMBER: u32 = u32::MAX;

/// Bytes of `struct rtgenmsg`, padded.
const BODY: usize = 4;

impl Rtnetlink {
    /// By which number this namespace knows another: `None` as long as no link here leads there, or links were not listed
    /// since.
    pub(crate) fn number_of(&mut self, namespace: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let request = Request::change(RTM_GETNSID, &[0; BODY])
            .attribute(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        let mut number = None;
        self.socket.call_with(&request, |kind, body| {
            if kind == RTM_NEWNSID {
                number = parse(body);
            }
        })?;
        Ok(number)
    }
}

fn parse(body: &[u8]) -> Option<u32> {
    let (_, payload) = attributes(body.get(BODY..)?).find(|(kind, _)| *kind == NETNSA_NSID)?;
    read_u32(payload, 0).filter(|number| *number != NO_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_unless_there_is_none() {
        let answer = |number: u32| {
            let whole =
                Request::change(RTM_NEWNSID, &[0; BODY]).attribute(NETNSA_NSID, &number.to_ne_bytes());
            parse(&whole.finish(1)[16..])
        };
        assert_eq!(answer(3), Some(3));
        assert_eq!(answer(NO_NUMBER), None);
        assert_eq!(parse(&[0; 2]), None);
    }
}
