//! What QEMU tells on its control channel, until it closes.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use super::config;
use super::qmp::{self, Client, Connected, QueryStatus, StatusInfo};
use crate::vmm::{ShutdownReason, VmEvent};

/// The states in which QEMU stops the guest for a failure of its own or the host's.
pub(super) const FAILED: &[&str] = &["internal-error", "io-error"];

/// How far the control channel is.
#[derive(Debug, Clone)]
pub(super) enum Control {
    Connecting,
    Ready(Client),
    Lost,
}

/// Who hears of QEMU's events.
pub(super) struct Told {
    pub(super) publisher: mpsc::Sender<VmEvent>,
    pub(super) deleted: broadcast::Sender<String>,
    pub(super) memory_changed: broadcast::Sender<()>,
    /// Weak, as the VM is killed when nobody has a handle on it any more.
    pub(super) kill: mpsc::WeakSender<()>,
}

/// Connects the control channel and passes on what it tells, until it closes.
pub(super) async fn serve(qmp: OwnedFd, patience: Duration, state: watch::Sender<Control>, told: Told) {
    match qmp::connect(qmp, patience).await {
        Ok(Connected { client, mut events, version }) => {
            tracing::debug!(%version, "QEMU's control channel is up");
            state.send_replace(Control::Ready(client.clone()));
            told.publisher.send(VmEvent::ControlReady).await.ok();
            while let Some(event) = events.recv().await {
                publish(&event, &told).await;
                if event.name == qmp::STOP {
                    end_if_failed(&client, &told).await;
                }
            }
        }
        // QEMU ended at once, which its exit explains, or it hangs, which whoever waits for it notices.
        Err(error) => tracing::debug!(%error, "QEMU's control channel did not come up"),
    }
    state.send_replace(Control::Lost);
}

/// Passes on an event of QEMU, if it is one that matters.
async fn publish(event: &qmp::Event, Told { publisher, deleted, memory_changed, .. }: &Told) {
    tracing::debug!(event = event.name, data = %event.data, "QEMU event");
    if let Some(change) = event.decode::<qmp::VserportChange>() {
        if change.id == config::AGENT_PORT_ID {
            let port = if change.open { VmEvent::AgentPortOpened } else { VmEvent::AgentPortClosed };
            publisher.send(port).await.ok();
        }
    } else if let Some(shutdown) = event.decode::<qmp::Shutdown>() {
        publisher.send(VmEvent::Shutdown { reason: reason(&shutdown.reason) }).await.ok();
    } else if let Some(gone) = event.decode::<qmp::DeviceDeleted>() {
        // Devices without an id are parts of others. Nobody may be waiting.
        gone.device.map(|id| deleted.send(id).ok());
    } else if event.decode::<qmp::MemoryDeviceSizeChange>().is_some() {
        memory_changed.send(()).ok();
    } else if event.decode::<qmp::GuestPanicked>().is_some() {
        publisher.send(VmEvent::Panicked).await.ok();
    }
}

/// Ends a QEMU whose virtual CPUs are stopped for good: it would stay as it is, and its pod would hang.
async fn end_if_failed(client: &Client, Told { publisher, kill, .. }: &Told) {
    let Ok(StatusInfo { running: false, status }) = client.execute(QueryStatus {}).await else { return };
    if FAILED.contains(&status.as_str()) {
        publisher.send(VmEvent::Shutdown { reason: ShutdownReason::Failure(status) }).await.ok();
        // A full queue means that it has been ordered.
        kill.upgrade().map(|kill| kill.try_send(()).ok());
    }
}

/// Reads QEMU's `ShutdownCause`.
fn reason(cause: &str) -> ShutdownReason {
    match cause {
        "guest-shutdown" => ShutdownReason::GuestShutdown,
        "guest-reset" | "subsystem-reset" => ShutdownReason::GuestReset,
        "guest-panic" => ShutdownReason::GuestPanic,
        "host-qmp-quit" => ShutdownReason::HostQuit,
        "host-signal" => ShutdownReason::HostSignal,
        other => ShutdownReason::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::qemu::qmp::tests::Server;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// The stop of a QEMU that is `status` then: what is told of it, and whether it is to be killed.
    async fn told_of_stop(status: &str) -> (Vec<VmEvent>, bool) {
        let (socket, mut server) = Server::pair();
        let (publisher, mut events) = mpsc::channel(8);
        let (kill, mut orders) = mpsc::channel(1);
        let told = Told {
            publisher,
            deleted: broadcast::Sender::new(1),
            memory_changed: broadcast::Sender::new(1),
            kill: kill.downgrade(),
        };
        let stops = async {
            server.greet().await;
            server.say(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#).await;
            let (name, id) = server.hear().await;
            assert_eq!(name, "query-status");
            server.answer(id, json!({ "running": false, "singlestep": false, "status": status })).await;
            drop(server);
        };
        tokio::join!(serve(socket, PATIENCE, watch::Sender::new(Control::Connecting), told), stops);
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        (all, orders.try_recv().is_ok())
    }

    #[tokio::test]
    async fn a_vmm_that_cannot_go_on_with_the_guest_is_ended() {
        let reason = ShutdownReason::Failure("internal-error".to_owned());
        let expected = vec![VmEvent::ControlReady, VmEvent::Shutdown { reason }];
        assert_eq!(told_of_stop("internal-error").await, (expected, true));
        assert_eq!(told_of_stop("paused").await, (vec![VmEvent::ControlReady], false));
    }
}
