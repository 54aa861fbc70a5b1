//! What the guest watches of the host's files, and what it is told of them.

use kata_protocol::kata;
use ttrpc::context::Context;

use super::action::Action;
use super::{Agent, within};
use crate::error::Result;

impl Agent {
    /// Waits until something begins to be watched in the guest, or is not any more.
    pub(crate) async fn next_watches(&self) -> Result<Vec<kata::Watch>> {
        let request = kata::NextWatchesRequest::default();
        let rpc = self.kata.next_watches(Context::default(), &request);
        Ok(self.answer(Action::NextWatches, rpc).await?.watches)
    }

    /// Tells what has changed on the host.
    pub(crate) async fn host_changed(&self, changes: Vec<kata::HostChange>) -> Result<()> {
        let request = kata::HostChangedRequest { changes, ..Default::default() };
        let deadline = self.deadlines.request;
        let rpc = self.kata.host_changed(within(deadline), &request);
        self.call(Action::HostChanged, deadline, rpc).await.map(drop)
    }
}
