//! Making a sandbox's cgroups, in each hierarchy of the host.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use kata_intent::{Intent, IntentId, Intents};

use crate::hierarchy::Hierarchy;
use crate::path::{self, Wanted};
use crate::place::{self, PROCS, Place};
use crate::systemd::{Scope, ScopeError, Systemd};
use crate::{Cgroup, CgroupError, Places, Request};

/// What places are made with.
pub(crate) struct Making<'a> {
    pub(crate) request: Request<'a>,
    /// `/proc/self/cgroup`.
    pub(crate) membership: &'a str,
    pub(crate) intents: Arc<dyn Intents>,
}

/// A scope that is made for the VMM as soon as there is one.
#[derive(Debug)]
pub(crate) struct Awaiting {
    systemd: Systemd,
    scope: Scope,
    announced: Announced,
}

/// An intent that is struck out if it comes to nothing.
struct Announced {
    intents: Arc<dyn Intents>,
    id: IntentId,
}

impl std::fmt::Debug for Announced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

impl Awaiting {
    /// Makes it, with this process in it.
    pub(crate) fn start(&self, process: u32) -> Result<(), ScopeError> {
        self.systemd.start(&self.scope, &[process]).inspect_err(|error| {
            if error.is_final() {
                self.announced.intents.done(self.announced.id);
            }
        })
    }
}

/// A wanted scope, and who makes it.
#[derive(Clone, Copy)]
struct Unit<'a> {
    systemd: &'a Systemd,
    wanted: &'a Wanted,
    slice: &'a str,
}

impl<'a> Unit<'a> {
    fn of(systemd: Option<&'a Systemd>, wanted: Option<&'a Wanted>) -> Option<Self> {
        let (systemd, wanted) = systemd.zip(wanted)?;
        Some(Self { systemd, wanted, slice: wanted.slice.as_deref()? })
    }
}

