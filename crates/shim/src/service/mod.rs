//! containerd's task API (`containerd.task.v2` and `v3`), for one sandbox; its Sandbox API is in `sandbox.rs`.

mod convert;
mod lifecycle;
mod sandbox;
#[cfg(test)]
mod tests;

use std::future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use oci_spec::runtime::Spec;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::sync::Notify;
use tokio::time::timeout;
use ttrpc::r#async::TtrpcContext;

use self::convert::status;
pub(crate) use self::lifecycle::Lifecycle;
pub(crate) use self::sandbox::empty_spec;
use crate::backend::{Backend, Failure, Kind, NewContainer, Stdio};
use crate::events::{self, timestamp};
use crate::ledger::{Facts, Key, Ledger, Slots};
use crate::options::Options;
use crate::pod;
use crate::publisher::Publisher;
use crate::stdio::{self, Names, Outputs, Slot, late_input, late_output};

/// How long the last events may take to reach containerd, which is there: it has just called.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// The sandbox behind the service, or why there is none.
pub(crate) type Launched = Result<Arc<dyn Backend>, Failure>;

/// The handlers. All of them are called through [`crate::decorate`].
pub(crate) struct Service {
    namespace: String,
    config: Option<PathBuf>,
    life: Arc<Lifecycle>,
    ledger: Arc<Ledger>,
    publisher: Publisher,
    end: Arc<Notify>,
}

/// What a [`Service`] is made of.
pub(crate) struct Parts {
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The configuration file that runtime options named at the start.
    pub(crate) config: Option<PathBuf>,
    /// The sandbox.
    pub(crate) life: Lifecycle,
    /// What containerd knows.
    pub(crate) ledger: Arc<Ledger>,
    /// The way to containerd.
    pub(crate) publisher: Publisher,
    /// Notified when the process shall end.
    pub(crate) end: Arc<Notify>,
}

impl From<Parts> for Service {
    fn from(parts: Parts) -> Self {
        let Parts { namespace, config, life, ledger, publisher, end } = parts;
        Self { namespace, config, life: Arc::new(life), ledger, publisher, end }
    }
}

impl Service {
    fn sandbox(&self) -> Launched {
        self.life.for_tasks()
    }

    /// The sandbox, for requests about a process that must be known.
    fn known(&self, key: &Key) -> Result<(Arc<dyn Backend>, Facts), Failure> {
        let facts = self.ledger.facts(key).ok_or_else(|| not_found(key))?;
        Ok((self.sandbox()?, facts))
    }

    async fn make_container(&self, request: CreateTaskRequest) -> Result<u32, Failure> {
        if !request.checkpoint.is_empty() {
            return Err(Failure::new(
                Kind::Unimplemented,
                "Restoring a container from a checkpoint is not implemented",
            ));
        }
        self.check_options(request.options.as_ref())?;
        let sandbox = self.sandbox()?;
        let key = Key::new(&request.id, "");
        let facts = Facts { bundle: request.bundle.clone(), names: convert::names_of_create(&request) };
        let names = facts.names.clone();
        if !self.ledger.begin(key.clone(), facts) {
            return Err(Failure::new(Kind::AlreadyExists, format!("Container {} exists", request.id)));
        }
        let made = async {
            let bundle = PathBuf::from(&request.bundle);
            let spec = load_spec(&bundle)?;
            let outputs = self.open_outputs(&names, &key).await?;
            let mut slots = Slots::default();
            let stdin = (!names.stdin.is_empty()).then(|| fill_later(&mut slots.stdin, late_input()));
            self.ledger.keep_slots(&key, slots);
            let Outputs { stdout, stderr } = outputs;
            let stdio = Stdio { terminal: names.terminal, stdin, stdout, stderr };
            let rootfs = request.rootfs.clone();
            // A sandbox that was started by itself has heard nothing of this one.
            let is_pause = pod::is_pause(&spec) && !self.life.stands_alone();
            let id = request.id.clone();
            sandbox.create(NewContainer { id, bundle, rootfs, spec, stdio, is_pause }).await
        };
        match made.await {
            Ok(pid) => {
                self.ledger.created(&key, pid, events::create(&request, pid));
                Ok(pid)
            }
            Err(failure) => {
                self.ledger.abandon(&key);
                Err(failure)
            }
        }
    }

