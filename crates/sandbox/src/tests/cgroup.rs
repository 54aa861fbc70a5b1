//! The VM's CPUs in the pod's cgroup, on this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use kata_cgroup::{Cgroup, Request};
use kata_intent::Intents;
use kata_storage::undo::undo;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxResourcesBuilder};

use super::{Scene, cid, container};
use crate::intent_log::IntentLog;
use crate::sizing::Size;

/// A pod's cgroup and the sandbox's; gone with this.
struct Pod {
    directory: PathBuf,
    log: Arc<IntentLog>,
    _state: tempfile::TempDir,
    own: Cgroup,
}

impl Pod {
    /// `None` where this host has no `cpu` of version 1 that it lets us change.
    fn make() -> Option<Self> {
        let (name, id) = (format!("kata-test-pod-{}", std::process::id()), "x");
        let directory = Path::new("/sys/fs/cgroup/cpu").join(&name);
        fs::create_dir(&directory)
            .inspect_err(|error| eprintln!("skipped: no cgroup can be made: {error}"))
            .ok()?;
        let state = tempfile::tempdir().unwrap();
        let log = Arc::new(IntentLog::open(state.path()).unwrap());
        let path = PathBuf::from(format!("/{name}/{id}"));
        let request =
            Request { cgroups_path: Some(&path), id, memory: 0, sandbox_only: false, systemd: None };
        let own = Cgroup::make(request, log.clone()).unwrap();
        Some(Self { directory, log, _state: state, own })
    }

    fn has(&self, thread: u32) -> bool {
        let tasks = fs::read_to_string(self.directory.join("kata_x/tasks")).unwrap();
        tasks.lines().any(|line| line == thread.to_string())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for (id, intent) in self.log.pending().unwrap().into_iter().rev() {
            undo(&intent).unwrap();
            self.log.done(id);
        }
        fs::remove_dir(&self.directory).unwrap();
    }
}

#[tokio::test]
async fn cpus_that_are_added_are_where_the_others_are() {
    let Some(pod) = Pod::make() else { return };
    let (end, ended) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let cpu = std::thread::spawn(move || {
        tell.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
        ended.recv().ok();
    });
    let thread = told.recv().unwrap();
    let scene = Scene::new();
    *scene.host.levers.most.lock().unwrap() = Size { vcpus: 4, memory_mib: 4096 };
    *scene.host.levers.cgroup.lock().unwrap() = pod.own.clone();
    scene.sandbox.create(container("c")).await.unwrap();
    scene.sandbox.start(&cid("c")).await.unwrap();
    assert!(!pod.has(thread));
    scene.host.levers.vcpu_threads.lock().unwrap().push(thread);
    let limit = LinuxCpuBuilder::default().quota(200_000).period(100_000_u64).build().unwrap();
    let limits = LinuxResourcesBuilder::default().cpu(limit).build().unwrap();
    scene.sandbox.update(&cid("c"), limits).await.unwrap();
    let has_it = pod.has(thread);
    drop(end);
    cpu.join().unwrap();
    assert!(has_it);
}
