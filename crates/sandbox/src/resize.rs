//! The VM's CPUs and memory follow what its containers may use.
//!
//! What grows, grows in the VM first, then in the container; what shrinks, the other way round. One task at a time changes the
//! VM ([`Sizer`]); it is there from the first change on.

use std::sync::Arc;
use std::time::Duration;

use kata_vmm::{Resize, VmmError};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Driver, Stage};
use crate::error::{Result, SandboxError as Error, chain};
use crate::host::Machine;
use crate::jobs::Reach;
use crate::sizing::Size;
use crate::vcpus;

/// How long the guest may take to give memory back before that is told. Nobody waits for it.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(10);

/// What the VM shall become.
enum Wish {
    /// At least this, before anything else happens.
    Grow(Size, oneshot::Sender<Result<()>>),
    /// This; nobody waits.
    Fit(Size),
}

/// Who changes the VM. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sizer(mpsc::UnboundedSender<Wish>);

impl Sizer {
    /// Starts the task.
    pub(crate) fn start(reach: Reach, boot: Size) -> Self {
        let (wishes, queue) = mpsc::unbounded_channel();
        tokio::spawn(Owner { reach, now: boot, is_sure: true }.run(queue));
        Self(wishes)
    }

    /// Lets the VM have at least this; returns when the guest has it.
    pub(crate) async fn grow(&self, size: Size) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Wish::Grow(size, reply)).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Lets the VM have this, in its own time.
    pub(crate) fn fit(&self, size: Size) {
        // The sandbox may be ending.
        self.0.send(Wish::Fit(size)).ok();
    }
}

/// The task.
struct Owner {
    reach: Reach,
    /// What the VM was last given: it may have less, and not more, where that is not sure.
    now: Size,
    /// The VM has just that, and the guest uses it.
    is_sure: bool,
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Wish>) {
        let mut next = queue.recv().await;
        while let Some(wish) = next.take() {
            next = match wish {
                Wish::Grow(size, reply) => {
                    reply.send(self.grow(size).await).ok();
                    queue.recv().await
                }
                Wish::Fit(size) => {
                    let shrinks = size.memory_mib < self.now.memory_mib;
                    if let Err(error) = self.fit(size).await {
                        tracing::warn!(error = chain(&error), ?size, "The VM keeps its size");
                    }
                    self.given_back(&mut queue, shrinks).await
                }
            };
        }
    }

    async fn grow(&mut self, size: Size) -> Result<()> {
        let (before, was_sure) = (self.now, self.is_sure);
        let wanted = size.and(before);
        if wanted == before && was_sure {
            return Ok(());
        }
        let grown = self.give(wanted).await;
        if grown.is_err() {
            // The VM may have got what the guest did not take.
            (self.now, self.is_sure) = (wanted, false);
            match self.shrink(before).await {
                Ok(()) => self.is_sure = was_sure,
                // The first error is the one to tell.
                Err(error) => {
                    tracing::debug!(error = chain(&error), "A VM that did not grow is not as it was");
                }
            }
        }
        grown
    }

    /// To the VM, then to the guest.
    async fn give(&mut self, wanted: Size) -> Result<()> {
        let machine = Arc::clone(&self.reach.machine);
        let vm = vm(&machine)?;
        if wanted.vcpus != self.now.vcpus || !self.is_sure {
            vm.set_vcpus(wanted.vcpus).await.map_err(refused)?;
            vcpus::place(Arc::clone(&machine)).await;
        }
        let memory_mib = match wanted.memory_mib == self.now.memory_mib && self.is_sure {
            true => wanted.memory_mib,
            false => vm.request_memory(wanted.memory_mib).await.map_err(refused)?,
        };
        self.reach.agent.resources(wanted.vcpus, memory_mib).await?;
        (self.now, self.is_sure) = (Size { memory_mib, ..wanted }, true);
        Ok(())
    }

    /// What made the VM smaller than that may have been undone: another's update that was refused.
    async fn fit(&mut self, size: Size) -> Result<()> {
        let grown = self.grow(size).await;
        self.shrink(size).await?;
        grown
    }

    /// From the guest, then from the VM. What can be had back is, whatever else is kept.
    async fn shrink(&mut self, size: Size) -> Result<()> {
        let cpus = self.take_vcpus(size.vcpus).await;
        let memory = self.take_memory(size.memory_mib).await;
        cpus.and(memory)
    }

    async fn take_vcpus(&mut self, vcpus: u32) -> Result<()> {
        if vcpus >= self.now.vcpus {
            return Ok(());
        }
        let machine = Arc::clone(&self.reach.machine);
        if let Err(error) = self.reach.agent.resources(vcpus, 0).await {
            self.is_sure = false;
            return Err(error);
        }
        // The guest has left them, whether the VMM takes them out or not.
        self.now.vcpus = vcpus;
        vm(&machine)?.set_vcpus(vcpus).await.map_err(refused).map(drop)
    }

    async fn take_memory(&mut self, memory_mib: u32) -> Result<()> {
        if memory_mib >= self.now.memory_mib {
            return Ok(());
        }
        let machine = Arc::clone(&self.reach.machine);
        let vm = vm(&machine)?;
        match vm.request_memory(memory_mib).await {
            Ok(mib) => self.now.memory_mib = mib,
            Err(error) => {
                // Some of it may have gone.
                match vm.memory_settled(Duration::ZERO).await {
                    Ok(mib) | Err(VmmError::MemoryKept { wanted: mib, .. }) => self.now.memory_mib = mib,
                    Err(_) => self.is_sure = false,
                }
                return Err(refused(error));
            }
        }
        Ok(())
    }

    /// Tells if the guest does not give its memory back, unless there is something else to do; the next wish.
    async fn given_back(&self, queue: &mut mpsc::UnboundedReceiver<Wish>, is_asked: bool) -> Option<Wish> {
        if let (true, Ok(vm)) = (is_asked, vm(&self.reach.machine)) {
            tokio::select! {
                next = queue.recv() => return next,
                settled = vm.memory_settled(GIVE_BACK_PATIENCE) => {
                    if let Err(error) = settled {
                        tracing::warn!(error = chain(&error), "The VM has more memory than its containers may use");
                    }
                }
            }
        }
        queue.recv().await
    }
}

fn vm(machine: &Machine) -> Result<&dyn Resize> {
    machine.vmm.resize().ok_or(Error::Unsupported { action: "get CPUs or memory while it runs" })
}

fn refused(source: VmmError) -> Error {
    Error::VmSize { source }
}

/// A change of what the VM is to have.
pub(crate) struct Change {
    sizer: Sizer,
    /// What it needs before and after it.
    pub(crate) target: Size,
}

impl Change {
    /// Before containers may use more.
    pub(crate) async fn grow(&self) -> Result<()> {
        self.sizer.grow(self.target).await
    }

    /// When they may use less. Only of what is known at that moment: another one may have grown meanwhile.
    pub(crate) fn fit(&self) {
        self.sizer.fit(self.target);
    }
}

impl Driver {
    /// What the VM is to become now, if it can be anything but what it was at boot.
    pub(crate) fn change_of_size(&mut self) -> Option<Change> {
        let Stage::Running(running) = &self.stage else { return None };
        let (boot, most) = (self.sizing.plan().boot.size, running.reach.machine.most);
        if boot == most || running.reach.agent.is_foreign() {
            return None;
        }
        let target = self.sizing.target(most);
        if self.sizer.is_none() && target == boot {
            return None;
        }
        let reach = running.reach.clone();
        let sizer = self.sizer.get_or_insert_with(|| Sizer::start(reach, boot)).clone();
        Some(Change { sizer, target })
    }
}
