//! containerd's events, as `ctr events` prints them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::containerd::Containerd;
use crate::failure::fail;

/// An event of the test's namespace.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `/tasks/exit`.
    pub topic: String,
    /// Its fields.
    pub fields: Value,
    /// When it arrived here.
    pub at: Instant,
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let (head, json) =
            line.split_once(" {").map_or((line, String::from("{}")), |(h, j)| (h, format!("{{{j}")));
        let topic = head.split_whitespace().last()?.to_owned();
        Some(Self { topic, fields: serde_json::from_str(&json).ok()?, at: Instant::now() })
    }

    /// A field's text, empty if there is none.
    pub fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }

    /// The `exit_status`, which is left out of the JSON when it is 0.
    pub fn exit_status(&self) -> u64 {
        self.fields["exit_status"].as_u64().unwrap_or_default()
    }
}

/// A subscription; it ends with the value.
pub struct Events {
    follower: Child,
    lines: Receiver<Event>,
}

impl Events {
    pub(crate) fn follow(containerd: &Containerd) -> Self {
        let mut command = containerd.command();
        command.arg("events").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut follower = command.spawn().unwrap_or_else(|e| fail(format_args!("Cannot run ctr: {e}")));
        let stdout = follower.stdout.take().expect("just asked for");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let parsed =
                BufReader::new(stdout).lines().map_while(Result::ok).filter_map(|l| Event::parse(&l));
            for event in parsed {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let events = Self { follower, lines };
        events.wait_for_subscription(containerd);
        events
    }

    /// `ctr events` does not say when it listens: it does when it reports what is done to provoke an event.
    fn wait_for_subscription(&self, containerd: &Containerd) {
        for attempt in 0..200 {
            let label = format!("attempt={attempt}");
            let label = ["namespaces", "label", &containerd.host.mark, &label];
            let create = ["namespaces", "create", &containerd.host.mark];
            if containerd.ctr(label).code != 0 {
                containerd.ctr(create).ok().done();
            }
            if self.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                return;
            }
        }
        fail("ctr events reports nothing");
    }

    /// The next event of this topic for this container (or exec, by its id) within the limit; others are passed over.
    #[track_caller]
    pub fn expect(&self, topic: &str, id: &str, limit: Duration) -> Event {
        let deadline = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(event) if event.topic == topic && is_about(&event, id) => return event,
                Ok(event) => others.push(event),
                Err(_) => fail(format_args!("No {topic} for {id} within {limit:?}, but {others:#?}")),
            }
        }
    }

    /// All topics of one container's events until this one, which is the last of the result.
    #[track_caller]
    pub fn topics_until(&self, topic: &str, container: &str, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut topics = Vec::new();
        while topics.last().map(String::as_str) != Some(topic) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(event) if event.text("container_id") == container => topics.push(event.topic),
                Ok(_) => {}
                Err(_) => fail(format_args!("No {topic} within {limit:?}, but {topics:?}")),
            }
        }
        topics
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Fails if it has ended with containerd.
        let _ = self.follower.kill();
        let _ = self.follower.wait();
    }
}

fn is_about(event: &Event, id: &str) -> bool {
    ["id", "container_id", "exec_id"].iter().any(|field| event.text(field) == id)
}
