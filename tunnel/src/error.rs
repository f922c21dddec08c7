use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_flow::{CloseReason, Closer, RefuseReason};
use adit_identity::SpiffeId;
use http::StatusCode;

use crate::ConnectError;

/// An HTTP/2 error code as it stands in RST_STREAM and GOAWAY (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u32);

/// One of the two ends of a tunnel, seen from this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This one: a caller's reset, a dropped half, or a violation found by h2.
    Local,
    /// The other one.
    Peer,
}

/// What ended a tunnel, and with it the streams in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelEnd {
    /// Our own drain deadline passed.
    Drained,
    /// The connection broke: reset, end of file in the middle of streams, TLS truncation.
    Lost {
        /// What was seen, in words.
        detail: String,
    },
    /// The peer didn't answer PING.
    Silent,
    /// One side broke the protocol or ended the tunnel with an error code (GOAWAY).
    Violated {
        /// Who ended it.
        by: Side,
        /// Its code.
        code: ResetCode,
    },
}

/// Why a stream ended other than by END_STREAM. Never a clean end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Used after its own end: sending after [`finish`](crate::SendHalf::finish).
    #[error("the stream's sending side has ended")]
    Finished,
    /// The peer sent what may not follow CONNECT (RFC 9113 §8.5: DATA only).
    #[error("expected DATA until END_STREAM, got trailers")]
    Malformed,
    /// RST_STREAM, whatever its code: `NO_ERROR` too.
    #[error("stream reset by {by}: {code}")]
    Reset {
        /// Who sent it.
        by: Side,
        /// Its code.
        code: ResetCode,
    },
    /// The tunnel ended under the stream.
    #[error("tunnel ended: {end}")]
    TunnelEnded {
        /// What ended it.
        end: TunnelEnd,
    },
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No tunnel could be set up.
    #[error("tunnel to {expected} at {target}")]
    Connect {
        /// The identity that was to be found there.
        expected: SpiffeId,
        /// Where.
        target: SocketAddr,
        /// Why not.
        #[source]
        source: Arc<ConnectError>,
    },
    /// The pool is draining.
    #[error("the pool is draining")]
    Draining,
    /// No answer to the CONNECT in time.
    #[error("no answer to CONNECT {authority} within {within:?}")]
    NoAnswer {
        /// What was asked for.
        authority: SocketAddr,
        /// How long was waited.
        within: Duration,
    },
    /// All tunnels are taken.
    #[error("expected a free tunnel of {limit}, all carry streams")]
    OverLimit {
        /// How many there may be.
        limit: usize,
    },
    /// The peer answered with a status other than 200.
    #[error("CONNECT {authority} refused with {status}{}", reason.map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Refused {
        /// What was asked for.
        authority: SocketAddr,
        /// The answer.
        status: StatusCode,
        /// What the peer gave as its reason, where it is an adit.
        reason: Option<RefuseReason>,
    },
    /// The stream or its tunnel ended before the answer, also on another attempt where one was safe.
    #[error("CONNECT {authority} got no answer")]
    Stream {
        /// What was asked for.
        authority: SocketAddr,
        /// How it ended.
        #[source]
        source: StreamError,
    },
    /// The credentials are another workload's.
    #[error("expected credentials of {expected}, got those of {got}")]
    WrongCredentials {
        /// The destination's source.
        expected: SpiffeId,
        /// Whose they are.
        got: SpiffeId,
    },
}

impl OpenError {
    /// The reason for the flow record, which decides what the opener sees.
    pub fn refuse_reason(&self) -> RefuseReason {
        match self {
            Self::Connect { source, .. } => source.refuse_reason(),
            Self::Draining => RefuseReason::Draining,
            Self::NoAnswer { .. } => RefuseReason::TimedOut,
            Self::OverLimit { .. } => RefuseReason::OverLimit,
            Self::Refused {
                reason: Some(reason), ..
            } => *reason,
            Self::Refused { status, .. } => match status.as_u16() {
                401 | 403 => RefuseReason::Denied,
                // ztunnel says 503 for an application that refused and for one it can't reach.
                503 => RefuseReason::Refused,
                504 => RefuseReason::TimedOut,
                _ => RefuseReason::TunnelFailed,
            },
            Self::Stream { .. } | Self::WrongCredentials { .. } => RefuseReason::TunnelFailed,
        }
    }
}

