//! Whether a link that was made carries packets, in both directions and with the offloads that adit relies on.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use adit_link::{Checksum, Frame, Queue, Sent, VnetHeader, ones_complement_sum};

use crate::sys;

/// Far more than a packet takes that is only handed from one side of a kernel to the other.
const PATIENCE: Duration = Duration::from_secs(2);

/// Somebody who is nowhere (RFC 5737).
const ELSEWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 9);

const WORDS: &[u8] = b"is anybody there?";

/// Sends a datagram from the pod that this process is in, with `pod` for its address, and one to it, through the queue of
/// its device. Returns how the kernel took the second, whose checksum is left out.
///
/// # Errors
/// What was done and what came of it.
pub(super) fn exchange(queue: OwnedFd, pod: Ipv4Addr) -> Result<Sent, String> {
    let failed = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let queue = Queue::from_fd(queue).map_err(failed("taking over the queue"))?;
    let socket = UdpSocket::bind((pod, 0)).map_err(failed("opening a socket at the pod's address"))?;
    let port = socket.local_addr().map_err(failed("getsockname"))?.port();
    let deadline = Instant::now() + PATIENCE;

    socket
        .send_to(WORDS, ELSEWHERE)
        .map_err(failed("sending a datagram from the pod"))?;
    let header =
        next_datagram(&queue, deadline).map_err(failed("from the pod: its datagram did not come out"))?;
    if !matches!(
        header.checksum,
        Checksum::Partial { start: 20, offset: 6 } | Checksum::Complete
    ) {
        return Err(format!(
            "from the pod: its datagram came with {:?}",
            header.checksum
        ));
    }

    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(failed("setting a timeout"))?;
    let answer = datagram(ELSEWHERE, SocketAddrV4::new(pod, port));
    let sent = queue
        .send(&VnetHeader::partial_checksum(20, 6), [&answer[..]])
        .map_err(failed("to the pod: the kernel refused a datagram"))?;
    let mut room = [0; 64];
    match socket.recv(&mut room) {
        Ok(len) if room[..len] == *WORDS => Ok(sent),
        Ok(_) => Err("to the pod: another datagram came than was sent".to_owned()),
        Err(error) => Err(format!(
            "to the pod: a datagram with its checksum left out did not arrive: {error}"
        )),
    }
}

/// The header of the next UDP packet over IPv4.
fn next_datagram(queue: &Queue, deadline: Instant) -> io::Result<VnetHeader> {
    let mut frame = Frame::default();
    loop {
        match queue.recv(&mut frame) {
            Ok(Some(header)) if frame.packet().ends_with(WORDS) => return Ok(header),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if sys::wait_readable([queue.as_fd()], Some(deadline))? != [true] {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A UDP packet whose checksum field has the pseudo-header's sum.
fn datagram(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let udp_len = (8 + WORDS.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let sum = !ones_complement_sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [&packet[12..20], &[0, 17], &udp_len.to_be_bytes()].concat();
    for field in [from.port(), to.port(), udp_len, ones_complement_sum(&pseudo)] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(WORDS);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_as_a_kernel_would_make_it() {
        let packet = datagram(ELSEWHERE, SocketAddrV4::new([192, 0, 2, 1].into(), 0x1234));
        assert_eq!(
            ones_complement_sum(&packet[..20]),
            0xffff,
            "the header's checksum is right"
        );
        assert_eq!(packet[20..26], [0, 9, 0x12, 0x34, 0, 25]);
        // 198.51 + 100.1 + 192.0 + 2.1 + 17 + 25, with the carry.
        let sum = 0xc633_u32 + 0x6401 + 0xc000 + 0x0201 + 17 + 25;
        assert_eq!(packet[26..28], ((sum & 0xffff) as u16 + 1).to_be_bytes());
        assert!(packet.ends_with(WORDS));
    }
}
