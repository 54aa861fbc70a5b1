//! Kills under way, so that a container's end is told to containerd after its kill is answered: containerd closes its
//! connection for a container once that is deleted, and an answer that comes later is lost to who asked ("ttrpc: closed").

use std::collections::HashMap;

use tokio::sync::watch;

/// A container's id and that of a process that was added to it; the latter is empty for its first process.
type Key = (String, String);

/// How many there are of each process that has any.
#[derive(Debug, Default)]
pub(crate) struct Kills(watch::Sender<HashMap<Key, usize>>);

impl Kills {
    /// One more, until it is dropped.
    pub(crate) fn begin(&self, container: &str, exec: &str) -> Kill<'_> {
        let key = (container.to_owned(), exec.to_owned());
        self.0.send_modify(|under_way| *under_way.entry(key.clone()).or_default() += 1);
        Kill { kills: self, key }
    }

    /// Returns when none of this process is under way; for a container's first process, none of the whole container.
    pub(crate) async fn answered(&self, container: &str, exec: &str) {
        let is_meant = |(of, added): &Key| of == container && (exec.is_empty() || added == exec);
        let none = |under_way: &HashMap<Key, usize>| !under_way.keys().any(is_meant);
        self.0.subscribe().wait_for(none).await.expect("the sender is borrowed meanwhile");
    }
}

/// One that is under way.
#[must_use = "dropped, it is over"]
pub(crate) struct Kill<'k> {
    kills: &'k Kills,
    key: Key,
}

impl Drop for Kill<'_> {
    fn drop(&mut self) {
        self.kills.0.send_modify(|under_way| match under_way.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(under_way.remove(&self.key)),
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::Kills;

    #[test]
    fn a_process_waits_for_its_own_kills() {
        let kills = Kills::default();
        let waits = |container, exec| kills.answered(container, exec).now_or_never().is_none();
        let [first, second] = [kills.begin("web", "sh"), kills.begin("web", "sh")];
        assert_eq!([waits("web", "sh"), waits("web", "top"), waits("db", "sh")], [true, false, false]);
        drop(first);
        assert!(waits("web", "sh"));
        drop(second);
        assert!(!waits("web", "sh"));
    }

    #[test]
    fn a_container_waits_for_the_kills_of_all_its_processes() {
        let kills = Kills::default();
        let waits = |container| kills.answered(container, "").now_or_never().is_none();
        let _kill = kills.begin("web", "sh");
        assert_eq!([waits("web"), waits("db")], [true, false]);
    }
}
