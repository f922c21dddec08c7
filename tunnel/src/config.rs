use std::num::NonZeroUsize;
use std::time::Duration;

/// The bounds of one tunnel, either side.
///
/// The defaults fit agents that speak to each other; [`check`](Self::check) says what doesn't fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Bytes of one stream that may be on their way to us unread. Default 1 MiB: the bandwidth-delay product of
    /// 8 Gbit/s over 1 ms. The most memory that one stalled reader costs.
    pub stream_window: u32,
    /// Streams in one tunnel at once. Default 256. The connection's window is this times `stream_window`, so
    /// that streams whose readers stall can never use up what the others need.
    pub max_streams: u32,
    /// The largest DATA frame we take, in bytes of payload. Default 64 KiB: see `benches/bulk.rs`.
    pub max_frame: u32,
    /// Bytes of one stream that may wait to be written. Default 256 KiB. With `max_frame` it bounds how much of
    /// one stream goes out before another has its turn.
    pub send_buffer: usize,
    /// The largest header list we take, as RFC 9113 §6.5.2 counts it. Default 16 KiB.
    pub max_head: u32,
    /// From the first byte to the end of the TLS and HTTP/2 handshakes. Default 10 s.
    pub handshake_timeout: Duration,
    /// How often to ask whether the peer is there. Default 10 s, as ztunnel.
    pub ping_interval: Duration,
    /// How long a peer may take to answer before it counts as lost. Default 20 s.
    pub ping_timeout: Duration,
}

/// The bounds of a [`Pool`](crate::Pool).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Of each tunnel.
    pub tunnel: TunnelConfig,
    /// Tunnels in the pool at once, those being set up included. When all are taken, the one that has been idle
    /// longest makes room; when none is idle, the new stream is refused as over limit. Default 4096.
    pub max_tunnels: usize,
    /// Tunnels to one destination on the network that its streams are spread over once some of them are bulk. Default 4; 1 keeps all
    /// streams in one as long as it has room. Others are set up for that only while less than half of `max_tunnels` are
    /// taken.
    pub spread: NonZeroUsize,
    /// Tunnels that may be set up to one destination at the same time. Default 4.
    pub max_connecting: usize,
    /// A tunnel without streams is closed after this time. Default 60 s.
    pub idle_close: Duration,
    /// To dial, and to finish both handshakes. Default 10 s.
    pub connect_timeout: Duration,
    /// From the CONNECT to its answer, which comes only once the far application has accepted or refused.
    /// Default 30 s.
    pub answer_timeout: Duration,
    /// A tunnel in which this many streams wait for the peer's window takes no new stream while another tunnel
    /// can be had. Default 3: a stock ztunnel's connection window is four of its stream windows.
    pub max_blocked: usize,
}

/// A bound that can't be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel configuration: expected {field} to be {expected}, got {got}")]
pub struct InvalidConfig {
    /// The field's name.
    pub field: &'static str,
    /// What it may be.
    pub expected: &'static str,
    /// What it is.
    pub got: u64,
}

/// Why so many: docs/adr/0033-bulk-is-spread.md.
const SPREAD: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            max_streams: 256,
            max_frame: 64 << 10,
            send_buffer: 256 << 10,
            max_head: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            tunnel: TunnelConfig::default(),
            max_tunnels: 4096,
            spread: SPREAD,
            max_connecting: 4,
            idle_close: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            max_blocked: 3,
        }
    }
}

impl TunnelConfig {
    /// The window of a tunnel as a whole: all its streams' windows, at most 2^31 - 1.
    pub fn connection_window(&self) -> u32 {
        self.stream_window
            .saturating_mul(self.max_streams)
            .clamp(1, MAX_WINDOW)
    }

    /// Whether the bounds are within those of HTTP/2, and one connection window holds all stream windows.
    ///
    /// # Errors
    /// The first field that isn't.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let rules = [
            (
                "stream_window",
                "65535 to 2^31 - 1",
                u64::from(self.stream_window),
                (65_535..=MAX_WINDOW).contains(&self.stream_window),
            ),
            (
                "max_streams",
                "at least 1",
                u64::from(self.max_streams),
                self.max_streams > 0,
            ),
            (
                "max_streams",
                "so few that max_streams times stream_window is below 2^31",
                u64::from(self.max_streams),
                self.stream_window
                    .checked_mul(self.max_streams)
                    .is_some_and(|window| window <= MAX_WINDOW),
            ),
            (
                "max_frame",
                "16384 to 2^24 - 1",
                u64::from(self.max_frame),
                (16_384..1 << 24).contains(&self.max_frame),
            ),
            (
                "send_buffer",
                "16384 to 2^31 - 1",
                self.send_buffer as u64,
                (16_384..=MAX_WINDOW as usize).contains(&self.send_buffer),
            ),
            (
                "max_head",
                "at least 1024",
                u64::from(self.max_head),
                self.max_head >= 1024,
            ),
        ];
        for (field, expected, got, kept) in rules {
            if !kept {
                return Err(InvalidConfig { field, expected, got });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        let config = TunnelConfig::default();
        config.check().unwrap();
        assert_eq!(config.connection_window(), 256 << 20);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let wide = TunnelConfig {
            stream_window: 16 << 20,
            ..TunnelConfig::default()
        };
        assert_eq!(wide.check().unwrap_err().field, "max_streams");
        let tiny = TunnelConfig {
            stream_window: 1,
            ..TunnelConfig::default()
        };
        assert_eq!(tiny.check().unwrap_err().field, "stream_window");
        let frame = TunnelConfig {
            max_frame: 1 << 24,
            ..TunnelConfig::default()
        };
        assert_eq!(frame.check().unwrap_err().field, "max_frame");
    }
}
