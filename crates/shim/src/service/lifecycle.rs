//! The sandbox's life: launched from the bundle at the start, for the task API, or by `CreateSandbox`; and what may be
//! asked of it when. Nothing waits while the lock is held.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use super::Launched;
use crate::backend::{Backend, Failure, Kind, Launcher, NewSandbox};

/// 128 + SIGKILL: the VM died.
const DIED: u32 = 137;

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// 0 if it was asked for, else 137.
    pub(super) status: u32,
    /// When.
    pub(super) at: SystemTime,
    /// Why, if nobody asked for it.
    pub(super) reason: Option<String>,
}

/// Where in its life the sandbox is, as the Sandbox API sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `CreateSandbox` was not called: the server is the task API's, or still waits.
    Unasked,
    /// `CreateSandbox` has not answered.
    Creating,
    /// The VM boots.
    Created,
    /// `StartSandbox` has not answered.
    Starting,
    /// The guest is up.
    Ready,
    /// It was stopped, or could not be started.
    Stopped,
}

struct Life {
    stage: Stage,
    launched: Option<Launched>,
    pid: u32,
    created: SystemTime,
}

/// Answer to `SandboxStatus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// It runs and takes containers.
    pub(super) ready: bool,
    /// The VMM's process; 0 before it is known.
    pub(super) pid: u32,
    /// When it was created.
    pub(super) created: SystemTime,
    /// How it ended, if it did.
    pub(super) end: Option<End>,
}

/// The life of this server's sandbox.
pub(crate) struct Lifecycle {
    id: String,
    launcher: Box<dyn Launcher>,
    life: Mutex<Life>,
    end: watch::Sender<Option<End>>,
}

impl Lifecycle {
    /// Of the sandbox `id`. `launched` is what came of the bundle at the start; `None`: it awaits `CreateSandbox`.
    pub(crate) fn new(id: &str, launcher: Box<dyn Launcher>, launched: Option<Launched>) -> Self {
        let life = Life { stage: Stage::Unasked, launched, pid: 0, created: SystemTime::UNIX_EPOCH };
        Self { id: id.to_owned(), launcher, life: Mutex::new(life), end: watch::Sender::new(None) }
    }

    /// The sandbox, for the task API.
    pub(super) fn for_tasks(&self) -> Result<Arc<dyn Backend>, Failure> {
        let life = self.lock();
        match (life.stage, &life.launched) {
            (Stage::Creating | Stage::Created | Stage::Starting, _) => Err(self.not_started()),
            (_, Some(launched)) => launched.clone(),
            (_, None) => Err(self.not_created(Kind::FailedPrecondition)),
        }
    }

    /// Whether the sandbox lives by itself, without any container.
    pub(super) fn stands_alone(&self) -> bool {
        self.lock().stage != Stage::Unasked
    }

    /// Refuses requests about another sandbox.
    pub(super) fn check(&self, id: &str) -> Result<(), Failure> {
        if id == self.id {
            return Ok(());
        }
        let text = format!("There is no sandbox {id:?} here; this server's is {}", self.id);
        Err(Failure::new(Kind::NotFound, text))
    }

