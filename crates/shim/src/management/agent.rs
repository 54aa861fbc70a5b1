//! The agent in the guest.

use super::call::{Answer, Call};
use crate::backend::{Failure, Kind};

/// `GET /agent-url`
pub(super) async fn url(call: Call) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.agent_url().await?))
}

/// `PUT /policy`
pub(super) async fn set_policy() -> Result<Answer, Failure> {
    let text = "The policy cannot be set: this release's agent has none, and allows what the shim asks for";
    Err(Failure::new(Kind::Unimplemented, text))
}
