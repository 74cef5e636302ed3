//! Stopping work from another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// Stops the work that it was given to: a generation
/// ([`GenerationParams::cancel`](super::GenerationParams::cancel)) or a prompt
/// ([`Session::push_cancellable`](super::Session::push_cancellable)).
///
/// The pass in progress ends at its next layer, with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled); the session is usable afterwards. A token
/// that is cancelled stays so: one is made for each piece of work, and a request that comes when the
/// work is done stops nothing else.
///
/// ```no_run
/// use goldcrest::{CancelToken, GenerationParams};
/// # let model = goldcrest::Model::open("model.gguf")?;
/// # let mut session = model.session()?;
/// let cancel = CancelToken::new();
/// let params = GenerationParams::default().cancel(&cancel);
/// std::thread::spawn(move || {
///     std::thread::sleep(std::time::Duration::from_secs(10));
///     cancel.cancel();
/// });
/// for token in session.generate(params)? { /* ... */ }
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled. Its clones are the same token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has asked for the work to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The token of work that nobody can cancel.
    pub(crate) fn never() -> &'static Self {
        static NEVER: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);
        &NEVER
    }
}
