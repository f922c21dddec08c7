//! How the pool shares, bounds, retires and replaces tunnels.

mod support;

use std::io;
use std::time::{Duration, SystemTime};

use adit_flow::RefuseReason;
use adit_tunnel::{
    Connect, ConnectError, HandshakeError, OpenError, PoolConfig, Stream, StreamError, TunnelConfig,
    TunnelEnd,
};
use bytes::Bytes;
use support::*;
use tokio::time::Instant;

fn few_streams(max_streams: u32) -> (PoolConfig, TunnelConfig) {
    let tunnel = TunnelConfig {
        max_streams,
        ..TunnelConfig::default()
    };
    (
        PoolConfig {
            tunnel: tunnel.clone(),
            ..PoolConfig::default()
        },
        tunnel,
    )
}

async fn echo_works(client: Stream, server: Stream) {
    let ((mut client_send, mut client_recv), (mut server_send, mut server_recv)) =
        (client.split(), server.split());
    send_all(&mut client_send, Bytes::from_static(b"ping"))
        .await
        .unwrap();
    client_send.finish().unwrap();
    assert_eq!(read_all(&mut server_recv).await.unwrap(), b"ping");
    send_all(&mut server_send, Bytes::from_static(b"pong"))
        .await
        .unwrap();
    server_send.finish().unwrap();
    assert_eq!(read_all(&mut client_recv).await.unwrap(), b"pong");
}

#[tokio::test]
async fn streams_to_one_destination_share_a_tunnel() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        let (client, server) = rig.pair().await;
        echo_works(client, server).await;
    }
    let stats = rig.pool.stats();
    assert_eq!((stats.connected_total, stats.tunnels, stats.streams), (1, 1, 0));
}

#[tokio::test]
async fn a_burst_of_openers_waits_for_as_few_tunnels_as_hold_it() {
    let (client, server) = few_streams(10);
    let mut rig = Rig::with(client, server);
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..35 {
        let (pool, destination, credentials) =
            (rig.pool.clone(), rig.destination.clone(), rig.credentials.clone());
        openers.spawn(async move {
            let connect = Connect::new(web_addr(), client_addr());
            pool.open(&destination, &credentials, &connect).await.unwrap()
        });
    }
    let mut accepted = Vec::new();
    for _ in 0..35 {
        accepted.push(rig.incoming.recv().await.unwrap().accept().unwrap());
    }
    let opened = openers.join_all().await;
    let stats = rig.pool.stats();
    assert_eq!((opened.len(), stats.streams, stats.connected_total), (35, 35, 4));
}

#[tokio::test]
async fn different_destinations_do_not_share() {
    let mut rig = Rig::new();
    let _first = rig.pair().await;
    rig.destination.target = adit_tunnel::Endpoint::Wire(web_addr());
    let _second = rig.pair().await;
    rig.destination.server_name = Some("web.shop".into());
    let _third = rig.pair().await;
    assert_eq!(rig.pool.stats().tunnels, 3);
    let names = rig.server.seen.server_names.lock().unwrap().clone();
    assert_eq!(names, [None, None, Some("web.shop".to_owned())]);
}

#[tokio::test]
async fn a_full_pool_closes_the_longest_idle_tunnel_or_refuses() {
    let (client, server) = few_streams(1);
    let mut rig = Rig::with(
        PoolConfig {
            max_tunnels: 2,
            ..client
        },
        server,
    );
    let _busy = rig.pair().await;
    let idle = rig.pair().await;
    let error = rig.open().await.unwrap_err();
    assert!(matches!(error, OpenError::OverLimit { limit: 2 }));
    assert_eq!(error.refuse_reason(), RefuseReason::OverLimit);
    drop(idle);
    rig.destination.server_name = Some("other.shop".into());
    let _other = rig.pair().await;
    let stats = rig.pool.stats();
    assert_eq!(
        (stats.tunnels, stats.evicted_total, stats.over_limit_total),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn a_failed_dial_reaches_all_who_waited_and_is_not_remembered() {
    let mut rig = Rig::new();
    rig.failures
        .lock()
        .unwrap()
        .push_back(io::ErrorKind::HostUnreachable);
    let (one, two) = tokio::join!(rig.open(), rig.open());
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(
            matches!(&error, OpenError::Connect { source, .. } if matches!(**source, ConnectError::Dial(_)))
        );
        assert_eq!(error.refuse_reason(), RefuseReason::Unreachable);
    }
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().connect_failed_total, 1);
}

