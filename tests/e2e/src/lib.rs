//! Whole-system tests through a real containerd, and the harness they are written with.
//!
//! Each test is one call of [`test()`] (or [`kata_test`], where the behaviour exists only with a VM; [`cri_test`] and
//! [`kata_cri_test`] for pods through the Container Runtime Interface): it gets a containerd
//! of its own in private mount and network namespaces with an empty `/run`, and when its body is done, the host must
//! be as it was: no process, mount, link, tc rule, cgroup, socket, file or directory may be left.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `KATA_E2E_RUNTIME` | containerd's name of the runtime under test; a test that fails with `io.containerd.runc.v2` is a wrong test | `io.containerd.kata.v2` |
//! | `KATA_TEST_STAGE` | prefix the runtime is installed in; when it is set, nothing may be skipped | `target/stage` |
//! | `KATA_TEST_CACHE` | directory with the images of the tests in `images` | as `cargo xtask`'s |
//! | `KATA_E2E_SOAK` | tests do all they can, which takes hours; `cargo xtask test --soak` sets it | not set |
//! | `TMPDIR` | where containerd's data and large files go; must be able to carry overlayfs | `/var/tmp` |

mod action;
mod bench;
mod cni;
mod command;
mod compare;
mod configuration;
mod containerd;
mod cri;
mod data;
mod disks;
mod events;
mod failure;
mod footprint;
mod host;
mod idleness;
mod leftovers;
mod monitor;
mod network;
mod processes;
mod recipe;
mod sandbox;
mod scenario;
mod setup;
mod shim;
mod spec;
mod task;
mod tasks;
mod terminal;
mod transcript;

pub use action::UnknownBundle;
pub use bench::answer_lines;
pub use cni::{Attachment, host_local};
pub use command::{Finished, Live};
pub use compare::{
    Bundle, Expected, RUNC, both_refuse, compare, compare_closely, compare_execs, compare_made_up,
    compare_roots, with_probe,
};
pub use containerd::{Containerd, NOBODY_CALLED};
pub use cri::{
    BRIDGE, ContainerRecipe, Cri, Ended, Forward, LogLine, Pod, PodContainer, PodRecipe, Steady, Stream,
    proto,
};
pub use data::{Pattern, Slowly, sha256, sha256_of_file};
pub use disks::{LoopDevice, check_ext4, read_ext4};
pub use events::{Event, Events};
pub use failure::{as_soon_as, eventually, fail};
pub use footprint::Footprint;
pub use idleness::{Idleness, Wakes};
pub use monitor::{Monitor, MonitorEvents};
pub use network::{Network, ip};
pub use processes::Process;
pub use recipe::{Bind, Image, Recipe};
pub use sandbox::{Member, Sandbox};
pub use scenario::{cri_test, kata_cri_test, kata_test, test};
pub use setup::{Stage, amount};
pub use spec::Rootfs;
pub use task::{Container, ExecRecipe};
pub use tasks::{Created, RootMount};
pub use terminal::Terminal;
pub use transcript::Transcript;
