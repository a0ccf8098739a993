//! What waits for the disk or computes for long, beside the threads that answer.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// Runs it on a thread for such calls, and waits. A panic in it goes on in whoever waits. Where the future is dropped, the call
/// goes on to its end.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(error) => resume_unwind(error.into_panic()),
    }
}
