//! The guest's packet filter: text of iptables-save(8), as it is.

use super::call::{Answer, Call};
use crate::backend::Failure;

/// `GET /iptables`, `GET /ip6tables`
pub(super) async fn get(call: Call, v6: bool) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.packet_filter(v6).await?))
}

/// `PUT /iptables`, `PUT /ip6tables`
pub(super) async fn set(call: Call, v6: bool) -> Result<Answer, Failure> {
    Ok(Answer::text(call.sandbox.set_packet_filter(v6, call.body.into()).await?))
}