impl StreamError {
    /// The reason for the flow record.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Reset { .. } | Self::Finished | Self::Malformed => CloseReason::Reset,
            Self::TunnelEnded {
                end: TunnelEnd::Drained,
            } => CloseReason::Drained,
            Self::TunnelEnded { .. } => CloseReason::PeerLost,
        }
    }

    /// Who ended the stream; `peer` is who stands behind the other end of the tunnel: the destination for the
    /// opening side, the source for the accepting one.
    pub fn closer(&self, peer: Closer) -> Closer {
        match self {
            Self::Reset { by: Side::Peer, .. } | Self::Malformed => peer,
            Self::Reset { by: Side::Local, .. } | Self::Finished => Closer::Agent,
            Self::TunnelEnded {
                end: TunnelEnd::Drained,
            } => Closer::Agent,
            Self::TunnelEnded { .. } => Closer::Network,
        }
    }

    /// What h2 says of one stream. It can't tell why the connection went; `end` can, where it is known.
    pub(crate) fn of(error: &h2::Error, end: Option<&TunnelEnd>) -> Self {
        let by = if error.is_remote() {
            Side::Peer
        } else {
            Side::Local
        };
        match (error.reason(), end) {
            (Some(code), _) if error.is_reset() => Self::Reset {
                by,
                code: code.into(),
            },
            (_, Some(end)) => Self::TunnelEnded { end: end.clone() },
            (Some(code), None) if error.is_go_away() => Self::TunnelEnded {
                end: TunnelEnd::Violated {
                    by,
                    code: code.into(),
                },
            },
            _ => Self::TunnelEnded {
                end: TunnelEnd::Lost {
                    detail: error.to_string(),
                },
            },
        }
    }
}

impl ResetCode {
    /// No error: what a peer sends to stop a stream that it needs no more of.
    pub const NO_ERROR: Self = Self(0);
    /// The stream isn't needed any more.
    pub const CANCEL: Self = Self(8);
    /// The stream was not processed; opening it again is safe (RFC 9113 §8.7).
    pub const REFUSED_STREAM: Self = Self(7);
    /// The TCP connection behind the stream was reset or broke (RFC 9113 §8.5).
    pub const CONNECT_ERROR: Self = Self(10);
}

impl From<h2::Reason> for ResetCode {
    fn from(reason: h2::Reason) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResetCode({self})")
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "this side",
            Self::Peer => "the peer",
        })
    }
}

impl fmt::Display for TunnelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("drain deadline passed"),
            Self::Lost { detail } => write!(f, "connection lost: {detail}"),
            Self::Silent => f.write_str("the peer didn't answer PING"),
            Self::Violated { by, code } => write!(f, "{code} by {by}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_names_who_sent_it() {
        let reset = StreamError::Reset {
            by: Side::Peer,
            code: ResetCode::CONNECT_ERROR,
        };
        assert_eq!(reset.closer(Closer::Destination), Closer::Destination);
        assert_eq!(reset.close_reason(), CloseReason::Reset);
        assert_eq!(reset.to_string(), "stream reset by the peer: CONNECT_ERROR");
        let ours = StreamError::Reset {
            by: Side::Local,
            code: ResetCode(99),
        };
        assert_eq!(ours.closer(Closer::Destination), Closer::Agent);
        assert_eq!(ours.to_string(), "stream reset by this side: code 0x63");
    }

    #[test]
    fn a_lost_peer_is_nobodys_clean_end() {
        let lost = StreamError::TunnelEnded {
            end: TunnelEnd::Silent,
        };
        assert_eq!(
            (lost.close_reason(), lost.closer(Closer::Source)),
            (CloseReason::PeerLost, Closer::Network)
        );
        let drained = StreamError::TunnelEnded {
            end: TunnelEnd::Drained,
        };
        assert_eq!(
            (drained.close_reason(), drained.closer(Closer::Source)),
            (CloseReason::Drained, Closer::Agent)
        );
    }

    #[test]
    fn a_status_maps_to_what_the_opener_would_see_without_a_mesh() {
        let refused = |status: u16, reason| {
            OpenError::Refused {
                authority: "10.0.0.1:80".parse().unwrap(),
                status: StatusCode::from_u16(status).unwrap(),
                reason,
            }
            .refuse_reason()
        };
        assert_eq!(refused(401, None), RefuseReason::Denied);
        assert_eq!(refused(503, None), RefuseReason::Refused);
        assert_eq!(refused(503, Some(RefuseReason::TimedOut)), RefuseReason::TimedOut);
        assert_eq!(refused(400, None), RefuseReason::TunnelFailed);
    }
}
