use proptest::prelude::*;

use super::*;

fn forwarded(values: &[&str]) -> Result<Option<SocketAddr>, HeadError> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(FORWARDED, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    parse_forwarded(&headers)
}

fn addr(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn the_client_is_the_for_of_the_first_element() {
    let cases: [(&[&str], Option<SocketAddr>); 16] = [
        (&[], None),
        (&["for=\"10.0.0.1:4242\""], addr("10.0.0.1:4242")),
        (&["for=10.0.0.1"], addr("10.0.0.1:0")),
        (&["for=10.0.0.1:4242"], addr("10.0.0.1:4242")),
        (&["For=\"[2001:db8::1]:4711\""], addr("[2001:db8::1]:4711")),
        (&["for=\"[2001:db8::1]\""], addr("[2001:db8::1]:0")),
        (&["for=2001:db8::1"], addr("[2001:db8::1]:0")),
        (&["for=[2001:db8::1]:4711"], addr("[2001:db8::1]:4711")),
        (&["by=10.9.9.9;for=10.0.0.1;proto=http"], addr("10.0.0.1:0")),
        (&["for=10.0.0.1, for=10.0.0.2"], addr("10.0.0.1:0")),
        (&["for=10.0.0.1", "for=10.0.0.2"], addr("10.0.0.1:0")),
        (&["for=\"10.0.0\\.1\""], addr("10.0.0.1:0")),
        (&["for=unknown"], None),
        (&["for=_hidden"], None),
        (&["for=\"10.0.0.1:_port\""], addr("10.0.0.1:0")),
        (&["proto=http ; by=1.1.1.1"], None),
    ];
    for (values, expected) in cases {
        assert_eq!(forwarded(values).unwrap(), expected, "{values:?}");
    }
}

#[test]
fn what_cannot_be_told_is_refused() {
    for bad in [
        "for",
        "for=",
        "=10.0.0.1",
        "for=\"10.0.0.1",
        "for=\"10.0.0.1\\",
        "for=10.0.0.1 for=10.0.0.2",
        "for=10.0.0.1;for=10.0.0.2",
        "for=example.com",
        "for=10.0.0.1:99999",
        "for=[10.0.0.1]",
        "for=\"[fe80::1%1]:80\"",
        "f or=10.0.0.1",
        "for=10.0.0.1, for=\"",
    ] {
        assert!(
            matches!(forwarded(&[bad]), Err(HeadError::BadForwarded { .. })),
            "{bad:?} was taken"
        );
    }
}

#[test]
fn an_authority_is_an_address_and_a_port() {
    assert_eq!(
        parse_authority("10.0.0.1:80").unwrap(),
        "10.0.0.1:80".parse().unwrap()
    );
    assert_eq!(
        parse_authority("[fd00::1]:80").unwrap(),
        "[fd00::1]:80".parse().unwrap()
    );
    for bad in [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "web.shop:80",
        "user@10.0.0.1:80",
        "[fd00::1]",
        "fd00::1:80",
        "[fe80::1%1]:80",
        "[::ffff:10.0.0.1]:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "010.0.0.1:80",
    ] {
        assert!(
            matches!(parse_authority(bad), Err(HeadError::BadAuthority { .. })),
            "{bad:?} was taken"
        );
    }
}

#[test]
fn only_a_plain_connect_will_do() {
    let request = |method: Method, uri: &str| Request::builder().method(method).uri(uri).body(()).unwrap();
    assert!(matches!(
        Connect::parse(&request(Method::GET, "http://10.0.0.1:80/")),
        Err(HeadError::NotConnect { .. })
    ));
    assert_eq!(
        Connect::parse(&request(Method::CONNECT, "/")),
        Err(HeadError::NoAuthority)
    );
    let mut extended = request(Method::CONNECT, "10.0.0.1:80");
    extended
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    assert_eq!(Connect::parse(&extended), Err(HeadError::ExtendedConnect));
}

#[test]
fn what_a_peer_sends_does_not_fill_the_log() {
    let long = "M".repeat(10_000);
    let request = Request::builder()
        .method(long.as_str())
        .uri("10.0.0.1:80")
        .body(())
        .unwrap();
    assert!(Connect::parse(&request).unwrap_err().to_string().len() < 200);
    assert!(parse_authority(&long).unwrap_err().to_string().len() < 200);
}

#[test]
fn a_traceparent_that_is_none_is_ignored() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (text, kept) in [
        (good, true),
        ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
        ("x", false),
    ] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("10.0.0.1:80")
            .header("traceparent", text)
            .body(())
            .unwrap();
        assert_eq!(
            Connect::parse(&request).unwrap().traceparent.is_some(),
            kept,
            "{text}"
        );
    }
}

#[test]
fn baggage_is_spelled_as_istio_does() {
    let baggage = Baggage {
        cluster: "Kubernetes".into(),
        namespace: "shop".into(),
        service: "web, the second".into(),
        ..Baggage::default()
    };
    let text = baggage.to_string();
    assert_eq!(
        text,
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,service.name=web%2C%20the%20second"
    );
    assert_eq!(Baggage::parse(&text), baggage);
    assert_eq!(Baggage::parse("x,=,k8s.pod.name = a%zz ;p=1,other=1").pod, "a%zz");
}

#[test]
fn labels_are_distinct() {
    let mut labels: Vec<_> = HeadLabel::ALL.iter().map(|label| label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), HeadLabel::ALL.len());
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1_u16..)
        .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
        .prop_filter("a host's address", |addr| {
            !addr.ip().is_unspecified() && !addr.ip().is_multicast()
        })
}

proptest! {
    #[test]
    fn a_head_survives_the_wire(
        authority in any_addr(),
        client in prop::option::of(any_addr()),
        names in prop::option::of([".*", ".*", ".*"]),
    ) {
        let baggage = names.map(|[namespace, pod, service]| Baggage {
            namespace: namespace.trim().into(),
            pod: pod.trim().into(),
            service: service.trim().into(),
            ..Baggage::default()
        });
        let head = Connect { authority, client, baggage, traceparent: None };
        prop_assert_eq!(Connect::parse(&head.to_request()).unwrap(), head);
    }

    #[test]
    fn no_text_panics(text in "\\PC*", authority in "\\PC*") {
        let _ = Elements { rest: &text }.first_for();
        let _ = parse_node(&text);
        let _ = parse_authority(&authority);
        let _ = Baggage::parse(&text);
    }

    #[test]
    fn a_quoted_string_reads_back(text in "[ -~]*") {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let field = format!("for=\"{quoted}\"");
        prop_assert_eq!(Elements { rest: &field }.first_for(), Ok(Some(text.into())));
    }
}
