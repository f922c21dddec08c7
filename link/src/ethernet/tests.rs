use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const POD: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
const BROADCAST: [u8; 6] = [0xff; 6];
const REQUEST: u16 = 1;

/// An Ethernet frame, piece by piece.
fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, content: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), content].concat()
}

fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(POD);
    message.extend(sender);
    message.extend([0; 6]);
    message.extend(target);
    frame(BROADCAST, POD, 0x0806, &message)
}

/// The checksum of ICMPv6, added up in 16 bits with the carry at once: slow, and unlike the code.
fn icmpv6_sum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58]].concat();
    let mut sum = 0_u16;
    for pair in [pseudo.as_slice(), message].concat().chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u16::from(carry);
    }
    !sum
}

/// An ICMPv6 message that comes from the link, with its checksum.
fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = icmpv6_sum(from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = (message.len() as u16).to_be_bytes();
    let packet = [
        &[0x60, 0, 0, 0][..],
        &length,
        &[58, 255],
        &from.octets(),
        &to.octets(),
        &message,
    ]
    .concat();
    frame([0x33, 0x33, 0xff, 0, 0, 1], POD, 0x86dd, &packet)
}

fn solicitation(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(POD);
    let last = target.octets();
    let to = Ipv6Addr::from([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, last[13], last[14], last[15],
    ]);
    icmpv6(from, to, message)
}

