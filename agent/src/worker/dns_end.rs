//! The mesh's DNS responder as the far end of a TCP flow (RFC 7766).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use super::resolver::framed;
use super::{Pod, Worker};
use crate::dns::Transport;
use crate::pipeline::relay::{End, Ended};

/// Answers waiting to be sent. A client that asks on without reading finds its window closed.
const ANSWERS_LIMIT: usize = 8;

/// A query being answered; `None` where it deserves no answer.
type Answering = Pin<Box<dyn Future<Output = Option<Vec<u8>>>>>;

/// A DNS server that speaks with one client: queries are answered one after the other, in order.
pub(crate) struct DnsEnd {
    worker: Rc<Worker>,
    namespace: String,
    unparsed: BytesMut,
    answering: Option<Answering>,
    answers: VecDeque<Bytes>,
    finished: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl DnsEnd {
    /// A server for one TCP connection of `pod`.
    pub(crate) fn new(worker: Rc<Worker>, pod: &Pod) -> Self {
        Self {
            worker,
            namespace: pod.name().namespace.clone(),
            unparsed: BytesMut::new(),
            answering: None,
            answers: VecDeque::new(),
            finished: false,
            reader: None,
            writer: None,
        }
    }

    /// Takes the next whole query off what was received.
    fn next_query(&mut self) -> Option<Bytes> {
        let length = usize::from(u16::from_be_bytes(self.unparsed.get(..2)?.try_into().ok()?));
        if self.unparsed.len() < 2 + length {
            return None;
        }
        self.unparsed.advance(2);
        Some(self.unparsed.split_to(length).freeze())
    }

    fn start_answering(&mut self) {
        if self.answering.is_some() || self.answers.len() >= ANSWERS_LIMIT {
            return;
        }
        if let Some(query) = self.next_query() {
            let worker = Rc::clone(&self.worker);
            let namespace = self.namespace.clone();
            self.answering = Some(Box::pin(async move {
                let snapshot = worker.shared.snapshot.load_full();
                worker
                    .resolver
                    .resolve(&query, &snapshot, &namespace, Transport::Tcp)
                    .await
            }));
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl End for DnsEnd {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Ended>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Poll::Ready(Ok(Some(answer)));
            }
            self.start_answering();
            let Some(answering) = &mut self.answering else {
                self.reader = Some(cx.waker().clone());
                return if self.finished {
                    Poll::Ready(Ok(None))
                } else {
                    Poll::Pending
                };
            };
            let Poll::Ready(answer) = answering.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            self.answering = None;
            self.answers.extend(
                answer
                    .filter(|answer| answer.len() <= usize::from(u16::MAX))
                    .map(|answer| framed(&answer).into()),
            );
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Ended>> {
        const UNPARSED_LIMIT: usize = 2 + u16::MAX as usize;
        let room = UNPARSED_LIMIT.saturating_sub(self.unparsed.len()).min(data.len());
        if room == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.unparsed.extend_from_slice(&data.split_to(room));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn consumed(&mut self, _count: usize) {}

    fn finish(&mut self) -> Result<(), Ended> {
        self.finished = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    fn poll_closed(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.finished {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn reset(&mut self) {}
}
