//! How much the shim and the agent log, changed while they run.

use super::call::{Answer, Call};
use crate::backend::{Failure, Kind};

/// `GET /log-level`
pub(super) async fn get(call: Call) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.log_level()))
}

/// `PUT /log-level`; the body is a level's name.
pub(super) async fn set(call: Call) -> Result<Answer, Failure> {
    call.sandbox.set_log_level(level(&call)?)?;
    Ok(Answer::empty())
}

/// `GET /log-level/agent`
pub(super) async fn get_agents(call: Call) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.guest_log_level(None).await?))
}

/// `PUT /log-level/agent`; the body is a level's name.
pub(super) async fn set_agents(call: Call) -> Result<Answer, Failure> {
    call.sandbox.guest_log_level(Some(level(&call)?.to_owned())).await?;
    Ok(Answer::empty())
}

fn level(call: &Call) -> Result<&str, Failure> {
    let level = str::from_utf8(&call.body);
    Ok(level.map_err(|error| Failure::of(Kind::InvalidArgument, &error))?.trim())
}
