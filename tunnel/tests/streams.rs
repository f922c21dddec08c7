//! What a stream carries, and how it ends.

mod support;

use adit_flow::{CloseReason, Closer, RefuseReason};
use adit_tunnel::{Connect, OpenError, Refusal, ResetCode, Side, StreamError, TunnelEnd};
use bytes::Bytes;
use http::StatusCode;
use support::*;

#[tokio::test]
async fn bytes_arrive_both_ways_and_both_ends_are_clean() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    let ((mut client_send, mut client_recv), (mut server_send, mut server_recv)) =
        (client.split(), server.split());
    let (up, down) = (pattern(5 << 20, 1), pattern(3 << 20, 2));
    let (sent_up, sent_down) = (up.clone(), down.clone());
    let client = async {
        send_all(&mut client_send, sent_up).await.unwrap();
        client_send.finish().unwrap();
    };
    let server = async {
        send_all(&mut server_send, sent_down).await.unwrap();
        server_send.finish().unwrap();
    };
    let (_, _, got_up, got_down) = tokio::join!(
        client,
        server,
        read_all(&mut server_recv),
        read_all(&mut client_recv)
    );
    assert!(got_up.unwrap() == up && got_down.unwrap() == down);
}

#[tokio::test]
async fn the_server_learns_who_asks_for_what_on_whose_behalf() {
    let mut rig = Rig::new();
    let mut connect = Connect::new(web_addr(), client_addr());
    connect.baggage = Some(adit_tunnel::Baggage {
        namespace: "shop".into(),
        ..Default::default()
    });
    let opening = rig.pool.open(&rig.destination, &rig.credentials, &connect);
    let accepting = async {
        let incoming = rig.incoming.recv().await.unwrap();
        assert_eq!(incoming.connect(), &connect);
        assert_eq!(incoming.peer().id(), &id("curl"));
        incoming.accept().unwrap()
    };
    let (opened, _accepted) = tokio::join!(opening, accepting);
    opened.unwrap();
}

#[tokio::test]
async fn an_open_succeeds_only_after_the_accept() {
    let mut rig = Rig::new();
    let connect = Connect::new(web_addr(), client_addr());
    let mut opening = std::pin::pin!(rig.pool.open(&rig.destination, &rig.credentials, &connect));
    let incoming = tokio::select! {
        biased;
        _ = &mut opening => panic!("opened before the accept"),
        incoming = rig.incoming.recv() => incoming.unwrap(),
    };
    for _ in 0..100 {
        tokio::select! {
            biased;
            _ = &mut opening => panic!("opened before the accept"),
            () = tokio::task::yield_now() => {}
        }
    }
    let _accepted = incoming.accept().unwrap();
    opening.await.unwrap();
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    let ((mut client_send, mut client_recv), (mut server_send, mut server_recv)) =
        (client.split(), server.split());
    send_all(&mut client_send, Bytes::from_static(b"request"))
        .await
        .unwrap();
    client_send.finish().unwrap();
    assert_eq!(read_all(&mut server_recv).await.unwrap(), b"request");
    assert_eq!(
        client_send.send(Bytes::from_static(b"late")),
        Err(StreamError::Finished)
    );
    for _ in 0..10 {
        send_all(&mut server_send, Bytes::from_static(b"answer "))
            .await
            .unwrap();
    }
    server_send.finish().unwrap();
    assert_eq!(read_all(&mut client_recv).await.unwrap(), b"answer ".repeat(10));
}

#[tokio::test]
async fn a_reset_of_any_code_is_an_error_and_never_an_end() {
    let mut rig = Rig::new();
    for code in [0, 1, 2, 3, 5, 7, 8, 10, 11, 13, 14, 0x1234, u32::MAX] {
        let code = ResetCode(code);
        for from_client in [true, false] {
            let (client, server) = rig.pair().await;
            let (resetting, other) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            let ((mut send, recv), (mut other_send, mut other_recv)) = (resetting.split(), other.split());
            send_all(&mut send, Bytes::from_static(b"before")).await.unwrap();
            assert_eq!(other_recv.data().await.unwrap().unwrap(), "before");
            send.reset(code);
            drop(recv);
            let expected = StreamError::Reset { by: Side::Peer, code };
            assert_eq!(
                other_recv.data().await,
                Err(expected.clone()),
                "code {code}, from client: {from_client}"
            );
            assert_eq!(other_send.broken().await, expected);
            assert_eq!(other_send.ready().await, Err(expected.clone()));
            assert_eq!(other_send.send(Bytes::from_static(b"x")), Err(expected.clone()));
            assert_eq!(expected.close_reason(), CloseReason::Reset);
            assert_eq!(expected.closer(Closer::Source), Closer::Source);
        }
    }
}

#[tokio::test]
async fn a_reset_after_the_peers_end_still_reaches_the_sender() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    let ((mut client_send, mut client_recv), (mut server_send, server_recv)) =
        (client.split(), server.split());
    server_send.finish().unwrap();
    assert_eq!(client_recv.data().await.unwrap(), None);
    // The server's application went away with data unread.
    server_recv.reset(ResetCode::CONNECT_ERROR);
    assert_eq!(
        client_send.broken().await,
        StreamError::Reset {
            by: Side::Peer,
            code: ResetCode::CONNECT_ERROR
        }
    );
}

