//! What time it is, by the store's judgement.

use node_store::{
    clock::{self, Mark, Reading},
    store::Store,
};
use node_types::Timestamp;

/// The machine's clock cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the machine's clock and boot: is /proc mounted?")]
pub struct NoClock(#[source] std::io::Error);

/// What the machine's clocks say.
///
/// # Errors
/// [`NoClock`].
pub fn reading() -> Result<Reading, NoClock> {
    clock::read().map_err(NoClock)
}

/// What time it is, and whether jobs may be ended by it.
///
/// # Errors
/// [`NoClock`].
pub fn mark(store: &Store) -> Result<Mark, NoClock> {
    Ok(store.time(&reading()?))
}

/// What time it is.
///
/// # Errors
/// [`NoClock`].
pub fn now(store: &Store) -> Result<Timestamp, NoClock> {
    Ok(mark(store)?.now)
}
