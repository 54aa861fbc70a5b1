//! Containers that are not wanted any more before they are made.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use kata_protocol::agent::Storage;
use kata_protocol::kata::{ContainerRequest, ExecRequest};
use kata_protocol::oci_convert::process_to_grpc;
use protobuf::MessageField;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use ttrpc::context::{Context, with_duration};

use super::guest::{Guest, as_message, limit, message, process, skips};

/// Longer than what comes before the hook takes, shorter than anybody waits.
const SHORT: Duration = Duration::from_secs(3);

/// A container with memory of its own, whose hook waits for a line of a FIFO that nobody writes.
struct Stuck {
    request: ContainerRequest,
    cgroup: PathBuf,
    /// With a writer, the hook does not see the FIFO's end.
    _writer: File,
}

impl Stuck {
    fn new(guest: &Guest) -> Self {
        let folder = guest.folder.path();
        let fifo = folder.join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let line = format!("echo > {}; read line < {}", folder.join("hook").display(), fifo.display());
        let mut spec = guest.spec(&["true"]);
        spec["hooks"] = json!({ "createContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", line] }] });
        let memory = Storage {
            driver: "ephemeral".into(),
            source: "tmpfs".into(),
            fstype: "tmpfs".into(),
            mount_point: folder.join("memory").to_str().expect("is text").into(),
            ..Default::default()
        };
        let request = ContainerRequest {
            container_id: "c".into(),
            oci: as_message(&spec),
            storages: vec![memory],
            ..Default::default()
        };
        let writer = File::options().read(true).write(true).open(&fifo).expect("is there");
        Self { request, cgroup: guest.cgroup.join("c"), _writer: writer }
    }

    async fn create(&self, guest: &Guest, limit: Context) -> ttrpc::Result<()> {
        guest.sandbox.create_container(limit, &self.request).await.map(|_| ())
    }

    fn is_left(&self, guest: &Guest) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", guest.agent_id())).expect("is alive");
        let memory = guest.folder.path().join("memory");
        self.cgroup.exists() || mounts.contains(memory.to_str().expect("is text"))
    }
}

/// Waits for what nothing announces.
async fn until(holds: impl Fn() -> bool) {
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while !holds() {
            pause.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes to hold");
}

agent_test!(
/// The agent finished the work for a caller whose deadline had passed, and kept the container, its mounts and its name
/// until the VM's end.
a_container_whose_caller_has_gone_is_not_made, |guest| {
    let stuck = Stuck::new(&guest);
    stuck.create(&guest, with_duration(SHORT)).await.expect_err("it is late");
    assert!(guest.folder.path().join("hook").exists(), "it had begun");
    until(|| !stuck.is_left(&guest)).await;
    // Its name is given back last; a removal that comes before is answered after that.
    let _ = guest.remove("c").await;
    let refused = message(guest.remove("c").await);
    assert_eq!(refused, "There is no container c");
    guest.create_with("c", &guest.spec(&["true"]), false).await.expect("created");
});

agent_test!(
/// A removal was answered with `There is no container`, and then the container came.
a_removal_calls_a_creation_off, |guest| {
    let stuck = Stuck::new(&guest);
    let begun = guest.folder.path().join("hook");
    let (created, removed) = tokio::join!(stuck.create(&guest, limit()), async {
        until(|| begun.exists()).await;
        let removed = guest.remove("c").await;
        assert!(!stuck.is_left(&guest), "the removal is answered when nothing is left");
        removed
    });
    removed.expect("removed");
    assert_eq!(message(created), "The container c is not wanted any more: its creation was called off");
    guest.create_with("c", &guest.spec(&["true"]), false).await.expect("created");
});

agent_test!(
/// It ran as long as its container, though its caller had been told that it was late.
a_process_whose_caller_has_gone_is_killed, |guest| {
    guest.run("c", &["sleep", "1000"]).await;
    let cgroup = guest.cgroup.join("c");
    let freeze = |frozen: &str| fs::write(cgroup.join("cgroup.freeze"), frozen).expect("a cgroup of version 2");
    let processes = || fs::read_to_string(cgroup.join("cgroup.procs")).expect("is there").lines().count();
    let (_streams, stdio) = guest.streams().await;
    let process = serde_json::from_value(process(&["sleep", "1000"])).expect("is a process");
    let request = ExecRequest {
        container_id: "c".into(),
        exec_id: "e".into(),
        process: MessageField::some(process_to_grpc(&process)),
        stdio: MessageField::some(stdio),
        ..Default::default()
    };
    freeze("1");
    guest.sandbox.exec(with_duration(SHORT), &request).await.expect_err("it is late");
    assert_eq!(processes(), 2, "it had begun");
    // The agent's deadline is as long as ours, and began a little later.
    tokio::time::timeout(SHORT, std::future::pending::<()>()).await.expect_err("nothing tells");
    freeze("0");
    until(|| processes() == 1).await;
    guest.exec("c", "e", &["true"]).await.expect("its name is free");
});