#[tokio::test]
async fn a_half_dropped_before_its_end_resets_the_stream() {
    let mut rig = Rig::new();
    let cancelled = StreamError::Reset {
        by: Side::Peer,
        code: ResetCode::CANCEL,
    };
    // The sending half, with what it sent before.
    let (client, server) = rig.pair().await;
    let ((mut client_send, client_recv), (_server_send, mut server_recv)) = (client.split(), server.split());
    send_all(&mut client_send, Bytes::from_static(b"half a message"))
        .await
        .unwrap();
    assert!(server_recv.data().await.unwrap().is_some());
    drop(client_send);
    assert_eq!(server_recv.data().await, Err(cancelled.clone()));
    drop(client_recv);
    // The receiving half, although the sending one ended well.
    let (client, server) = rig.pair().await;
    let ((mut client_send, client_recv), (mut server_send, mut server_recv)) =
        (client.split(), server.split());
    client_send.finish().unwrap();
    assert_eq!(server_recv.data().await.unwrap(), None);
    drop(client_recv);
    assert_eq!(server_send.broken().await, cancelled);
    // A whole stream.
    let (client, server) = rig.pair().await;
    drop(server);
    let (_client_send, mut client_recv) = client.split();
    assert_eq!(client_recv.data().await, Err(cancelled));
}

#[tokio::test]
async fn our_own_reset_is_not_blamed_on_the_peer() {
    let mut rig = Rig::new();
    let (client, _server) = rig.pair().await;
    let (mut send, recv) = client.split();
    recv.reset(ResetCode::CONNECT_ERROR);
    let error = send.ready().await.unwrap_err();
    assert_eq!(
        error,
        StreamError::Reset {
            by: Side::Local,
            code: ResetCode::CONNECT_ERROR
        }
    );
    assert_eq!(error.closer(Closer::Destination), Closer::Agent);
}

#[tokio::test]
async fn a_killed_peer_is_an_error_on_both_halves() {
    for kill_server in [true, false] {
        let mut rig = Rig::new();
        let (client, server) = rig.pair().await;
        let (killed, survivor) = if kill_server {
            (server, client)
        } else {
            (client, server)
        };
        let ((mut killed_send, _killed_recv), (mut send, mut recv)) = (killed.split(), survivor.split());
        send_all(&mut killed_send, Bytes::from_static(b"so far"))
            .await
            .unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "so far");
        // The pipe breaks in the middle of TLS, without close_notify, as when a process is killed.
        rig.cuts.lock().unwrap()[0].send_replace(true);
        let errors = [
            recv.data().await.unwrap_err(),
            send.ready().await.unwrap_err(),
            send.broken().await,
        ];
        for error in errors {
            let lost = matches!(
                &error,
                StreamError::TunnelEnded {
                    end: TunnelEnd::Lost { .. }
                }
            );
            assert!(lost, "killed server: {kill_server}: {error:?}");
            let record = (error.close_reason(), error.closer(Closer::Source));
            assert_eq!(record, (CloseReason::PeerLost, Closer::Network));
        }
    }
}

#[tokio::test]
async fn a_refusal_says_why() {
    let mut rig = Rig::new();
    for (refusal, status) in [
        (Refusal::of(RefuseReason::Denied), StatusCode::UNAUTHORIZED),
        (
            Refusal::of(RefuseReason::Refused),
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        (
            Refusal::of(RefuseReason::Unreachable),
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        (Refusal::BAD_REQUEST, StatusCode::BAD_REQUEST),
    ] {
        let connect = Connect::new(web_addr(), client_addr());
        let opening = rig.pool.open(&rig.destination, &rig.credentials, &connect);
        let refusing = async { rig.incoming.recv().await.unwrap().refuse(refusal) };
        let (outcome, ()) = tokio::join!(opening, refusing);
        let error = outcome.unwrap_err();
        assert!(
            matches!(&error, OpenError::Refused { status: got, .. } if *got == status),
            "{error:?}"
        );
        assert_eq!(error.refuse_reason(), refusal.reason);
    }
    assert_eq!(
        rig.pool.stats().connected_total,
        1,
        "refusals leave the tunnel as it was"
    );
}

#[tokio::test]
async fn an_unanswered_request_is_reset_when_dropped() {
    let mut rig = Rig::new();
    let connect = Connect::new(web_addr(), client_addr());
    let opening = rig.pool.open(&rig.destination, &rig.credentials, &connect);
    let (outcome, ()) = tokio::join!(opening, async { drop(rig.incoming.recv().await) });
    let error = outcome.unwrap_err();
    assert_eq!(error.refuse_reason(), RefuseReason::TunnelFailed);
}

#[tokio::test]
async fn an_opener_that_gives_up_is_seen_by_the_server() {
    let mut rig = Rig::new();
    let connect = Connect::new(web_addr(), client_addr());
    let mut incoming = {
        let mut opening = std::pin::pin!(rig.pool.open(&rig.destination, &rig.credentials, &connect));
        tokio::select! {
            _ = &mut opening => panic!("opened before the accept"),
            incoming = rig.incoming.recv() => incoming.unwrap(),
        }
    };
    let gone = incoming.gone().await;
    assert_eq!(
        gone,
        StreamError::Reset {
            by: Side::Peer,
            code: ResetCode::CANCEL
        }
    );
    assert!(incoming.accept().is_err());
}
