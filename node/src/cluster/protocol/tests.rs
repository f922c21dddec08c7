use super::*;
use crate::protocol::{MAX_ADDRESSES, MAX_MESSAGE, VERSION};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::IpAddr;

fn pod_ref() -> PodRef {
    PodRef {
        uid: "7d5c1a3e-0b52-4f7e-9c7b-1f0a6f0f8a10".into(),
        namespace: "shop".into(),
        name: "web-0".into(),
        addresses: vec!["10.244.0.5".parse().unwrap(), "fd00:244::5".parse().unwrap()],
    }
}

fn refused(change: impl FnOnce(&mut PodRef)) -> InvalidMessage {
    let mut pod = pod_ref();
    change(&mut pod);
    Request::Join(pod).encode().unwrap_err()
}

fn sockets(count: u16) -> Request {
    Request::Sockets {
        uid: "u".into(),
        family: Family::V6,
        kind: Kind::Tcp,
        count,
    }
}

#[test]
fn the_wire_form_is_fixed() {
    let bytes = sockets(64).encode().unwrap();
    assert_eq!(bytes, [VERSION, 4, 1, 0, b'u', 6, 1, 64, 0]);
}

#[test]
fn each_bound_is_named_when_it_is_crossed() {
    let port = |port| Request::OpenPort {
        uid: "u".into(),
        port,
    };
    for (error, field) in [
        (refused(|pod| pod.uid.clear()), "pod uid"),
        (refused(|pod| pod.uid = "..".into()), "pod uid"),
        (refused(|pod| pod.uid = "a/b".into()), "pod uid"),
        (refused(|pod| pod.uid = "x".repeat(MAX_UID + 1)), "pod uid"),
        (refused(|pod| pod.namespace = "a b".into()), "namespace"),
        (refused(|pod| pod.name.clear()), "pod name"),
        (refused(|pod| pod.addresses.clear()), "addresses"),
        (
            refused(|pod| pod.addresses = vec![pod.addresses[0]; MAX_ADDRESSES + 1]),
            "addresses",
        ),
        (
            refused(|pod| pod.addresses[0] = "0.0.0.0".parse().unwrap()),
            "address",
        ),
        (sockets(0).encode().unwrap_err(), "count"),
        (sockets(MAX_SOCKETS + 1).encode().unwrap_err(), "count"),
        (port(0).encode().unwrap_err(), "port"),
        (port(65_535).encode().unwrap_err(), "port"),
    ] {
        assert!(
            matches!(error, InvalidMessage::Field { field: f, .. } if f == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn a_full_page_of_the_largest_pods_fits_a_message() {
    let address = PodAddress {
        ip: "fd00::1".parse().unwrap(),
        prefix: 128,
    };
    let member = Member {
        uid: "u".repeat(MAX_UID),
        namespace: "n".repeat(MAX_NAME),
        name: "p".repeat(MAX_NAME),
        addresses: vec![address; MAX_ADDRESSES],
        wire_mtu: 1500,
        pod_mtu: 65520,
        ipv6: true,
        open_ports: (1..=MAX_PORTS as u16).collect(),
    };
    let reply = Reply::Members {
        members: vec![member; MAX_PAGE],
        more: true,
    };
    let bytes = reply.encode();
    assert!(bytes.len() <= MAX_MESSAGE);
    assert_eq!(Reply::decode(&bytes), Ok(reply));
}

#[test]
fn a_long_reason_is_cut_and_not_refused() {
    let answer = Request::Answer {
        id: 3,
        decision: Decision::Refuse {
            reason: "é".repeat(MAX_REASON),
        },
    };
    let Ok(Request::Answer {
        decision: Decision::Refuse { reason },
        ..
    }) = Request::decode(&answer.encode().unwrap())
    else {
        panic!("expected the answer back");
    };
    assert_eq!(reason.len(), MAX_REASON);
}

#[test]
fn a_message_cut_anywhere_is_refused() {
    let bytes = Request::Join(pod_ref()).encode().unwrap();
    for len in 0..bytes.len() {
        assert!(Request::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn what_a_newer_build_says_besides_is_not_looked_at() {
    let request = Request::Join(pod_ref());
    let longer = [&request.encode().unwrap()[..], &[7, 0, 0]].concat();
    assert_eq!(Request::decode(&longer), Ok(request));
    let counters = counted([3; 14]);
    let longer = [&Reply::Stats(counters).encode()[..], &9_u64.to_le_bytes()].concat();
    assert_eq!(Reply::decode(&longer), Ok(Reply::Stats(counters)));
}

#[test]
fn a_counter_that_an_older_helper_does_not_have_is_none() {
    let bytes = Reply::Stats(counted([3; 14])).encode();
    let mut fewer = [3; 14];
    for known in (0..14).rev() {
        fewer[known] = 0;
        let read = Reply::decode(&bytes[..2 + 8 * known]);
        assert_eq!(read, Ok(Reply::Stats(counted(fewer))), "{known} are known");
        // It has whole numbers, all the same.
        let cut = Reply::decode(&bytes[..2 + 8 * known + 3]);
        assert!(matches!(cut, Err(InvalidMessage::Truncated { .. })), "{cut:?}");
    }
}

fn counted(numbers: [u64; 14]) -> Counters {
    let mut counters = Counters::default();
    for ((_, field), number) in counters.fields().into_iter().zip(numbers) {
        *field = number;
    }
    counters
}

fn text(max: usize) -> impl Strategy<Value = String> {
    vec(proptest::char::range('!', '~'), 1..max).prop_map(|chars| chars.into_iter().collect())
}

fn host_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1_u32..0xe000_0000).prop_map(|bits| IpAddr::V4(bits.into())),
        (1_u128..1 << 120).prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

fn a_pod_ref() -> impl Strategy<Value = PodRef> {
    (
        "[a-zA-Z0-9_-]{1,63}",
        text(60),
        text(60),
        vec(host_address(), 1..5),
    )
        .prop_map(|(uid, namespace, name, addresses)| PodRef {
            uid,
            namespace,
            name,
            addresses,
        })
}

fn member() -> impl Strategy<Value = Member> {
    let prefixed = host_address().prop_map(|ip| PodAddress { ip, prefix: 24 });
    (
        a_pod_ref(),
        vec(prefixed, 0..5),
        any::<(u16, u16, bool)>(),
        vec(any::<u16>(), 0..9),
    )
        .prop_map(|(pod, addresses, (wire_mtu, pod_mtu, ipv6), open_ports)| Member {
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            addresses,
            wire_mtu,
            pod_mtu,
            ipv6,
            open_ports,
        })
}

fn request() -> impl Strategy<Value = Request> {
    let uid = || "[a-zA-Z0-9_-]{1,63}";
    let decision = prop_oneof![
        Just(Decision::Join),
        Just(Decision::JoinByEthernet),
        Just(Decision::LeaveAlone),
        text(80).prop_map(|reason| Decision::Refuse { reason }),
    ];
    prop_oneof![
        Just(Request::Admissions),
        (any::<u64>(), decision).prop_map(|(id, decision)| Request::Answer { id, decision }),
        (uid(), 1..=MAX_PORT).prop_map(|(uid, port)| Request::ClosePort { uid, port }),
        a_pod_ref().prop_map(Request::Join),
        uid().prop_map(|uid| Request::Leave { uid }),
        uid().prop_map(|after| Request::Members { after }),
        (uid(), 1..=MAX_PORT).prop_map(|(uid, port)| Request::OpenPort { uid, port }),
        (uid(), any::<(bool, bool)>(), 1..=MAX_SOCKETS).prop_map(|(uid, (v6, udp), count)| {
            Request::Sockets {
                uid,
                family: if v6 { Family::V6 } else { Family::V4 },
                kind: if udp { Kind::Udp } else { Kind::Tcp },
                count,
            }
        }),
        Just(Request::Stats),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (any::<u64>(), a_pod_ref()).prop_map(|(id, pod)| Reply::Admit(Admission { id, pod })),
        Just(Reply::Admitting),
        member().prop_map(Reply::Joined),
        Just(Reply::Left),
        (vec(member(), 0..5), any::<bool>()).prop_map(|(members, more)| Reply::Members { members, more }),
        Just(Reply::PortClosed),
        Just(Reply::PortOpened),
        (any::<u16>(), text(200)).prop_map(|(code, message)| Reply::Refused {
            code: Code::from_wire(code),
            message
        }),
        Just(Reply::Sockets),
        any::<[u64; 14]>().prop_map(|numbers| Reply::Stats(counted(numbers))),
    ]
}

proptest! {
    #[test]
    fn requests_read_back_as_they_were(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
    }

    #[test]
    fn replies_read_back_as_they_were(reply in reply()) {
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), kind in 0_u8..11) {
        let _ = Reply::decode(&bytes);
        let headed = [&[VERSION, kind], &bytes[..]].concat();
        let _ = Reply::decode(&[&[VERSION, kind + 128], &bytes[..]].concat());
        for bytes in [&bytes[..], &headed[..]] {
            if let Ok(request) = Request::decode(bytes) {
                prop_assert!(bytes.starts_with(&request.encode().unwrap()));
            }
        }
    }
}
