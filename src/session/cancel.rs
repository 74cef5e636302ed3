//! Stopping work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops a session's work: made by [`Session::cancel_token`](super::Session::cancel_token).
///
/// The pass in progress ends at its next layer, with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled); where none is in progress, the next one
/// does. The session is usable afterwards.
///
/// ```no_run
/// # let model = goldcrest::Model::open("model.gguf")?;
/// # let mut session = model.session()?;
/// let cancel = session.cancel_token();
/// std::thread::spawn(move || {
///     std::thread::sleep(std::time::Duration::from_secs(10));
///     cancel.cancel();
/// });
/// for token in session.generate(Default::default())? { /* ... */ }
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks for the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a request is waiting to be honoured.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes the request, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
