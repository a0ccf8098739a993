//! Answers that come after the sync, and how those that wait for one are told.

use std::{
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
};

use rustix::thread::futex;

use super::{WriteError, inbox::Shared};

/// An answer that comes after the sync. Wait for it with [`Ticket::wait`] or `.await` it: it needs no
/// runtime.
///
/// Like every future it is begun when somebody wants it: waited for, polled, or dropped, or together with
/// another one that is; [`Ticket::begin`] begins it at once. Dropping it does not take the request back.
#[must_use = "the answer says whether it is on disk"]
pub struct Ticket<T> {
    answer: oneshot::AsyncReceiver<Result<T, WriteError>>,
    database: Arc<Path>,
    /// Who will answer; `None` where the answer is there.
    asked: Option<Asked>,
}

struct Asked {
    shared: Arc<Shared>,
    round: Arc<Round>,
    begun: bool,
}

impl Asked {
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.shared.begin();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.begin();
    }
}

impl<T> Ticket<T> {
    pub(super) fn new(
        answer: oneshot::AsyncReceiver<Result<T, WriteError>>,
        shared: &Arc<Shared>,
        round: Option<Arc<Round>>,
    ) -> Self {
        let asked = round.map(|round| Asked { shared: Arc::clone(shared), round, begun: false });
        Self { answer, database: Arc::clone(&shared.database), asked }
    }

    /// An answer that needs no commit.
    pub(crate) fn ready(database: &Path, answer: Result<T, WriteError>) -> Self {
        let (reply, ticket) = oneshot::async_channel();
        // The receiver is right here.
        let _ = reply.send(answer);
        Self { answer: ticket, database: database.into(), asked: None }
    }

    fn closed(&self) -> WriteError {
        WriteError::Closed { database: self.database.to_path_buf(), cause: "the store was dropped".into() }
    }

    /// Begins the commit in the background, for a caller that has something else to do before it waits.
    pub fn begin(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.begin();
        }
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn wait(mut self) -> Result<T, WriteError> {
        if let Some(mut asked) = self.asked.take() {
            asked.begun = true;
            while !asked.round.is_over() {
                if !asked.shared.lead() {
                    asked.round.wait();
                }
            }
        }
        match Pin::new(&mut self.answer).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(answer)) => answer,
            Poll::Ready(Err(_)) | Poll::Pending => Err(self.closed()),
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.answer).poll(context) {
            Poll::Ready(answer) => Poll::Ready(answer.unwrap_or_else(|_| Err(self.closed()))),
            Poll::Pending => {
                self.begin();
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ticket")
    }
}

/// What the callers of one group wait for: they are woken together, by one call of the system. Waking each
/// for itself took the writer a third of its time.
#[derive(Debug, Default)]
pub(super) struct Round(AtomicU32);

const RUNS: u32 = 0;
const OVER: u32 = 1;

impl Round {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == OVER
    }

    /// Returns when it is over, or for no reason.
    fn wait(&self) {
        // That it is over already, and a signal, are answers as good as a wake.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, RUNS, None);
    }

    fn end(&self) {
        self.0.store(OVER, Ordering::Release);
        // It fails for no address that is ours.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.cast_unsigned());
    }
}

/// Ends a round when it is dropped, so that no caller sleeps on whatever becomes of its group.
pub(super) struct Ending(pub(super) Arc<Round>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}
