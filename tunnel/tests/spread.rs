//! How the pool spreads bulk over several tunnels, and keeps requests in one.

mod support;

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use adit_tunnel::{Endpoint, PoolConfig, PoolStats, RecvHalf, SendHalf, Stream, StreamError, TunnelConfig};
use bytes::Bytes;
use support::*;

/// What is bulk when it's carried within a second.
const BULK: usize = 1 << 20;

/// Both ends of a stream.
struct Pair {
    up: SendHalf,
    _back: RecvHalf,
    _down: SendHalf,
    arriving: RecvHalf,
}

fn on_the_wire(config: PoolConfig) -> Rig {
    let mut rig = Rig::with(config, TunnelConfig::default());
    rig.destination.target = Endpoint::Wire(web_addr());
    rig
}

async fn pair(rig: &mut Rig) -> Pair {
    Pair::of(rig.pair().await)
}

async fn pairs(rig: &mut Rig, count: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push(pair(rig).await);
    }
    pairs
}

impl Pair {
    fn of((client, server): (Stream, Stream)) -> Self {
        let ((up, _back), (_down, arriving)) = (client.split(), server.split());
        Self {
            up,
            _back,
            _down,
            arriving,
        }
    }

    /// Carries so many bytes from the client to the server.
    async fn carry(&mut self, bytes: usize) -> Result<(), StreamError> {
        carry(&mut self.up, &mut self.arriving, bytes).await
    }
}

async fn carry(send: &mut SendHalf, recv: &mut RecvHalf, bytes: usize) -> Result<(), StreamError> {
    let sending = send_all(send, Bytes::from(vec![7; bytes]));
    let reading = async {
        let mut left = bytes;
        while left > 0 {
            let part = recv.data().await?.expect("no end yet").len();
            recv.release(part);
            left -= part;
        }
        Ok(())
    };
    tokio::try_join!(sending, reading).map(drop)
}

/// Lets what was begun in the background come about: `tunnels` of them.
async fn until_tunnels(rig: &Rig, tunnels: usize) {
    until(&format!("{tunnels} tunnels"), || {
        rig.pool.stats().tunnels == tunnels && rig.pool.stats().connecting == 0
    })
    .await;
}

/// How many of the streams are in the `tunnel`th that was dialled. They break by it.
async fn cut(rig: &Rig, tunnel: usize, pairs: &mut Vec<Pair>) -> usize {
    rig.cuts.lock().unwrap()[tunnel].send_replace(true);
    let before = pairs.len();
    let mut whole = Vec::new();
    for mut pair in pairs.drain(..) {
        if pair.carry(1).await.is_ok() {
            whole.push(pair);
        }
    }
    *pairs = whole;
    before - pairs.len()
}

fn stats(rig: &Rig) -> PoolStats {
    rig.pool.stats()
}

#[tokio::test(start_paused = true)]
async fn who_comes_beside_bulk_gets_another_tunnel() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut bulk = pair(&mut rig).await;
    bulk.carry(2 * BULK).await.unwrap();
    until_tunnels(&rig, 2).await;
    let mut pairs = pairs(&mut rig, 3).await;
    assert_eq!((stats(&rig).spread_total, stats(&rig).connected_total), (1, 2));
    assert_eq!(cut(&rig, 0, &mut pairs).await, 0);
    bulk.carry(BULK).await.unwrap_err();
    assert_eq!(cut(&rig, 1, &mut pairs).await, 3);
}

