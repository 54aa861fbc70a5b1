//! The host between two pods: what is there, and what a pod that has gone has left, while containerd runs on.

use std::path::PathBuf;
use std::time::Duration;

use super::{Cri, NAMESPACE, Pod, proto};
use crate::containerd::bundles;
use crate::failure::{fail, holds_within};
use crate::leftovers::Inventory;
use crate::sandbox;

/// What ends by itself, such as a VMM that was told to quit, has this long.
///
/// A server that a killed containerd has forgotten gives up after 20 s.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
/// A kubelet tries for ever; nobody should need it for longer.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);

/// The host with containerd and without any pod.
pub struct Steady(Inventory);

impl Cri<'_> {
    /// Looks at the host, after a first pod has made what is there for all pods.
    pub fn steady(&self) -> Steady {
        let pod = self.pod().run();
        pod.container("main").idle().start();
        pod.remove();
        let mut left = Vec::new();
        let settled = holds_within(SETTLED_WITHIN, || {
            left = self.containerd.processes();
            left.is_empty()
        });
        assert!(settled, "The first pod has left {left:?}");
        Steady(self.inventory())
    }

    /// Stops and removes all pods as a kubelet does, again and again until none is there; the calls that failed.
    pub fn remove_as_kubelet(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let gone = holds_within(REMOVED_WITHIN, || {
            for pod in self.pods() {
                let pod = Pod::of(self, pod.id, proto::PodSandboxConfig::default());
                let removed = pod.try_stop().and_then(|()| pod.try_remove_only());
                failures.extend(removed.err());
            }
            self.pods().is_empty()
        });
        if !gone {
            fail(format_args!("Pods are left: {:?}; {failures:#?}", self.pods()));
        }
        assert!(self.containers().is_empty(), "{:?}", self.containers());
        failures
    }

    /// Where containerd has the bundles of pods and containers.
    pub fn bundles(&self) -> PathBuf {
        bundles(NAMESPACE)
    }

    /// Runs the shim's action `delete` for a pod, as containerd does when the server is gone.
    #[track_caller]
    pub fn delete_by_action(&self, pod: &Pod<'_>) {
        let bundle = self.bundles().join(pod.id());
        sandbox::shim(self.containerd, (NAMESPACE, pod.id()), &bundle, "delete").ok().done();
    }

    fn inventory(&self) -> Inventory {
        Inventory::take(&self.containerd.host.mark, self.containerd.host.data())
    }
}

impl Steady {
    /// What is there now and was not then, one line each, once all has settled.
    pub fn left(&self, cri: &Cri<'_>) -> Vec<String> {
        let containerd = format!("process {}:", cri.containerd.pid());
        let mut left = Vec::new();
        holds_within(SETTLED_WITHIN, || {
            left = cri.inventory().beyond(&self.0);
            left.retain(|line| !line.starts_with(&containerd));
            left.is_empty()
        });
        left
    }
}