#[tokio::test]
async fn the_opener_that_gives_up_does_not_take_the_tunnel_from_the_others() {
    let mut rig = Rig::new();
    {
        let connect = Connect::new(web_addr(), client_addr());
        let mut opening = std::pin::pin!(rig.pool.open(&rig.destination, &rig.credentials, &connect));
        tokio::select! {
            biased;
            _ = &mut opening => panic!("opened before anything was accepted"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(rig.pool.stats().connecting, 1);
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().connected_total, 1);
}

#[tokio::test]
async fn credentials_of_another_workload_are_refused() {
    let mut rig = Rig::new();
    rig.credentials = rig.mesh.credentials("db");
    assert!(matches!(
        rig.open().await.unwrap_err(),
        OpenError::WrongCredentials { .. }
    ));
}

#[tokio::test]
async fn a_connection_that_breaks_off_in_the_handshake_is_made_again_twice() {
    let mut rig = Rig::new();
    *rig.cut_at_once.lock().unwrap() = 2;
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    let stats = rig.pool.stats();
    assert_eq!((stats.retried_total, stats.connect_failed_total), (2, 2));

    rig.destination.server_name = Some("other.shop".into());
    *rig.cut_at_once.lock().unwrap() = 3;
    let error = rig.open().await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Connect { source, .. } if matches!(**source, ConnectError::Handshake(_))),
        "{error:?}"
    );
    assert_eq!(*rig.cut_at_once.lock().unwrap(), 0, "three attempts");
}

#[tokio::test]
async fn a_tunnel_that_died_unseen_is_replaced_at_the_next_use() {
    let mut rig = Rig::new();
    drop(rig.pair().await);
    rig.cuts.lock().unwrap()[0].send_replace(true);
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().connected_total, 2);
}

#[tokio::test]
async fn new_credentials_take_a_new_tunnel_and_old_streams_go_on() {
    let mut rig = Rig::new();
    let old = rig.pair().await;
    rig.credentials = rig.mesh.credentials("curl");
    let new = rig.pair().await;
    assert_eq!(rig.pool.stats().connected_total, 2);
    echo_works(old.0, old.1).await;
    echo_works(new.0, new.1).await;
    let again = rig.pair().await;
    assert_eq!(rig.pool.stats().connected_total, 2, "the new tunnel serves both");
    drop(again);
}

#[tokio::test]
async fn a_peer_whose_certificate_expires_needs_a_new_tunnel_and_running_streams_stay() {
    let mesh = Mesh::new();
    // Valid for a moment longer: what's left of the second, and one more.
    let short = mesh.credentials_at(
        "web",
        SystemTime::now() - Duration::from_secs(5),
        Duration::from_secs(7),
    );
    let mut rig = Rig::of(mesh, short, PoolConfig::default(), TunnelConfig::default());
    let old = rig.pair().await;
    *rig.server.credentials.lock().unwrap() = rig.mesh.credentials("web");
    until_it_expired().await;
    let new = rig.pair().await;
    assert_eq!(rig.pool.stats().connected_total, 2);
    echo_works(old.0, old.1).await;
    echo_works(new.0, new.1).await;
}

/// A certificate issued five seconds ago for seven has two left, and its last second counts whole.
async fn until_it_expired() {
    let after = SystemTime::now() + Duration::from_secs(3);
    while SystemTime::now() <= after {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_client_whose_certificate_expires_is_asked_for_a_new_tunnel() {
    let mut rig = Rig::new();
    rig.credentials = rig.mesh.credentials_at(
        "curl",
        SystemTime::now() - Duration::from_secs(5),
        Duration::from_secs(7),
    );
    let old = rig.pair().await;
    rig.credentials = rig.mesh.credentials("curl");
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    until_it_expired().await;
    echo_works(old.0, old.1).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let config = PoolConfig {
        idle_close: Duration::from_secs(60),
        ..PoolConfig::default()
    };
    let mut rig = Rig::with(config, TunnelConfig::default());
    let (client, server) = rig.pair().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.pool.stats().tunnels, 1);
    echo_works(client, server).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.pool.stats().tunnels, 0);
    assert_eq!(rig.ends(), ["ok"]);
}

