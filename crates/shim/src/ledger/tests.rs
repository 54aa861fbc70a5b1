//! The order of events, whatever the order in which things become known.

use std::time::UNIX_EPOCH;

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::mpsc;

use super::{Facts, Key, Ledger};
use crate::events::{self, Ended};
use crate::publisher::{Item, Publisher};

const ENDED: Ended = Ended { pid: 1, status: 0, at: UNIX_EPOCH };

struct Told(mpsc::UnboundedReceiver<Item>);

impl Told {
    fn topics(&mut self) -> Vec<&'static str> {
        let mut topics = Vec::new();
        while let Ok(Item::Event(_, event)) = self.0.try_recv() {
            topics.push(event.topic);
        }
        topics
    }
}

fn ledger() -> (Ledger, Told) {
    let (queue, items) = mpsc::unbounded_channel();
    (Ledger::new(Publisher { queue }), Told(items))
}

fn created(ledger: &Ledger, key: &Key) {
    assert!(ledger.begin(key.clone(), Facts::default()));
    let event = match key.exec.as_str() {
        "" => events::create(&CreateTaskRequest::default(), 1),
        exec => events::exec_added(&key.container, exec),
    };
    ledger.created(key, 1, event);
}

fn running(ledger: &Ledger, key: &Key) {
    created(ledger, key);
    ledger.starting(key);
    ledger.started(key, 1, events::start(&key.container, &key.exec, 1));
}

#[test]
fn an_end_known_before_the_start_answers_is_told_after_it() {
    let (ledger, mut told) = ledger();
    let init = Key::new("web", "");
    created(&ledger, &init);
    ledger.starting(&init);
    assert!(!ledger.ended(&init, ENDED));
    assert_eq!(told.topics(), ["/tasks/create"]);
    ledger.started(&init, 1, events::start("web", "", 1));
    ledger.deleted(&init, ENDED);
    assert_eq!(told.topics(), ["/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert!(ledger.is_empty());
}

/// The sandbox's report came after the entry had gone: Docker had such an exec run for ever.
#[test]
fn execs_end_with_the_deletion_of_their_container() {
    let (ledger, mut told) = ledger();
    let (init, sh) = (Key::new("web", ""), Key::new("web", "sh"));
    running(&ledger, &init);
    running(&ledger, &sh);
    created(&ledger, &Key::new("web", "never-started"));
    told.topics();
    ledger.deleted(&init, ENDED);
    assert!(!ledger.ended(&sh, ENDED), "too late");
    assert_eq!(told.topics(), ["/tasks/exit", "/tasks/exit", "/tasks/delete"]);
}

/// A guest could fill the queue with them.
#[test]
fn a_lack_of_memory_is_told_once_a_second() {
    let (ledger, mut told) = ledger();
    running(&ledger, &Key::new("web", ""));
    running(&ledger, &Key::new("db", ""));
    told.topics();
    assert!(ledger.out_of_memory("web") && ledger.out_of_memory("db"));
    assert!(!ledger.out_of_memory("web") && !ledger.out_of_memory("nobody"));
    assert_eq!(told.topics(), ["/tasks/oom", "/tasks/oom"]);
}

/// A second start, which is refused, took its end for that of a container that had never run.
#[test]
fn what_runs_and_is_started_again_still_has_an_end() {
    let (ledger, mut told) = ledger();
    let init = Key::new("web", "");
    running(&ledger, &init);
    told.topics();
    ledger.starting(&init);
    ledger.start_failed(&init);
    ledger.deleted(&init, ENDED);
    assert_eq!(told.topics(), ["/tasks/exit", "/tasks/delete"]);
}

#[test]
fn an_end_that_only_delete_knows_is_told_once() {
    let (ledger, mut told) = ledger();
    let init = Key::new("web", "");
    running(&ledger, &init);
    told.topics();
    ledger.deleted(&init, ENDED);
    assert!(!ledger.ended(&init, ENDED), "the report that comes too late changes nothing");
    assert_eq!(told.topics(), ["/tasks/exit", "/tasks/delete"]);
}

#[test]
fn a_container_that_never_started_has_no_end() {
    let (ledger, mut told) = ledger();
    let init = Key::new("web", "");
    created(&ledger, &init);
    ledger.deleted(&init, ENDED);
    assert_eq!(told.topics(), ["/tasks/create", "/tasks/delete"]);
}

#[test]
fn the_end_of_a_container_comes_after_those_of_its_processes() {
    let (ledger, mut told) = ledger();
    let (init, sh) = (Key::new("web", ""), Key::new("web", "sh"));
    running(&ledger, &init);
    running(&ledger, &sh);
    created(&ledger, &Key::new("web", "never-started"));
    created(&ledger, &Key::new("other", ""));
    told.topics();
    assert!(ledger.ended(&init, ENDED), "it waits for sh");
    assert_eq!(told.topics().len(), 0);
    assert!(!ledger.ended(&sh, ENDED));
    assert_eq!(told.topics(), ["/tasks/exit", "/tasks/exit"]);
    ledger.deleted(&init, ENDED);
    assert_eq!(told.topics(), ["/tasks/delete"]);
    assert!(ledger.facts(&sh).is_none() && !ledger.is_empty());
}

#[test]
fn an_exec_whose_end_is_lost_does_not_keep_the_containers_end() {
    let (ledger, mut told) = ledger();
    let (init, sh) = (Key::new("web", ""), Key::new("web", "sh"));
    running(&ledger, &init);
    running(&ledger, &sh);
    told.topics();
    assert!(ledger.ended(&init, ENDED));
    ledger.release("web");
    assert_eq!(told.topics(), ["/tasks/exit"]);
    ledger.release("web");
    assert_eq!(told.topics().len(), 0, "once only");
}

#[test]
fn deleting_the_last_exec_lets_the_containers_end_be_told() {
    let (ledger, mut told) = ledger();
    let (init, sh) = (Key::new("web", ""), Key::new("web", "sh"));
    running(&ledger, &init);
    running(&ledger, &sh);
    told.topics();
    assert!(ledger.ended(&init, ENDED));
    ledger.deleted(&sh, ENDED);
    assert_eq!(told.topics(), ["/tasks/exit", "/tasks/exit"]);
}

#[test]
fn a_failed_start_can_be_tried_again_and_names_are_unique() {
    let (ledger, mut told) = ledger();
    let init = Key::new("web", "");
    created(&ledger, &init);
    assert!(!ledger.begin(init.clone(), Facts::default()));
    ledger.starting(&init);
    ledger.start_failed(&init);
    ledger.starting(&init);
    ledger.started(&init, 1, events::start("web", "", 1));
    assert_eq!(told.topics(), ["/tasks/create", "/tasks/start"]);
    let failed = Key::new("db", "");
    assert!(ledger.begin(failed.clone(), Facts::default()));
    ledger.abandon(&failed);
    assert!(ledger.begin(failed, Facts::default()));
    assert!(!ledger.close_stdin(&Key::new("nobody", "")));
    assert!(ledger.close_stdin(&init));
}
