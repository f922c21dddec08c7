use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn spec() -> PodSpec {
    PodSpec {
        name: "shop/web-0".into(),
        hostname: "web-0".into(),
        addresses: vec![
            PodAddress {
                ip: "10.77.0.2".parse().unwrap(),
                prefix: 32,
            },
            PodAddress {
                ip: "fd00:77::2".parse().unwrap(),
                prefix: 128,
            },
        ],
        mtu: 65520,
        queues: 1,
        files: vec![PodFile {
            path: "/etc/hosts".into(),
            content: b"127.0.0.1 localhost\n".to_vec(),
        }],
    }
}

fn refused(change: impl FnOnce(&mut PodSpec)) -> InvalidMessage {
    let mut spec = spec();
    change(&mut spec);
    Request::CreatePod(spec).encode().unwrap_err()
}

#[test]
fn a_request_reads_back_as_it_was() {
    let request = Request::CreatePod(spec());
    assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
}

#[test]
fn the_wire_form_is_fixed() {
    let bytes = Request::OpenQueues { pod: "a/b".into() }.encode().unwrap();
    assert_eq!(bytes, [1, 5, 3, 0, b'a', b'/', b'b']);
}

#[test]
fn each_bound_is_named_when_it_is_crossed() {
    for (error, field) in [
        (refused(|spec| spec.name.clear()), "pod name"),
        (refused(|spec| spec.name = "a\nb".into()), "pod name"),
        (refused(|spec| spec.name = "x".repeat(MAX_NAME + 1)), "pod name"),
        (refused(|spec| spec.hostname = "a b".into()), "hostname"),
        (refused(|spec| spec.addresses.clear()), "addresses"),
        (
            refused(|spec| spec.addresses = vec![spec.addresses[0]; 17]),
            "addresses",
        ),
        (refused(|spec| spec.addresses[0].prefix = 33), "prefix"),
        (
            refused(|spec| spec.addresses[0].ip = "224.0.0.1".parse().unwrap()),
            "address",
        ),
        (refused(|spec| spec.mtu = 1279), "mtu"),
        (refused(|spec| spec.queues = 0), "queues"),
        (refused(|spec| spec.files[0].path = "etc/hosts".into()), "path"),
        (
            refused(|spec| spec.files[0].path = "/etc/../shadow".into()),
            "path",
        ),
        (
            refused(|spec| spec.files[0].content = vec![0; MAX_FILE_BYTES + 1]),
            "content",
        ),
        (
            refused(|spec| spec.files[0].content = vec![0; 100_000]),
            "content",
        ),
        (
            refused(|spec| spec.files = vec![spec.files[0].clone(); 17]),
            "files",
        ),
    ] {
        assert!(
            matches!(error, InvalidMessage::Field { field: f, .. } if f == field),
            "{field}: {error}"
        );
    }
}

#[test]
fn a_message_cut_or_lengthened_anywhere_is_refused() {
    let bytes = Request::CreatePod(spec()).encode().unwrap();
    for len in 0..bytes.len() {
        assert!(Request::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(
        Request::decode(&longer),
        Err(InvalidMessage::TrailingBytes { extra: 1 })
    );
}

#[test]
fn another_version_says_so() {
    assert_eq!(
        Request::decode(&[2, 6]),
        Err(InvalidMessage::Version { version: 2 })
    );
    assert_eq!(
        Request::decode(&[1, 129]),
        Err(InvalidMessage::Kind { kind: 129 })
    );
    assert_eq!(Reply::decode(&[1, 1]), Err(InvalidMessage::Kind { kind: 1 }));
}

#[test]
fn a_full_list_and_a_full_spec_fit_a_message() {
    let names = vec!["n".repeat(MAX_NAME); MAX_LIST];
    assert!(Reply::Pods { names, more: true }.encode().len() <= MAX_MESSAGE);
    let mut spec = spec();
    spec.files = vec![
        PodFile {
            path: format!("/{}", "p".repeat(MAX_PATH - 1)),
            content: vec![0; MAX_FILE_BYTES / 16]
        };
        16
    ];
    assert!(Request::CreatePod(spec).encode().unwrap().len() <= MAX_MESSAGE);
}

fn text(max: usize) -> impl Strategy<Value = String> {
    vec(proptest::char::range('!', '~'), 1..max).prop_map(|chars| chars.into_iter().collect())
}

fn info() -> impl Strategy<Value = PodInfo> {
    let numbers = any::<(u16, u16, bool, bool, bool, Option<u32>)>();
    (text(50), numbers, vec(text(80), 0..4)).prop_map(
        |(name, (queues, mtu, ipv6, packet, checksum_offload, queue_bytes), warnings)| PodInfo {
            name,
            queues,
            mtu,
            ipv6,
            link: if packet { LinkKind::Packet } else { LinkKind::Tun },
            checksum_offload,
            queue_bytes,
            warnings,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        info().prop_map(Reply::Created),
        Just(Reply::Deleted),
        Just(Reply::Namespaces),
        (vec(text(40), 0..20), any::<bool>()).prop_map(|(names, more)| Reply::Pods { names, more }),
        info().prop_map(Reply::Queues),
        (any::<u16>(), text(200)).prop_map(|(code, message)| Reply::Refused {
            code: Code::from_wire(code),
            message
        }),
        any::<[u64; 7]>().prop_map(|n| Reply::Stats(Counters {
            clients: n[0],
            clients_over_limit: n[1],
            clients_of_other_users: n[2],
            malformed_messages: n[3],
            replies_not_read: n[4],
            pods_created: n[5],
            requests_refused: n[6],
        })),
    ]
}

#[test]
fn little_room_is_told_in_the_same_words_for_each_pod() {
    let info = |queue_bytes| PodInfo {
        name: "a".into(),
        queues: 1,
        mtu: 65520,
        ipv6: true,
        link: LinkKind::Packet,
        checksum_offload: true,
        queue_bytes,
        warnings: Vec::new(),
    };
    let told = info(Some(425_984)).little_room().unwrap();
    assert!(
        told.contains("[ADIT-N047] 416 KiB") && told.contains("net.core.rmem_max"),
        "{told}"
    );
    for enough in [None, Some(LITTLE_ROOM)] {
        assert_eq!(info(enough).little_room(), None);
    }
}

proptest! {
    #[test]
    fn replies_read_back_as_they_were(reply in reply()) {
        prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), kind in 0_u8..8) {
        let _ = Reply::decode(&bytes);
        let headed = [&[VERSION, kind], &bytes[..]].concat();
        for bytes in [&bytes[..], &headed[..]] {
            if let Ok(request) = Request::decode(bytes) {
                prop_assert_eq!(request.encode(), Ok(bytes.to_vec()));
            }
        }
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0_usize..80, to: u8) {
        let mut bytes = Request::CreatePod(spec()).encode().unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), Ok(bytes));
        }
    }
}