#[tokio::test(start_paused = true)]
async fn no_answer_in_time_is_a_time_out_and_resets_the_request() {
    let mut rig = Rig::new();
    let connect = Connect::new(web_addr(), client_addr());
    let opening = rig.pool.open(&rig.destination, &rig.credentials, &connect);
    let (outcome, incoming) = tokio::join!(opening, rig.incoming.recv());
    let mut incoming = incoming.unwrap();
    let error = outcome.unwrap_err();
    assert!(matches!(error, OpenError::NoAnswer { .. }), "{error:?}");
    assert_eq!(error.refuse_reason(), RefuseReason::TimedOut);
    assert!(matches!(incoming.gone().await, StreamError::Reset { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_shakes_hands_is_a_time_out() {
    struct Silent;
    impl adit_tunnel::Dial for Silent {
        type Io = tokio::io::DuplexStream;

        async fn dial(&self, _: &adit_tunnel::Destination) -> io::Result<tokio::io::DuplexStream> {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                tokio::time::sleep(LONG).await;
                drop(theirs);
            });
            Ok(ours)
        }
    }
    let rig = Rig::new();
    let pool = adit_tunnel::Pool::new(PoolConfig::default(), Silent);
    let connect = Connect::new(web_addr(), client_addr());
    let error = pool
        .open(&rig.destination, &rig.credentials, &connect)
        .await
        .unwrap_err();
    assert_eq!(error.refuse_reason(), RefuseReason::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_answering_is_lost() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    let (mut client_send, mut client_recv) = client.split();
    rig.stalls.lock().unwrap()[0].send_replace(true);
    let error = client_recv.data().await.unwrap_err();
    assert_eq!(
        error,
        StreamError::TunnelEnded {
            end: TunnelEnd::Silent
        }
    );
    assert_eq!(client_send.broken().await, error);
    let (_server_send, mut server_recv) = server.split();
    assert_eq!(server_recv.data().await.unwrap_err(), error);
    assert_eq!(rig.ends(), ["silent"]);
}

#[tokio::test]
async fn a_drained_pool_opens_nothing_and_lets_streams_end() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    rig.pool.drain();
    assert_eq!(
        rig.open().await.unwrap_err().refuse_reason(),
        RefuseReason::Draining
    );
    echo_works(client, server).await;
}

#[tokio::test]
async fn a_draining_server_refuses_nobody_and_cuts_nobody_before_its_deadline() {
    let mut rig = Rig::new();
    let old = rig.pair().await;
    rig.drainer.start(Instant::now() + LONG);
    // The replacement, as of a new agent: the same address, another process.
    let (new_drainer, new_drain) = adit_tunnel::Drainer::new();
    rig.replace_server_drain(new_drain);
    for _ in 0..50 {
        let (client, server) = rig.pair().await;
        echo_works(client, server).await;
    }
    assert_eq!(rig.pool.stats().connected_total, 2);
    echo_works(old.0, old.1).await;
    drop(new_drainer);
}

#[tokio::test]
async fn a_peer_that_drains_from_its_first_word_on_is_asked_again() {
    let mut rig = Rig::new();
    rig.drainer.start(Instant::now() + LONG);
    let error = rig.open().await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Connect { source, .. }
            if matches!(**source, ConnectError::Handshake(HandshakeError::Draining))),
        "{error:?}"
    );
    assert_eq!(rig.pool.stats().retried_total, 2);

    let (new_drainer, new_drain) = adit_tunnel::Drainer::new();
    rig.replace_server_drain(new_drain);
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    drop(new_drainer);
}

