//! Tasks that end with those who need them.

use tokio::task::{AbortHandle, JoinHandle};

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    /// Of a task that has been spawned, whose result nobody wants.
    pub(crate) fn of(spawned: &JoinHandle<()>) -> Self {
        Self(spawned.abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
