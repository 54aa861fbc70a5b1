//! The agent in the guest.

use super::call::{Answer, Call};
use crate::backend::Failure;

/// `GET /agent-url`
pub(super) async fn url(call: Call) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.agent_url().await?))
}