    /// Launches the sandbox. One that was launched from the bundle gives way: it knew nothing of the request.
    pub(super) async fn create(self: &Arc<Self>, new: NewSandbox) -> Result<(), Failure> {
        let before = {
            let mut life = self.lock();
            if life.stage != Stage::Unasked {
                let text = format!("The sandbox {} has been created already", self.id);
                return Err(Failure::new(Kind::AlreadyExists, text));
            }
            life.stage = Stage::Creating;
            life.launched.take()
        };
        let launched = async {
            if let Some(Ok(before)) = before {
                before.shutdown().await?;
            }
            self.launcher.launch(new).await
        };
        let launched = launched.await;
        let mut life = self.lock();
        let sandbox = match launched {
            Ok(sandbox) => sandbox,
            Err(failure) => {
                life.stage = Stage::Unasked;
                return Err(failure);
            }
        };
        life.stage = Stage::Created;
        life.created = SystemTime::now();
        life.launched = Some(Ok(Arc::clone(&sandbox)));
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(reason) = sandbox.died().await {
                this.ended(DIED, Some(reason));
            }
        });
        Ok(())
    }

    /// Waits until the guest is up. What could not be started is stopped.
    pub(super) async fn start(&self) -> Result<Status, Failure> {
        let sandbox = {
            let mut life = self.lock();
            let sandbox = match life.stage {
                Stage::Created => self.sandbox_of(&life)?,
                Stage::Starting | Stage::Ready => {
                    let text = format!("The sandbox {} has been started already", self.id);
                    return Err(Failure::new(Kind::FailedPrecondition, text));
                }
                Stage::Unasked | Stage::Creating | Stage::Stopped => return Err(self.not_ready(&life)),
            };
            life.stage = Stage::Starting;
            sandbox
        };
        let booted = sandbox.boot().await;
        let stopped = {
            let mut life = self.lock();
            let stopped = life.stage != Stage::Starting;
            if let Ok(pid) = booted {
                life.pid = pid;
            }
            if !stopped {
                life.stage = if booted.is_ok() { Stage::Ready } else { Stage::Stopped };
            }
            stopped
        };
        match booted {
            Ok(_) if !stopped => self.status(),
            Ok(_) => Err(self.not_ready(&self.lock())),
            Err(failure) => {
                if let Err(left) = sandbox.stop().await {
                    tracing::warn!(reason = left.text, "a sandbox that did not start has left something");
                }
                self.ended(DIED, Some(failure.text.clone()));
                Err(failure)
            }
        }
    }

    /// The sandbox that is to be stopped: from now on nothing is started in it.
    pub(super) fn stopping(&self) -> Result<Arc<dyn Backend>, Failure> {
        let mut life = self.lock();
        if matches!(life.stage, Stage::Unasked | Stage::Creating) {
            return Err(self.not_created(Kind::NotFound));
        }
        let sandbox = self.sandbox_of(&life)?;
        life.stage = Stage::Stopped;
        Ok(sandbox)
    }

    /// Ends the VM, whatever runs in it. May be called again.
    pub(super) async fn stop(&self) -> Result<(), Failure> {
        let stopped = self.stopping()?.stop().await;
        self.ended(0, None);
        stopped
    }

    /// Waits for the sandbox's end.
    pub(super) async fn wait(&self) -> Result<End, Failure> {
        self.status()?;
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.ok_or_else(|| self.not_created(Kind::NotFound))
    }

    /// Looks at it.
    pub(super) fn status(&self) -> Result<Status, Failure> {
        let life = self.lock();
        if matches!(life.stage, Stage::Unasked | Stage::Creating) {
            return Err(self.not_created(Kind::NotFound));
        }
        let end = self.end.borrow().clone();
        let ready = life.stage == Stage::Ready && end.is_none();
        Ok(Status { ready, pid: life.pid, created: life.created, end })
    }

    /// The sandbox, which must run.
    pub(super) fn ready(&self) -> Result<Arc<dyn Backend>, Failure> {
        let life = self.lock();
        match life.stage {
            Stage::Ready if self.end.borrow().is_none() => self.sandbox_of(&life),
            _ => Err(self.not_ready(&life)),
        }
    }

    /// The sandbox, in whatever state.
    pub(super) fn created(&self) -> Result<Arc<dyn Backend>, Failure> {
        self.status()?;
        self.sandbox_of(&self.lock())
    }

    /// Ends everything, for good.
    pub(super) async fn shutdown(&self) -> Result<(), Failure> {
        let sandbox = {
            let mut life = self.lock();
            if life.stage != Stage::Unasked {
                life.stage = Stage::Stopped;
            }
            life.launched.as_ref().and_then(|launched| launched.as_ref().ok()).cloned()
        };
        let ended = match sandbox {
            Some(sandbox) => sandbox.shutdown().await,
            None => Ok(()),
        };
        self.ended(0, None);
        ended
    }

    /// The first end counts.
    fn ended(&self, status: u32, reason: Option<String>) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(End { status, at: SystemTime::now(), reason });
            }
            first
        });
    }

    fn sandbox_of(&self, life: &Life) -> Result<Arc<dyn Backend>, Failure> {
        life.launched.clone().unwrap_or_else(|| Err(self.not_created(Kind::NotFound)))
    }

    /// Why a sandbox that must run does not.
    fn not_ready(&self, life: &Life) -> Failure {
        let reason = self.end.borrow().as_ref().map(|end| end.reason.clone());
        match (life.stage, reason) {
            (Stage::Unasked | Stage::Creating, _) => self.not_created(Kind::NotFound),
            (_, Some(Some(reason))) => {
                let text =
                    format!("The sandbox {} has ended: {reason}. Remove it and create it anew", self.id);
                Failure::new(Kind::Unavailable, text)
            }
            (Stage::Stopped, _) | (_, Some(None)) => {
                let text = format!("The sandbox {} has been stopped; create it anew", self.id);
                Failure::new(Kind::FailedPrecondition, text)
            }
            (Stage::Created | Stage::Starting | Stage::Ready, None) => self.not_started(),
        }
    }

    fn not_created(&self, kind: Kind) -> Failure {
        let text = format!(
            "The sandbox {} has not been created: the bundle had no config.json of a container to start it from, and \
             CreateSandbox has not been called",
            self.id
        );
        Failure::new(kind, text)
    }

    fn not_started(&self) -> Failure {
        let text = format!("The sandbox {} has not been started; call StartSandbox first", self.id);
        Failure::new(Kind::FailedPrecondition, text)
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().expect("a panic ends the process, so nobody left the lock poisoned")
    }
}
