//! Containers of which the kernel killed a process for want of memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::cgroup::Cgroup;
use crate::id::ContainerId;
use crate::task::Task;

/// Events that nobody has asked for; the host keeps one request waiting, so there are hardly any.
const MAX_WAITING: usize = 256;

/// Events in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct OomEvents(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<ContainerId>>,
    arrived: Notify,
}

impl OomEvents {
    /// The next event.
    pub(crate) async fn next(&self) -> ContainerId {
        loop {
            if let Some(container) = self.waiting().pop_front() {
                return container;
            }
            self.0.arrived.notified().await;
        }
    }

    /// Watches a container as long as the task is held, as the end of its cgroup wakes nobody; without a memory controller
    /// there is nothing to watch.
    pub(crate) fn watch(&self, container: &ContainerId, cgroup: &Cgroup) -> Option<Task> {
        let mut events = cgroup.watch("memory.events").ok()?;
        let (queue, container) = (self.clone(), container.clone());
        let watching = tokio::spawn(async move {
            let mut seen = 0;
            while let Ok(content) = events.until(|content| kills(content) > seen).await {
                seen = kills(&content);
                tracing::warn!(%container, "The kernel killed a process for want of memory");
                queue.push(container.clone());
            }
        });
        Some(Task::of(&watching))
    }

    fn push(&self, container: ContainerId) {
        let mut waiting = self.waiting();
        if waiting.len() < MAX_WAITING {
            waiting.push_back(container);
        }
        self.0.arrived.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<ContainerId>> {
        // Every change is complete before anything can panic.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted() {
        assert_eq!(kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
    }

    #[tokio::test]
    async fn events_come_in_order() {
        let events = OomEvents::default();
        for name in ["a", "b"] {
            events.push(name.parse().expect("valid"));
        }
        assert_eq!(events.next().await.as_str(), "a");
        assert_eq!(events.next().await.as_str(), "b");
    }
}
