//! Whatever comes, changes and goes, in whatever order and at the same time: VM and cgroups are never out of step.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Linux, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use proptest::prelude::*;
use tokio::time::timeout;

use super::fake_host::SIZE;
use super::{PATIENCE, Scene, cid, container};
use crate::command::CreateContainer;
use crate::sizing::Size;

const MOST: Size = Size { vcpus: 4, memory_mib: 4096 };
/// Fits into what the VM boots with.
const FIRST: Limits = (1000, 128);
const IDS: [&str; 3] = ["c", "d", "e"];

/// Thousandths of a CPU, and MiB.
type Limits = (u32, u32);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Makes the container, or changes its limits if it is there.
    Limit(Limits),
    Delete,
}

/// What is asked for at the same time, by container; and whether the guest refuses to grow if it is asked to.
type Round = (BTreeMap<usize, Step>, bool);

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let limits = (1_u32..3000, 4_u32..3000);
    let step = prop_oneof![4 => limits.prop_map(Step::Limit), 1 => Just(Step::Delete)];
    let together = proptest::collection::btree_map(0..IDS.len(), step, 1..=IDS.len());
    proptest::collection::vec((together, proptest::bool::weighted(0.2)), 1..8)
}

/// `docs/sizing.md` in short, for a pod of which nothing was said at the start.
fn needed<'l>(limits: impl Iterator<Item = &'l Limits>) -> Size {
    let (millis, mib) = limits.fold((0, 0), |sum, limits| (sum.0 + limits.0, sum.1 + limits.1));
    Size {
        vcpus: millis.div_ceil(1000).clamp(SIZE.vcpus, MOST.vcpus),
        memory_mib: (mib * 32).div_ceil(31).clamp(SIZE.memory_mib, MOST.memory_mib),
    }
}

/// The number of processes names the update in what the agent was asked.
fn resources((millis, mib): Limits, update: usize) -> LinuxResources {
    let cpu = LinuxCpuBuilder::default().quota(i64::from(millis) * 1000).period(1_000_000_u64);
    let memory = LinuxMemoryBuilder::default().limit(i64::from(mib) << 20);
    let pids = LinuxPidsBuilder::default().limit(i64::try_from(update).unwrap());
    LinuxResourcesBuilder::default()
        .cpu(cpu.build().unwrap())
        .memory(memory.build().unwrap())
        .pids(pids.build().unwrap())
        .build()
        .unwrap()
}

fn limited(id: &str, resources: LinuxResources) -> CreateContainer {
    let mut new = container(id);
    let mut linux = Linux::default();
    linux.set_resources(Some(resources));
    new.spec.set_linux(Some(linux));
    new
}

/// The sandbox, and what its containers were given.
struct Model {
    scene: Scene,
    limits: BTreeMap<usize, Limits>,
    /// Of each update, by its number.
    updates: Vec<Limits>,
}

impl Model {
    /// With the container that the VM was made for.
    async fn new() -> Self {
        let scene = Scene::new();
        *scene.host.levers.most.lock().unwrap() = MOST;
        scene.sandbox.create(limited(IDS[0], resources(FIRST, 0))).await.unwrap();
        Self { scene, limits: [(0, FIRST)].into(), updates: vec![FIRST] }
    }

    /// All at the same time; what was refused leaves everything as it was.
    async fn round(&mut self, (steps, refuses): Round) {
        *self.scene.agent.refusals.lock().unwrap() = refuses.into();
        let mut asked = Vec::new();
        for (which, step) in steps {
            let (sandbox, is_there) = (self.scene.sandbox.clone(), self.limits.contains_key(&which));
            let update = self.updates.len();
            let resources = match step {
                Step::Limit(limits) => {
                    self.updates.push(limits);
                    Some((limits, resources(limits, update)))
                }
                Step::Delete if is_there => None,
                Step::Delete => continue,
            };
            asked.push(tokio::spawn(async move {
                let id = cid(IDS[which]);
                let limits = resources.as_ref().map(|(limits, _)| *limits);
                let done = match resources {
                    None => sandbox.delete(&id, None).await.map(drop),
                    Some((_, resources)) if is_there => sandbox.update(&id, resources).await,
                    Some((_, resources)) => sandbox.create(limited(IDS[which], resources)).await.map(drop),
                };
                (which, limits, done.is_ok())
            }));
        }
        for asked in asked {
            match asked.await.unwrap() {
                (which, Some(limits), true) => drop(self.limits.insert(which, limits)),
                (which, None, true) => drop(self.limits.remove(&which)),
                (_, _, done) => assert!(refuses && !done, "only what is refused fails"),
            }
        }
        *self.scene.agent.refusals.lock().unwrap() = 0;
    }

    /// Nobody waits for a VM that shrinks.
    async fn settles(&self) -> Result<(), TestCaseError> {
        let needed = needed(self.limits.values());
        let settled = async {
            while self.given() != needed {
                tokio::task::yield_now().await;
            }
        };
        let in_time = timeout(PATIENCE / 10, settled).await;
        prop_assert!(in_time.is_ok(), "{:?} needs {needed:?}: {:#?}", self.limits, self.scene.agent.asked());
        Ok(())
    }

    /// What the VM was last given.
    fn given(&self) -> Size {
        self.scene.agent.asked().iter().fold(SIZE, |given, asked| given_after(given, asked))
    }

    /// No cgroup was given what the VM did not have at that time.
    fn check_order(&self) -> Result<(), TestCaseError> {
        let (mut given, asked) = (SIZE, self.scene.agent.asked());
        for what in &asked {
            given = given_after(given, what);
            if let ["Update", id, "pids", update] = what.split(' ').collect::<Vec<_>>()[..] {
                let limits = self.updates[update.parse::<usize>().unwrap()];
                let needed = needed([limits].iter());
                let has = given.vcpus >= needed.vcpus && given.memory_mib >= needed.memory_mib;
                prop_assert!(has, "{id} was given {limits:?} of {given:?}: {asked:#?}");
            }
        }
        Ok(())
    }
}

fn given_after(given: Size, asked: &str) -> Size {
    match asked.split_once(' ') {
        Some(("vCPUs", count)) => Size { vcpus: count.parse().unwrap(), ..given },
        Some(("memory", mib)) => Size { memory_mib: mib.parse().unwrap(), ..given },
        _ => given,
    }
}

/// While it was under way, what the container had was taken for free, and its neighbour was given it.
#[tokio::test]
async fn a_refused_update_of_less_memory_keeps_the_memory() {
    let less = BTreeMap::from([(0, Step::Limit((1001, 4))), (1, Step::Limit((1, 4)))]);
    let rounds = vec![([(0, Step::Limit((1, 574)))].into(), false), (less, true)];
    play(rounds).await.unwrap();
}

async fn play(rounds: Vec<Round>) -> Result<(), TestCaseError> {
    let mut model = Model::new().await;
    for round in rounds {
        model.round(round).await;
        model.settles().await?;
    }
    model.check_order()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn vm_and_cgroups_are_never_out_of_step(rounds in rounds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(rounds))?;
    }
}
