//! A pod's TCP connection as one end of a relay.

use std::rc::Rc;
use std::task::{Context, Poll};

use adit_flow::{CloseReason, FourTuple, RefuseReason};
use adit_netstack::{ConnectError, FlowId, Refusal};
use bytes::Bytes;

use super::pod::{Closed, Pod};
use crate::pipeline::relay::{CHUNK_LIMIT, End, Ended};

/// A flow of a pod that its task owns. Dropped before both sides have ended, the pod sees a reset.
pub(crate) struct FlowEnd {
    pod: Rc<Pod>,
    flow: FlowId,
    finished: bool,
}

impl FlowEnd {
    /// Takes over a flow that the pod opened; its SYN is still held.
    pub(crate) fn held(pod: Rc<Pod>, flow: FlowId) -> Self {
        pod.track(flow);
        Self {
            pod,
            flow,
            finished: false,
        }
    }

    /// Opens a flow to the pod as `tuple.src`, which the application sees as its peer.
    pub(crate) fn connect(pod: Rc<Pod>, tuple: FourTuple) -> Result<Self, ConnectError> {
        let flow = pod.with_stack(|stack, now| stack.connect(now, tuple))?;
        Ok(Self::held(pod, flow))
    }

    /// Answers the held SYN: the application's `connect` succeeds.
    pub(crate) fn accept(&self) -> Result<(), Ended> {
        self.pod
            .with_stack(|stack, now| stack.accept(now, self.flow))
            .map_err(|_| self.ended())
    }

    /// Turns the held SYN away; the application sees what `refusal` says.
    pub(crate) fn refuse(self, refusal: Refusal) {
        self.pod
            .with_stack(|stack, now| stack.refuse(now, self.flow, refusal));
    }

    /// Ready once the application has answered the handshake.
    pub(crate) fn poll_established(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.pod.with_flow(self.flow, |state| state.established) == Some(true) {
            return Poll::Ready(Ok(()));
        }
        self.poll_error(cx)
    }

    /// Why the application's side was not established.
    pub(crate) fn refusal(&self) -> RefuseReason {
        self.pod
            .with_flow(self.flow, |state| state.refused)
            .flatten()
            .unwrap_or(RefuseReason::Refused)
    }

    /// Ready with how the flow ended, if it ended other than by FIN; otherwise the task is woken on news.
    fn poll_error<T>(&self, cx: &mut Context<'_>) -> Poll<Result<T, Ended>> {
        match self.closed() {
            Some(closed) if closed.reason != CloseReason::Fin => Poll::Ready(Err(closed.into())),
            _ => {
                self.wait(cx);
                Poll::Pending
            }
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        self.pod
            .with_flow(self.flow, |state| match state.waiting.as_mut() {
                Some(waiting) => waiting.clone_from(cx.waker()),
                None => state.waiting = Some(cx.waker().clone()),
            });
    }

    fn closed(&self) -> Option<Closed> {
        self.pod.with_flow(self.flow, |state| state.closed).flatten()
    }

    /// Why the netstack no longer knows the flow.
    fn ended(&self) -> Ended {
        self.closed().map_or_else(Ended::reset, Ended::from)
    }
}

impl End for FlowEnd {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        let read = self
            .pod
            .with_stack(|stack, now| stack.recv_bytes(now, self.flow, CHUNK_LIMIT));
        let read = match read {
            Ok(chunk) if !chunk.is_empty() => return Poll::Ready(Ok(Some(chunk))),
            read => read,
        };
        let fin = self.pod.with_flow(self.flow, |state| state.remote_fin) == Some(true);
        match (read, self.closed()) {
            (_, Some(closed)) if closed.reason != CloseReason::Fin => Poll::Ready(Err(closed.into())),
            _ if fin => Poll::Ready(Ok(None)),
            (Ok(_), _) => self.poll_error(cx),
            (Err(_), _) => Poll::Ready(Err(self.ended())),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        match self
            .pod
            .with_stack(|stack, now| stack.send_bytes(now, self.flow, data))
        {
            Ok(0) => self.poll_error(cx),
            Ok(_) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(self.ended())),
        }
    }

    /// The netstack opens the window when bytes are read; they are read only when there is room for them.
    fn consumed(&mut self, _count: usize) {}

    fn finish(&mut self) -> Result<(), Ended> {
        self.finished = true;
        self.pod.with_stack(|stack, now| stack.shutdown(now, self.flow));
        Ok(())
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        match self.closed() {
            Some(closed) if closed.reason == CloseReason::Fin => Poll::Ready(Ok(())),
            _ => self.poll_error(cx),
        }
    }

    fn reset(&mut self) {
        self.pod.with_stack(|stack, now| stack.abort(now, self.flow));
    }
}

impl Drop for FlowEnd {
    fn drop(&mut self) {
        let clean = self.closed().is_some();
        self.pod.with_stack(|stack, now| {
            if !clean {
                stack.abort(now, self.flow);
            }
            stack.release(self.flow);
        });
        self.pod.forget(self.flow);
    }
}

impl From<Closed> for Ended {
    fn from(closed: Closed) -> Self {
        Self {
            reason: closed.reason,
            detail: String::new(),
        }
    }
}