    async fn make_process(&self, request: ExecProcessRequest) -> Result<(), Failure> {
        let (sandbox, facts) = self.known(&Key::new(&request.id, ""))?;
        let key = Key::new(&request.id, &request.exec_id);
        let names = convert::names_of_exec(&request);
        let process = convert::process(request.spec.as_ref(), names.terminal)?;
        if request.exec_id.is_empty() {
            return Err(Failure::new(Kind::InvalidArgument, "An exec needs an id"));
        }
        if !self.ledger.begin(key.clone(), Facts { names: names.clone(), ..facts }) {
            return Err(Failure::new(Kind::AlreadyExists, format!("Exec {} exists", request.exec_id)));
        }
        let (slots, stdio) = open_later(&names);
        self.ledger.keep_slots(&key, slots);
        match sandbox.exec(&key, process, stdio).await {
            Ok(()) => {
                self.ledger.created(&key, 0, events::exec_added(&key.container, &key.exec));
                Ok(())
            }
            Err(failure) => {
                self.ledger.abandon(&key);
                Err(failure)
            }
        }
    }

    /// Runtime options come with `start` and again here. Other ones than then come too late: the VM runs.
    fn check_options(&self, options: Option<&Any>) -> Result<(), Failure> {
        let Some(any) = options else { return Ok(()) };
        let options = Options::from_any(any).map_err(|error| Failure::of(Kind::InvalidArgument, &error))?;
        match options.config_path {
            Some(path) if Some(&path) != self.config.as_ref() => {
                let text = format!(
                    "The configuration {} was named only after the sandbox had been started with another; \
                     name it in the runtime's options, so that it comes with start",
                    path.display()
                );
                Err(Failure::new(Kind::InvalidArgument, text))
            }
            _ => Ok(()),
        }
    }

    async fn open_outputs(&self, names: &Names, key: &Key) -> Result<Outputs, Failure> {
        let opened = stdio::open_outputs(names, &self.namespace, &key.container).await;
        opened.map_err(|error| Failure::of(Kind::InvalidArgument, &error))
    }

    /// Opens what has waited for the start.
    async fn fill(&self, key: &Key, slots: &mut Slots, names: &Names) -> Result<(), Failure> {
        if slots.stdout.is_some() || slots.stderr.is_some() {
            let Outputs { stdout, stderr } = self.open_outputs(names, key).await?;
            put(&mut slots.stdout, stdout);
            put(&mut slots.stderr, stderr);
        }
        if slots.stdin.is_some() {
            let input = stdio::open_input(names);
            let input = input.map_err(|error| Failure::of(Kind::InvalidArgument, &error))?;
            let (stdin, hold) = input.unzip();
            if let Some(hold) = hold {
                self.ledger.hold(key, hold);
            }
            put(&mut slots.stdin, stdin);
        }
        Ok(())
    }

    async fn start_process(&self, key: &Key) -> Result<u32, Failure> {
        let (sandbox, facts) = self.known(key)?;
        let mut slots = self.ledger.take_slots(key);
        if let Err(failure) = self.fill(key, &mut slots, &facts.names).await {
            self.ledger.keep_slots(key, slots);
            return Err(failure);
        }
        self.ledger.starting(key);
        match sandbox.start(key).await {
            Ok(pid) => {
                self.ledger.started(key, pid, events::start(&key.container, &key.exec, pid));
                Ok(pid)
            }
            Err(failure) => {
                self.ledger.start_failed(key);
                Err(failure)
            }
        }
    }

    /// Returns when nobody uses this server: there has been no container for so long, first `before` there was any, then
    /// `after` the last one; and no sandbox that lives by itself.
    pub(crate) async fn unused(&self, before: Duration, after: Duration) {
        let mut used = self.ledger.used();
        let mut patience = before;
        // The ledger, which tells it, is ours: this goes on as long as we do.
        while used.wait_for(|used| !used).await.is_ok() {
            if timeout(patience, used.wait_for(|used| *used)).await.is_ok() {
                patience = after;
                continue;
            }
            match self.life.stands_alone() {
                true => return future::pending().await,
                false => return,
            }
        }
    }

    /// Ends the sandbox, tells the last events, then has the process ended.
    pub(crate) async fn end_all(&self) {
        if let Err(failure) = self.life.shutdown().await {
            tracing::error!(reason = failure.text, "the sandbox did not end in order");
        }
        self.publisher.flush(LAST_EVENTS).await;
        self.end.notify_one();
    }
}

/// Keeps the slot of a late stream, and gives the stream.
fn fill_later<T>(slot: &mut Option<Slot<T>>, (empty, stream): (Slot<T>, T)) -> T {
    *slot = Some(empty);
    stream
}

