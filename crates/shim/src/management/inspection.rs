//! What a sandbox is now, as JSON.

use super::call::{Answer, Call};
use crate::backend::Failure;

/// `GET /inspect`
pub(super) async fn sandbox(call: Call) -> Result<Answer, Failure> {
    Answer::json(&call.sandbox.inspect().await?)
}

/// `GET /processes/<container>`
pub(super) async fn processes(call: Call) -> Result<Answer, Failure> {
    Answer::json(&call.sandbox.processes(&call.name).await?)
}