#[tokio::test]
async fn openers_that_race_a_drain_all_succeed() {
    let mut rig = Rig::new();
    drop(rig.pair().await);
    let acceptor = rig.accept_everything();
    let mut openers = tokio::task::JoinSet::new();
    for turn in 0..200 {
        let (pool, destination, credentials) =
            (rig.pool.clone(), rig.destination.clone(), rig.credentials.clone());
        openers.spawn(async move {
            for _ in 0..turn % 7 {
                tokio::task::yield_now().await;
            }
            let connect = Connect::new(web_addr(), client_addr());
            pool.open(&destination, &credentials, &connect).await.map(drop)
        });
        if turn == 100 {
            let (drainer, drain) = adit_tunnel::Drainer::new();
            rig.drainer.start(Instant::now() + LONG);
            rig.replace_server_drain(drain);
            rig.drainer = drainer;
        }
        tokio::task::yield_now().await;
    }
    for outcome in openers.join_all().await {
        outcome.unwrap();
    }
    assert!(rig.pool.stats().connected_total >= 2);
    acceptor.abort();
}

#[tokio::test(start_paused = true)]
async fn at_the_drain_deadline_what_is_left_is_cut_and_says_so() {
    let mut rig = Rig::new();
    let (client, server) = rig.pair().await;
    let ((_client_send, mut client_recv), (_server_send, mut server_recv)) = (client.split(), server.split());
    rig.drainer.start(Instant::now() + Duration::from_secs(5));
    let error = server_recv.data().await.unwrap_err();
    assert_eq!(
        error,
        StreamError::TunnelEnded {
            end: TunnelEnd::Drained
        }
    );
    assert!(matches!(
        client_recv.data().await.unwrap_err(),
        StreamError::TunnelEnded { .. }
    ));
    assert_eq!(rig.ends(), ["drained"]);
}

#[tokio::test]
async fn eight_stalled_readers_do_not_delay_a_ninth() {
    let tunnel = TunnelConfig {
        stream_window: 1 << 16,
        max_streams: 16,
        ..TunnelConfig::default()
    };
    let config = PoolConfig {
        tunnel: tunnel.clone(),
        max_tunnels: 1,
        ..PoolConfig::default()
    };
    let mut rig = Rig::with(config, tunnel);
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let (client, server) = rig.pair().await;
        let ((mut up, client_recv), (mut down, server_recv)) = (client.split(), server.split());
        // Both directions are filled until nothing more goes in; nobody reads.
        let up = tokio::spawn(async move { send_all(&mut up, pattern(1 << 20, 1)).await });
        let down = tokio::spawn(async move { send_all(&mut down, pattern(1 << 20, 2)).await });
        stalled.push((up, down, client_recv, server_recv));
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().tunnels, 1);
    assert!(
        stalled
            .iter()
            .all(|(up, down, ..)| !up.is_finished() && !down.is_finished())
    );
}

#[tokio::test]
async fn a_slow_reader_bounds_what_is_sent() {
    let tunnel = TunnelConfig {
        stream_window: 1 << 16,
        ..TunnelConfig::default()
    };
    let config = PoolConfig {
        tunnel: tunnel.clone(),
        ..PoolConfig::default()
    };
    let mut rig = Rig::with(config, tunnel);
    let (client, server) = rig.pair().await;
    let ((mut send, _client_recv), (_server_send, mut recv)) = (client.split(), server.split());
    let mut sent = 0;
    while let Ok(room) = tokio::time::timeout(Duration::from_millis(200), send.ready()).await {
        let room = room.unwrap();
        send.send(Bytes::from(vec![7; room])).unwrap();
        sent += room;
    }
    assert_eq!(sent, 1 << 16, "exactly one window");
    let mut got = 0;
    while got < sent {
        got += recv.data().await.unwrap().unwrap().len();
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(100), send.ready())
            .await
            .is_err(),
        "read, but not released"
    );
    recv.release(usize::MAX);
    assert!(send.ready().await.unwrap() > 0);
}