fn answer(frame: &[u8]) -> Vec<u8> {
    match examine(frame) {
        Arrival::Question(answer) => answer.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_asks_for_an_ipv4_address_is_told_the_gateways() {
    let expected = frame(
        POD,
        GATEWAY.0,
        0x0806,
        &[
            0, 1, 8, 0, 6, 4, 0, 2, // a reply
            0x02, 0x61, 0x64, 0x69, 0x74, 0x01, 10, 77, 0, 3, // the one that was asked for
            0x02, 0, 0, 0, 0, 0x10, 10, 77, 0, 2, // the one who asked
        ],
    );
    assert_eq!(answer(&arp(REQUEST, [10, 77, 0, 2], [10, 77, 0, 3])), expected);
}

#[test]
fn an_address_is_never_said_to_be_taken() {
    for (operation, sender, target) in [
        (REQUEST, [0, 0, 0, 0], [10, 77, 0, 2]),   // a probe
        (REQUEST, [10, 77, 0, 2], [10, 77, 0, 2]), // an announcement
        (2, [10, 77, 0, 2], [10, 77, 0, 3]),       // a reply to nobody's request
        (REQUEST, [10, 77, 0, 2], [224, 0, 0, 1]), // no host's address
        (REQUEST, [10, 77, 0, 2], [255; 4]),
        (REQUEST, [10, 77, 0, 2], [0; 4]),
    ] {
        assert_eq!(
            examine(&arp(operation, sender, target)),
            Arrival::Aside,
            "{sender:?} {target:?}"
        );
    }
    let target = "fd00::2".parse().unwrap();
    assert_eq!(
        examine(&solicitation(Ipv6Addr::UNSPECIFIED, target)),
        Arrival::Aside
    );
}

#[test]
fn whoever_asks_for_an_ipv6_address_is_told_the_gateways() {
    let (pod, target) = ("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap());
    let told = answer(&solicitation(pod, target));
    let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(GATEWAY.0);
    let mut expected = icmpv6(target, pod, message);
    expected[..6].copy_from_slice(&POD);
    expected[6..12].copy_from_slice(&GATEWAY.0);
    assert_eq!(told, expected);
}

#[test]
fn a_solicitation_that_did_not_come_from_the_link_is_not_answered() {
    let good = solicitation("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap());
    assert!(matches!(examine(&good), Arrival::Question(_)));
    for (at, what) in [
        (14 + 7, "hop limit"),
        (14 + 41, "code"),
        (14 + 42, "checksum"),
        (14 + 5, "length"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(examine(&bad), Arrival::Invalid, "{what}");
    }
}

#[test]
fn talk_of_the_link_stays_on_it_and_packets_pass() {
    let (pod, routers) = ("fd00::2".parse().unwrap(), "ff02::2".parse().unwrap());
    assert_eq!(
        examine(&icmpv6(pod, routers, vec![133, 0, 0, 0, 0, 0, 0, 0])),
        Arrival::Aside
    );
    // A report of multicast listeners: hop-by-hop, then ICMPv6.
    let mut report = icmpv6(
        Ipv6Addr::UNSPECIFIED,
        "ff02::16".parse().unwrap(),
        vec![58, 0, 5, 2, 0, 0, 1, 0],
    );
    report[14 + 6] = 0;
    assert_eq!(examine(&report), Arrival::Aside);
    let ping = icmpv6(pod, "fd00::3".parse().unwrap(), vec![128, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(examine(&ping), Arrival::Packet);
    let v4 = frame(GATEWAY.0, POD, 0x0800, &[0x45; 20]);
    assert_eq!(examine(&v4), Arrival::Packet);
}

#[test]
fn what_is_no_frame_of_the_link_is_invalid() {
    let v4 = frame(GATEWAY.0, POD, 0x0800, &[0x45; 20]);
    for (bad, what) in [
        (v4[..13].to_vec(), "a header cut off"),
        (v4[..14].to_vec(), "no packet"),
        (frame(GATEWAY.0, POD, 0x8100, &[0x45; 20]), "a VLAN tag"),
        (frame(GATEWAY.0, POD, 0x86dd, &[0x45; 20]), "IPv4 as IPv6"),
        (frame(GATEWAY.0, POD, 0x86dd, &[0x60; 39]), "half a header"),
        (frame(GATEWAY.0, BROADCAST, 0x0800, &[0x45; 20]), "from everybody"),
        (
            arp(REQUEST, [10, 0, 0, 1], [10, 0, 0, 2])[..41].to_vec(),
            "half a request",
        ),
    ] {
        assert_eq!(examine(&bad), Arrival::Invalid, "{what}");
    }
    let mut other_hardware = arp(REQUEST, [10, 0, 0, 1], [10, 0, 0, 2]);
    other_hardware[15] = 6;
    assert_eq!(examine(&other_hardware), Arrival::Invalid);
}

#[test]
fn a_packet_is_put_into_a_frame_of_its_version() {
    let pod = MacAddress(POD);
    assert_eq!(header_for(pod, Some(0x45)), *frame(POD, GATEWAY.0, 0x0800, &[]));
    assert_eq!(header_for(pod, Some(0x60)), *frame(POD, GATEWAY.0, 0x86dd, &[]));
    assert_eq!(header_for(pod, None), header_for(pod, Some(0x45)));
}

/// Which requests are answered, and with what, by the fields of a request that was made for the test.
fn arp_model(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Option<[u8; 4]> {
    let probes = sender == Ipv4Addr::UNSPECIFIED || sender == target;
    let hosts =
        (1..0xe000_0000).contains(&u32::from(target)) || (0xf000_0000..u32::MAX).contains(&u32::from(target));
    (operation == REQUEST && !probes && hosts).then(|| target.octets())
}

/// Few addresses, so that equal ones and special ones come up.
fn some_ip() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        Just([0; 4]),
        Just([255; 4]),
        Just([10, 0, 0, 1]),
        Just([224, 0, 0, 251]),
        any::<[u8; 4]>()
    ]
}

proptest! {
    #[test]
    fn requests_are_answered_as_the_model_says(operation in 0..4_u16, sender in some_ip(), target in some_ip()) {
        let told = match examine(&arp(operation, sender, target)) {
            Arrival::Question(answer) => {
                let bytes = answer.as_bytes();
                prop_assert_eq!((&bytes[..6], &bytes[38..42]), (&POD[..], &sender[..]));
                Some([bytes[28], bytes[29], bytes[30], bytes[31]])
            }
            Arrival::Aside => None,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(told, arp_model(operation, sender.into(), target.into()));
    }

    /// What answers a solicitation is a message that its own kind of reader would take.
    #[test]
    fn solicitations_are_answered_about_what_they_ask(from: [u8; 16], target: [u8; 16]) {
        let (from, target) = (Ipv6Addr::from(from), Ipv6Addr::from(target));
        let asked = solicitation(from, target);
        match examine(&asked) {
            Arrival::Question(answer) => {
                let bytes = answer.as_bytes();
                prop_assert!(!from.is_unspecified() && !target.is_multicast());
                prop_assert_eq!(&bytes[22..38], &target.octets()[..]);
                prop_assert_eq!(&bytes[38..54], &from.octets()[..]);
                prop_assert_eq!(icmpv6_sum(target, from, &bytes[54..]), 0);
            }
            other => {
                prop_assert_eq!(other, Arrival::Aside);
                prop_assert!(from.is_unspecified() || target.is_multicast() || target.is_unspecified());
            }
        }
    }

    /// Whatever comes, nothing panics, and what is answered goes to the one who asked, from the gateway alone.
    #[test]
    fn any_bytes_are_examined(
        ethertype in prop_oneof![Just(0x0800), Just(0x0806), Just(0x86dd), any::<u16>()],
        mut content in proptest::collection::vec(any::<u8>(), 0..120),
        shaped: bool,
    ) {
        if shaped && content.len() > 8 {
            content[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        }
        if let Arrival::Question(answer) = examine(&frame(BROADCAST, POD, ethertype, &content)) {
            let bytes = answer.as_bytes();
            prop_assert_eq!((&bytes[..6], &bytes[6..12]), (&POD[..], &GATEWAY.0[..]));
        }
    }
}
