//! The events that containerd's runtime v2 protocol asks for, as topic and message.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task;
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

/// One event, not yet in its envelope.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// containerd's topic, such as `/tasks/exit`.
    pub(crate) topic: &'static str,
    /// The message.
    pub(crate) message: Any,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The process id that containerd knows.
    pub(crate) pid: u32,
    /// 0–255; 128 + signal for a killed process.
    pub(crate) status: u32,
    /// When.
    pub(crate) at: SystemTime,
}

fn event(topic: &'static str, message: &impl Message) -> Event {
    Event { topic, message: any("containerd.events", message) }
}

/// A message of a protobuf package, with the type name that containerd's `typeurl` expects (no
/// `type.googleapis.com/`). The package is given, because asking the message for it unpacks the descriptors of
/// the whole API into memory, where they stay.
#[must_use]
pub(crate) fn any<M: Message>(package: &str, message: &M) -> Any {
    Any {
        type_url: format!("{package}.{}", M::NAME),
        value: message.write_to_bytes().expect("a message in memory always serialises"),
        ..Any::default()
    }
}

/// A time in protobuf; times before 1970 do not happen here and count as 1970.
#[must_use]
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

/// A container was created.
#[must_use]
pub(crate) fn create(request: &CreateTaskRequest, pid: u32) -> Event {
    let io = task::TaskIO {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
        ..task::TaskIO::default()
    };
    let message = task::TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        // The same message, generated twice by the crate: once per package that imports it.
        rootfs: request.rootfs.clone(),
        io: MessageField::some(io),
        checkpoint: request.checkpoint.clone(),
        pid,
        ..task::TaskCreate::default()
    };
    event(topics::TASK_CREATE_EVENT_TOPIC, &message)
}

/// A container's first process, or with `exec` another one, runs.
#[must_use]
pub(crate) fn start(container: &str, exec: &str, pid: u32) -> Event {
    let container_id = container.to_owned();
    if exec.is_empty() {
        let message = task::TaskStart { container_id, pid, ..task::TaskStart::default() };
        return event(topics::TASK_START_EVENT_TOPIC, &message);
    }
    let message = task::TaskExecStarted {
        container_id,
        exec_id: exec.to_owned(),
        pid,
        ..task::TaskExecStarted::default()
    };
    event(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &message)
}

/// Another process is ready to be started.
#[must_use]
pub(crate) fn exec_added(container: &str, exec: &str) -> Event {
    let message = task::TaskExecAdded {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        ..task::TaskExecAdded::default()
    };
    event(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &message)
}

/// A process ended; `exec` is empty for a container's first one.
#[must_use]
pub(crate) fn exit(container: &str, exec: &str, ended: &Ended) -> Event {
    let message = task::TaskExit {
        container_id: container.to_owned(),
        id: if exec.is_empty() { container.to_owned() } else { exec.to_owned() },
        pid: ended.pid,
        exit_status: ended.status,
        exited_at: MessageField::some(timestamp(ended.at)),
        ..task::TaskExit::default()
    };
    event(topics::TASK_EXIT_EVENT_TOPIC, &message)
}

/// A container is gone.
#[must_use]
pub(crate) fn delete(container: &str, ended: &Ended) -> Event {
    let message = task::TaskDelete {
        container_id: container.to_owned(),
        pid: ended.pid,
        exit_status: ended.status,
        exited_at: MessageField::some(timestamp(ended.at)),
        ..task::TaskDelete::default()
    };
    event(topics::TASK_DELETE_EVENT_TOPIC, &message)
}

/// A container was paused.
#[must_use]
pub(crate) fn paused(container: &str) -> Event {
    let message = task::TaskPaused { container_id: container.to_owned(), ..task::TaskPaused::default() };
    event(topics::TASK_PAUSED_EVENT_TOPIC, &message)
}

/// A container goes on.
#[must_use]
pub(crate) fn resumed(container: &str) -> Event {
    let message = task::TaskResumed { container_id: container.to_owned(), ..task::TaskResumed::default() };
    event(topics::TASK_RESUMED_EVENT_TOPIC, &message)
}

/// The guest's kernel killed a process of this container for want of memory.
#[must_use]
pub(crate) fn out_of_memory(container: &str) -> Event {
    let message = task::TaskOOM { container_id: container.to_owned(), ..task::TaskOOM::default() };
    event(topics::TASK_OOM_EVENT_TOPIC, &message)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use containerd_shim_protos::api::{CreateTaskRequest, Mount};
    use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskStart};
    use protobuf::{Message, MessageFull};

    use super::{Ended, create, exit, out_of_memory, start};

    const ENDED: Ended = Ended { pid: 7, status: 137, at: UNIX_EPOCH };

    #[test]
    fn types_are_named_as_containerd_names_them() {
        assert_eq!(out_of_memory("web").message.type_url, "containerd.events.TaskOOM");
        assert_eq!(start("web", "", 7).topic, "/tasks/start");
        assert_eq!(start("web", "sh", 7).topic, "/tasks/exec-started");
        assert_eq!(start("web", "sh", 7).message.type_url, "containerd.events.TaskExecStarted");
    }

    #[test]
    fn names_are_those_of_the_descriptors() {
        assert_eq!(start("web", "", 7).message.type_url, TaskStart::descriptor().full_name());
        assert_eq!(exit("web", "", &ENDED).message.type_url, TaskExit::descriptor().full_name());
    }

    #[test]
    fn an_exit_is_named_by_its_process() {
        let message = TaskExit::parse_from_bytes(&exit("web", "", &ENDED).message.value).unwrap();
        assert_eq!((message.id.as_str(), message.exit_status), ("web", 137));
        let at = UNIX_EPOCH + Duration::new(5, 9);
        let message =
            TaskExit::parse_from_bytes(&exit("web", "sh", &Ended { at, ..ENDED }).message.value).unwrap();
        assert_eq!((message.container_id.as_str(), message.id.as_str()), ("web", "sh"));
        assert_eq!((message.exited_at.seconds, message.exited_at.nanos), (5, 9));
    }

    #[test]
    fn a_creation_repeats_the_request() {
        let mount = Mount { type_: "overlay".into(), ..Mount::default() };
        let request = CreateTaskRequest {
            id: "web".into(),
            rootfs: vec![mount],
            terminal: true,
            ..CreateTaskRequest::default()
        };
        let message = TaskCreate::parse_from_bytes(&create(&request, 9).message.value).unwrap();
        assert_eq!(
            (message.pid, message.rootfs[0].type_.as_str(), message.io.terminal),
            (9, "overlay", true)
        );
    }
}
