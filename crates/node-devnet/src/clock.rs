//! The devnet's clock: the one file here that reads time. Everywhere else time is an argument.

use std::time::{Duration, SystemTime};

use node_types::Timestamp;

/// Now, by the machine's wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the devnet's clock; it may not use the store's")]
pub(crate) fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_ms(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}