#[tokio::test(start_paused = true)]
async fn bulk_that_comes_back_counts_as_well() {
    let mut rig = on_the_wire(PoolConfig::default());
    let (client, server) = rig.pair().await;
    let ((_up, mut back), (mut down, _arriving)) = (client.split(), server.split());
    carry(&mut down, &mut back, BULK).await.unwrap();
    until_tunnels(&rig, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_bulk_has_the_next_one_spread_evenly() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut first = pairs(&mut rig, 8).await;
    for pair in &mut first {
        pair.carry(BULK).await.unwrap();
    }
    until_tunnels(&rig, 4).await;
    assert_eq!(stats(&rig).spread_total, 3, "no more than the bound");
    drop(first);
    until("the first eight end", || stats(&rig).streams == 0).await;
    let mut next = pairs(&mut rig, 8).await;
    for tunnel in 0..4 {
        assert_eq!(cut(&rig, tunnel, &mut next).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_keep_one_tunnel_however_much_they_carry_in_time() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut requests = pairs(&mut rig, 20).await;
    for _ in 0..40 {
        for pair in &mut requests {
            pair.carry(BULK / 16).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((stats(&rig).tunnels, stats(&rig).spread_total), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_stays_in_memory_is_not_spread() {
    let mut rig = Rig::new();
    let mut pair = pair(&mut rig).await;
    pair.carry(8 * BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stats(&rig).connected_total, stats(&rig).spread_total), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn one_tunnel_is_all_where_no_more_are_wanted() {
    let mut rig = on_the_wire(PoolConfig {
        spread: NonZeroUsize::MIN,
        ..PoolConfig::default()
    });
    let mut pairs = pairs(&mut rig, 4).await;
    for pair in &mut pairs {
        pair.carry(2 * BULK).await.unwrap();
    }
    assert_eq!((stats(&rig).tunnels, stats(&rig).spread_total), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_other_tunnel_stays_while_there_is_bulk_and_falls_idle_after_it() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut bulk = pair(&mut rig).await;
    bulk.carry(BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((stats(&rig).tunnels, stats(&rig).connected_total), (2, 2));

    // It goes on slowly: it isn't bulk any more.
    bulk.carry(BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((stats(&rig).tunnels, stats(&rig).streams), (1, 1));

    bulk.carry(BULK).await.unwrap();
    bulk.carry(BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stats(&rig).tunnels, 2);
    drop(bulk);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((stats(&rig).tunnels, stats(&rig).connected_total), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn half_of_the_pool_is_left_to_who_has_no_tunnel() {
    let mut rig = on_the_wire(PoolConfig {
        max_tunnels: 4,
        ..PoolConfig::default()
    });
    let mut bulk = pairs(&mut rig, 4).await;
    for pair in &mut bulk {
        pair.carry(BULK).await.unwrap();
    }
    until_tunnels(&rig, 2).await;
    rig.destination.server_name = Some("a.shop".into());
    let _a = pair(&mut rig).await;
    rig.destination.server_name = Some("b.shop".into());
    let _b = pair(&mut rig).await;
    let now = stats(&rig);
    assert_eq!((now.tunnels, now.spread_total), (4, 1));
    assert_eq!((now.evicted_total, now.over_limit_total), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_tunnel_that_died_unseen_before_its_first_stream_is_replaced() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut bulk = pair(&mut rig).await;
    bulk.carry(BULK).await.unwrap();
    until_tunnels(&rig, 2).await;
    rig.cuts.lock().unwrap()[1].send_replace(true);
    let opening = tokio::time::timeout(LONG, pair(&mut rig));
    opening.await.expect("it's opened").carry(10).await.unwrap();
    assert_eq!(stats(&rig).retried_total, 1);
}

#[tokio::test(start_paused = true)]
async fn another_tunnel_that_fails_disturbs_nobody() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut bulk = pair(&mut rig).await;
    rig.failures
        .lock()
        .unwrap()
        .push_back(io::ErrorKind::ConnectionRefused);
    bulk.carry(BULK).await.unwrap();
    until("the failure", || stats(&rig).connect_failed_total == 1).await;
    bulk.carry(BULK).await.unwrap();
    pair(&mut rig).await.carry(10).await.unwrap();
    assert_eq!((stats(&rig).tunnels, stats(&rig).spread_total), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_takes_no_more_streams_begins_no_other() {
    let mut rig = on_the_wire(PoolConfig::default());
    let mut old = pair(&mut rig).await;
    rig.credentials = rig.mesh.credentials("curl");
    let mut new = pair(&mut rig).await;
    // The new one wants another and gets none: the old one, with its old credentials, mustn't see to it.
    rig.failures
        .lock()
        .unwrap()
        .push_back(io::ErrorKind::ConnectionRefused);
    new.carry(BULK).await.unwrap();
    until("the failure", || stats(&rig).connect_failed_total == 1).await;
    old.carry(BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stats(&rig).connected_total, stats(&rig).spread_total), (2, 1));

    let mut drained = pair(&mut rig).await;
    rig.pool.drain();
    drained.carry(BULK).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stats(&rig).connected_total, stats(&rig).spread_total), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_crowd_the_later_tunnels_fall_idle() {
    let tunnel = TunnelConfig {
        max_streams: 4,
        ..TunnelConfig::default()
    };
    let mut rig = on_the_wire(PoolConfig {
        tunnel,
        spread: NonZeroUsize::new(2).unwrap(),
        ..PoolConfig::default()
    });
    let crowd = pairs(&mut rig, 16).await;
    assert_eq!(stats(&rig).tunnels, 4);
    drop(crowd);
    let mut few = Vec::new();
    for _ in 0..20 {
        few = pairs(&mut rig, 3).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!((stats(&rig).tunnels, few.len()), (2, 3));
}