fn put<T>(slot: &mut Option<Slot<T>>, stream: Option<T>) {
    if let (Some(slot), Some(stream)) = (slot.take(), stream) {
        slot.fill(stream);
    }
}

/// The streams of an exec, all of them to be opened at its start, as containerd's own shim does.
fn open_later(names: &Names) -> (Slots, Stdio) {
    let mut slots = Slots::default();
    let stdin = (!names.stdin.is_empty()).then(|| fill_later(&mut slots.stdin, late_input()));
    let stdout = (!names.stdout.is_empty()).then(|| fill_later(&mut slots.stdout, late_output()));
    let stderr = names.has_stderr().then(|| fill_later(&mut slots.stderr, late_output()));
    (slots, Stdio { terminal: names.terminal, stdin, stdout, stderr })
}

fn not_found(key: &Key) -> Failure {
    let text = match key.exec.as_str() {
        "" => format!("Container {} does not exist", key.container),
        exec => format!("Process {exec} does not exist in container {}", key.container),
    };
    Failure::new(Kind::NotFound, text)
}

fn load_spec(bundle: &Path) -> Result<Spec, Failure> {
    Spec::load(bundle.join("config.json")).map_err(|error| Failure::of(Kind::InvalidArgument, &error))
}

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let key = Key::new(&request.id, &request.exec_id);
        let (sandbox, facts) = self.known(&key).map_err(status)?;
        let state = sandbox.state(&key).await.map_err(status)?;
        Ok(convert::state(&key, facts, &state))
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pid = self.make_container(request).await.map_err(status)?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let key = Key::new(&request.id, &request.exec_id);
        let pid = self.start_process(&key).await.map_err(status)?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let key = Key::new(&request.id, &request.exec_id);
        let (sandbox, _) = self.known(&key).map_err(status)?;
        let mut ended = sandbox.delete(&key).await.map_err(status)?;
        ended.pid = self.ledger.deleted(&key, ended);
        Ok(DeleteResponse {
            pid: ended.pid,
            exit_status: ended.status,
            exited_at: MessageField::some(timestamp(ended.at)),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let (sandbox, _) = self.known(&Key::new(&request.id, "")).map_err(status)?;
        Ok(convert::pids(sandbox.pids(&request.id).await.map_err(status)?))
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let (sandbox, _) = self.known(&Key::new(&request.id, "")).map_err(status)?;
        sandbox.pause(&request.id).await.map_err(status)?;
        self.publisher.publish(events::paused(&request.id));
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let (sandbox, _) = self.known(&Key::new(&request.id, "")).map_err(status)?;
        sandbox.resume(&request.id).await.map_err(status)?;
        self.publisher.publish(events::resumed(&request.id));
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(status(Failure::new(Kind::Unimplemented, "Checkpointing a container is not implemented")))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let key = Key::new(&request.id, &request.exec_id);
        let (sandbox, _) = self.known(&key).map_err(status)?;
        sandbox.kill(&key, request.signal, request.all).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.make_process(request).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let key = Key::new(&request.id, &request.exec_id);
        let (sandbox, _) = self.known(&key).map_err(status)?;
        sandbox.resize(&key, request.width, request.height).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let key = Key::new(&request.id, &request.exec_id);
        // The end of the FIFO is the end of the process's input, after all that is still in it.
        if request.stdin && !self.ledger.close_stdin(&key) {
            return Err(status(not_found(&key)));
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let (sandbox, _) = self.known(&Key::new(&request.id, "")).map_err(status)?;
        let resources = convert::resources(request.resources.as_ref()).map_err(status)?;
        sandbox.update(&request.id, resources).await.map_err(status)?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let key = Key::new(&request.id, &request.exec_id);
        let (sandbox, _) = self.known(&key).map_err(status)?;
        let ended = sandbox.wait(&key).await.map_err(status)?;
        Ok(WaitResponse {
            exit_status: ended.status,
            exited_at: MessageField::some(timestamp(ended.at)),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let (sandbox, _) = self.known(&Key::new(&request.id, "")).map_err(status)?;
        let metrics = sandbox.stats(&request.id).await.map_err(status)?;
        Ok(convert::stats(&metrics))
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.ledger.pid(&Key::new(&request.id, "")),
            version: crate::info::VERSION.to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        // containerd calls after each container of a pod; only the last one ends it, unless the pod lives by itself.
        if request.now || (self.ledger.is_empty() && !self.life.stands_alone()) {
            self.end_all().await;
        }
        Ok(Empty::default())
    }
}