impl Making<'_> {
    pub(crate) fn all(&self, hierarchies: &[Hierarchy<'_>]) -> Result<Cgroup, CgroupError> {
        let mut places = Places::default();
        let made = self.fill(&mut places, hierarchies);
        let cgroup = Cgroup(Arc::new(places));
        // It may be in a scope even where systemd has not said so, and what is made is undone: with all that is in it.
        made.inspect_err(|_| cgroup.leave())?;
        Ok(cgroup)
    }

    fn fill(&self, places: &mut Places, hierarchies: &[Hierarchy<'_>]) -> Result<(), CgroupError> {
        let Request { cgroups_path, id, sandbox_only, systemd, .. } = self.request;
        let wanted = cgroups_path.and_then(|path| path::wanted(path, id));
        let unit = Unit::of(systemd, wanted.as_ref());
        if let Some(unit) = unit.filter(|unit| sandbox_only && self.fits(unit, hierarchies)) {
            places.ways_back = self.ways_back(hierarchies);
            self.scope(unit)?.start(process::id())?;
        }
        // A scope has whole processes in it, in every hierarchy: it cannot have a VM's CPUs alone.
        let is_unified = hierarchies.iter().filter(|one| one.counts()).all(Hierarchy::is_v2);
        let unit = unit.filter(|_| is_unified);
        for hierarchy in hierarchies {
            let below =
                |wanted: &Wanted| hierarchy.directory(&wanted.parent).map(|pod| (pod, wanted.name.clone()));
            let pod = wanted.as_ref().and_then(below).filter(|(pod, _)| pod.is_dir());
            match (sandbox_only, unit) {
                (true, _) => places.whole.extend(self.in_pod(hierarchy, pod)?),
                (false, Some(unit)) => {
                    places.ways_back = self.ways_back(hierarchies);
                    self.in_scopes(hierarchy, pod, unit, places)?;
                }
                (false, None) => self.apart(hierarchy, pod, places)?,
            }
        }
        Ok(())
    }

    /// From a scope, in each hierarchy: systemd has its own, in which nothing is counted, and ends what is there.
    fn ways_back(&self, hierarchies: &[Hierarchy<'_>]) -> Vec<Place> {
        let place = |one: &Hierarchy<'_>| Place::at(one.top().to_owned(), one, self.membership);
        hierarchies.iter().map(place).collect()
    }

    /// All of the sandbox in a cgroup below its pod's.
    fn in_pod(&self, hierarchy: &Hierarchy<'_>, pod: Option<(PathBuf, String)>) -> io::Result<Option<Place>> {
        match pod {
            Some((pod, name)) if hierarchy.counts() && self.has_room(&pod) => {
                self.made(hierarchy, pod.join(name))
            }
            Some((pod, _)) => Ok(self.on_cpus_of(hierarchy, pod)),
            None => Ok(None),
        }
    }

    /// The VM's CPUs below the pod's cgroup, and the rest elsewhere.
    fn apart(
        &self,
        hierarchy: &Hierarchy<'_>,
        pod: Option<(PathBuf, String)>,
        places: &mut Places,
    ) -> io::Result<()> {
        if hierarchy.counts()
            && let Some(path) = place::make_overhead(hierarchy.top(), self.request.id, &*self.intents)?
        {
            places.whole.push(Place::at(path, hierarchy, self.membership));
        }
        let Some((pod, name)) = pod else { return Ok(()) };
        if hierarchy.is_v2() {
            if hierarchy.counts()
                && self.has_room(&pod)
                && let Some(place) = self.made(hierarchy, pod.join(name))?
            {
                let procs = OpenOptions::new().write(true).open(place.directory.join(PROCS))?;
                places.vmm.push(place);
                places.vmm_procs = Arc::new([procs]);
            }
        } else if hierarchy.has_any(&["cpu", "cpuacct"]) {
            places.vcpus.extend(self.made(hierarchy, pod.join(name))?);
        } else {
            places.vcpus.extend(self.on_cpus_of(hierarchy, pod));
        }
        Ok(())
    }

    /// As [`Self::apart`] where version 2 alone counts and systemd makes the cgroups: this process goes into a scope now, and
    /// the VMM into its own once there is one, as no scope is without a process.
    fn in_scopes(
        &self,
        hierarchy: &Hierarchy<'_>,
        pod: Option<(PathBuf, String)>,
        unit: Unit<'_>,
        places: &mut Places,
    ) -> Result<(), CgroupError> {
        if !hierarchy.counts() {
            return Ok(());
        }
        let overhead = path::overhead(self.request.id);
        if let Some(rest) = Unit::of(Some(unit.systemd), overhead.as_ref())
            && let Some(directory) = hierarchy.directory(&rest.wanted.parent)
        {
            self.scope(rest)?.start(process::id())?;
            places.whole.extend(self.made(hierarchy, directory.join(&rest.wanted.name))?);
        }
        if let Some((pod, name)) = pod.filter(|(pod, _)| self.has_room(pod)) {
            places.vmm_scope = Some(self.scope(unit)?);
            let path = pod.join(name);
            self.intents.will(Intent::Cgroup { path: path.clone() })?;
            places.vmm.push(Place::at(path, hierarchy, self.membership));
        }
        Ok(())
    }

    /// Announces a scope.
    fn scope(&self, unit: Unit<'_>) -> io::Result<Awaiting> {
        let Unit { systemd, wanted, slice } = unit;
        let (name, socket) = (wanted.name.clone(), systemd.socket().to_owned());
        let id = self.intents.will(Intent::Scope { unit: name.clone(), socket })?;
        let description = format!("Kata Containers sandbox {}", self.request.id);
        Ok(Awaiting {
            systemd: systemd.clone(),
            scope: Scope { unit: name, slice: slice.to_owned(), description },
            announced: Announced { intents: Arc::clone(&self.intents), id },
        })
    }

    /// Whether the pod is where something counts, and has room for the VM everywhere: a scope is in all hierarchies.
    fn fits(&self, unit: &Unit<'_>, hierarchies: &[Hierarchy<'_>]) -> bool {
        let counting = hierarchies.iter().filter(|one| one.counts());
        let pods = counting.filter_map(|one| one.directory(&unit.wanted.parent)).filter(|pod| pod.is_dir());
        let mut pods = pods.peekable();
        pods.peek().is_some() && pods.all(|pod| place::has_room(&pod, self.request.memory))
    }

    fn made(&self, hierarchy: &Hierarchy<'_>, path: PathBuf) -> io::Result<Option<Place>> {
        let made = place::make(&path, &*self.intents)?;
        Ok(made.then(|| Place::at(path, hierarchy, self.membership)))
    }

    /// In version 1's `cpuset`, the pod's own cgroup: so what changes there holds at once, and a cgroup of our own would keep
    /// the pod from getting fewer CPUs.
    fn on_cpus_of(&self, hierarchy: &Hierarchy<'_>, pod: PathBuf) -> Option<Place> {
        let takes = hierarchy.has_any(&["cpuset"]) && place::has_cpus(&pod);
        takes.then(|| Place::at(pod, hierarchy, self.membership))
    }

    fn has_room(&self, pod: &Path) -> bool {
        let memory = self.request.memory;
        let has_room = place::has_room(pod, memory);
        if !has_room {
            let pod = pod.display();
            tracing::warn!(%pod, memory, "The VM is not counted here: the pod's limit is less than its memory");
        }
        has_room
    }
}
