//! What stays behind of containers and processes: nothing, however many there were.

use std::fs;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::guest::{Guest, skips};

/// Anonymous memory may go up and down by this much, in KiB: the allocator keeps what it has been given.
const SLACK: u64 = 1024;
/// A process that is ending, a stream that is closing, and an idle thread go in their own time, which nobody tells.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent holds.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    mounts: usize,
    children: usize,
    cgroups: usize,
}

impl Holdings {
    fn is_within(&self, other: &Self) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads
            && self.mounts <= other.mounts
            && self.children <= other.children
            && self.cgroups <= other.cgroups
    }
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).expect("is there").count()
}

fn holdings(guest: &Guest) -> (Holdings, u64) {
    let agent = format!("/proc/{}", guest.agent_id());
    let read = |file: &str| fs::read_to_string(format!("{agent}/{file}")).expect("is alive");
    let threads = fs::read_dir(format!("{agent}/task")).expect("is alive").flatten();
    let children: String = threads
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .collect();
    let folders = fs::read_dir(&guest.cgroup).expect("is there").flatten();
    let holdings = Holdings {
        descriptors: entries(&format!("{agent}/fd")),
        threads: entries(&format!("{agent}/task")),
        mounts: read("mountinfo").lines().count(),
        children: children.split_whitespace().count(),
        cgroups: folders.filter(|entry| entry.path().is_dir()).count(),
    };
    let status = read("status");
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("is told");
    (holdings, memory.trim().trim_end_matches(" kB").parse().expect("a number"))
}

/// Three containers at a time, removed in another order than they were made in, the names used again.
async fn make_and_remove(guest: &Guest, rounds: usize) {
    for round in 0..rounds {
        for id in ["a", "b", "c"] {
            let mut streams = guest.run(id, &["echo", id]).await;
            assert_eq!(streams.output().await, format!("{id}\n").as_bytes());
        }
        let order = [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]][round % 3];
        for id in order {
            assert_eq!(guest.wait(id, "").await.expect("ended"), 0);
            guest.remove(id).await.expect("removed");
        }
    }
}

/// It holds no more than `before`, of anything.
async fn assert_no_more(guest: &Guest, (before, memory): (Holdings, u64)) {
    let end = Instant::now() + PATIENCE;
    let (mut after, mut now) = holdings(guest);
    while !after.is_within(&before) && Instant::now() < end {
        yield_now().await;
        (after, now) = holdings(guest);
    }
    assert!(after.is_within(&before), "{before:?} became {after:?}");
    assert!(now <= memory + SLACK, "anonymous memory grew from {memory} KiB to {now} KiB");
}

agent_test!(two_hundred_containers_leave_nothing, |guest| {
    make_and_remove(&guest, 10).await;
    let before = holdings(&guest);
    make_and_remove(&guest, 67).await;
    assert_no_more(&guest, before).await;
});

agent_test!(a_hundred_containers_live_at_once, |guest| {
    let a_hundred = async || {
        for number in 0..100 {
            guest.run(&format!("c{number}"), &["sleep", "1000"]).await;
        }
        let mut streams = guest.exec("c99", "e", &["echo", "alive"]).await.expect("added");
        assert_eq!(streams.output().await, b"alive\n");
        assert_eq!(guest.wait("c99", "e").await.expect("ended"), 0);
        for number in (0..100).rev() {
            guest.remove(&format!("c{number}")).await.expect("removed");
        }
    };
    // The allocator keeps what a hundred need at once.
    a_hundred().await;
    let before = holdings(&guest);
    a_hundred().await;
    assert_no_more(&guest, before).await;
});

agent_test!(a_thousand_execs_leave_nothing, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let exec = async |number: usize| {
        let mut streams = guest.exec("c", &format!("e{number}"), &["echo", "x"]).await.expect("added");
        assert_eq!(streams.output().await, b"x\n");
        assert_eq!(guest.wait("c", &format!("e{number}")).await.expect("ended"), 0);
    };
    for number in 0..100 {
        exec(number).await;
    }
    let before = holdings(&guest);
    for number in 100..1100 {
        exec(number).await;
    }
    assert_no_more(&guest, before).await;
});
