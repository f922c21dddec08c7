//! Any frame of a pod on its wire: examined without a panic, and what is answered goes from the gateway to whoever asked,
//! about what it asked, and only if its answer can't be taken for "that address is in use".

#![no_main]

use adit_link::ethernet::{Arrival, ETHERNET_HEADER, GATEWAY, MacAddress, examine};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

/// Bytes as they are, or behind a header that lets them get further.
#[derive(Debug, Arbitrary)]
enum Input {
    Arp([u8; 22]),
    Frame(Vec<u8>),
    Neighbour { addresses: [u8; 32], message: Vec<u8> },
}

fuzz_target!(|input: Input| {
    let frame = frame(&input);
    let arrival = examine(&frame);
    let Arrival::Question(answer) = arrival else {
        return;
    };
    let answer = answer.as_bytes();
    assert_eq!((&answer[..6], &answer[6..12]), (&frame[6..12], &GATEWAY.0[..]));
    assert_eq!(answer[12..14], frame[12..14], "in the words of the question");
    let asker = MacAddress(frame[6..12].try_into().unwrap());
    assert!(!asker.is_multicast());
    if answer[12..14] == [0x08, 0x06] {
        assert_eq!(answer.len(), ETHERNET_HEADER + 28);
        assert_eq!(answer[28..32], frame[38..42], "the target is the one who answers");
        assert_ne!(frame[28..32], [0; 4], "a probe");
        assert_ne!(frame[28..32], frame[38..42], "an announcement");
    } else {
        assert_eq!(answer.len(), ETHERNET_HEADER + 72);
        assert_eq!(answer[22..38], frame[62..78], "the target is the one who answers");
        assert_eq!(answer[38..54], frame[22..38], "to the one who asked");
        assert_ne!(frame[22..38], [0; 16], "a probe");
    }
    assert_eq!(examine(answer), Arrival::Aside, "an answer is no question");
});

fn frame(input: &Input) -> Vec<u8> {
    let header = |ethertype: [u8; 2]| [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &ethertype].concat();
    match input {
        Input::Frame(bytes) => bytes.clone(),
        Input::Arp(rest) => [&header([0x08, 0x06])[..], &[0, 1, 8, 0, 6, 4], rest].concat(),
        Input::Neighbour { addresses, message } => {
            let length = (message.len() as u16).to_be_bytes();
            let mut frame = header([0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0, length[0], length[1], 58, 255]);
            frame.extend(addresses);
            let at = frame.len();
            frame.extend(message);
            // With its checksum right, which bytes at random would never have.
            if message.len() >= 4 {
                frame[at + 2..at + 4].fill(0);
                let sum = checksum(addresses, &frame[at..]);
                frame[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
            }
            frame
        }
    }
}

fn checksum(addresses: &[u8; 32], message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let all = [&addresses[..], &length, &[0, 0, 0, 58], message].concat();
    !all.chunks(2).fold(0_u16, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}