#[tokio::test]
async fn windows_of_streams_that_were_reset_unread_are_not_lost() {
    let tunnel = TunnelConfig {
        stream_window: 1 << 16,
        max_streams: 2,
        ..TunnelConfig::default()
    };
    let config = PoolConfig {
        tunnel: tunnel.clone(),
        max_tunnels: 1,
        ..PoolConfig::default()
    };
    let mut rig = Rig::with(config, tunnel);
    // Far more than the connection's window in all.
    for round in 0..40 {
        let (client, server) = rig.pair().await;
        let ((mut send, client_recv), (server_send, mut recv)) = (client.split(), server.split());
        let room = send.ready().await.unwrap();
        send.send(Bytes::from(vec![1; room])).unwrap();
        if round % 2 == 0 {
            // Taken and never released.
            recv.data().await.unwrap().unwrap();
        }
        drop((recv, server_send));
        send.broken().await;
        drop((send, client_recv));
    }
    let (client, server) = rig.pair().await;
    let ((mut send, _client_recv), (_server_send, mut recv)) = (client.split(), server.split());
    let bytes = pattern(1 << 20, 3);
    let sending = async {
        send_all(&mut send, bytes.clone()).await.unwrap();
        send.finish().unwrap();
    };
    let ((), got) = tokio::join!(sending, read_all(&mut recv));
    assert!(got.unwrap() == bytes);
    assert_eq!(rig.pool.stats().connected_total, 1);
}

#[tokio::test]
async fn thousands_of_idle_streams_stay_usable() {
    let mut rig = Rig::new();
    let mut streams = Vec::new();
    for _ in 0..2000 {
        streams.push(rig.pair().await);
    }
    assert_eq!(rig.pool.stats().tunnels, 8);
    for (client, server) in streams {
        echo_works(client, server).await;
    }
}

#[tokio::test]
async fn many_resets_do_not_wear_a_tunnel_out() {
    let mut rig = Rig::new();
    for _ in 0..3000 {
        let (client, server) = rig.pair().await;
        let ((mut send, client_recv), (mut server_send, server_recv)) = (client.split(), server.split());
        // Bytes cross the reset on the wire.
        send.send(Bytes::from_static(b"crossing")).unwrap();
        server_send.send(Bytes::from_static(b"crossing")).unwrap();
        drop((server_send, server_recv));
        drop((send, client_recv));
    }
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().connected_total, 1);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_whose_streams_all_stall_gets_no_new_one_while_another_can_be_had() {
    let mut rig = Rig::with(
        PoolConfig {
            max_tunnels: 2,
            max_blocked: 3,
            ..PoolConfig::default()
        },
        {
            TunnelConfig {
                stream_window: 1 << 16,
                ..TunnelConfig::default()
            }
        },
    );
    let mut stalled = Vec::new();
    for tunnels in [1, 2] {
        for _ in 0..3 {
            let (client, server) = rig.pair().await;
            let (mut send, recv) = client.split();
            let sending = tokio::spawn(async move { send_all(&mut send, pattern(1 << 20, 1)).await });
            stalled.push((sending, recv, server));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rig.pool.stats().tunnels, tunnels);
    }
    // No third tunnel may be had: better a crowded one than none.
    let (client, server) = rig.pair().await;
    echo_works(client, server).await;
    assert_eq!(rig.pool.stats().tunnels, 2);
}

#[tokio::test]
async fn it_works_over_loopback_as_over_a_pipe() {
    struct Tcp(std::net::SocketAddr);
    impl adit_tunnel::Dial for Tcp {
        type Io = tokio::net::TcpStream;

        async fn dial(&self, _: &adit_tunnel::Destination) -> io::Result<tokio::net::TcpStream> {
            tokio::net::TcpStream::connect(self.0).await
        }
    }
    let mut rig = Rig::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = adit_tunnel::Pool::new(PoolConfig::default(), Tcp(listener.local_addr().unwrap()));
    let server = std::sync::Arc::clone(&rig.server);
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        server.serve_on(socket);
    });
    let connect = Connect::new(web_addr(), client_addr());
    let opening = pool.open(&rig.destination, &rig.credentials, &connect);
    let accepting = async { rig.incoming.recv().await.unwrap().accept().unwrap() };
    let (client, server) = tokio::join!(opening, accepting);
    let (mut send, _client_recv) = client.unwrap().split();
    let (_server_send, mut recv) = server.split();
    let bytes = pattern(20 << 20, 5);
    let sending = async {
        send_all(&mut send, bytes.clone()).await.unwrap();
        send.finish().unwrap();
    };
    let ((), got) = tokio::join!(sending, read_all(&mut recv));
    assert!(got.unwrap() == bytes);
}
