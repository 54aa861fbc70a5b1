//! Where the runtime under test and the images are, and whether this machine can run the tests at all.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::configuration::PLUGINS;
use crate::cri::PAUSE_FILE;
use crate::failure::fail;

const KATA: &str = "io.containerd.kata.v2";
const PROGRAMS: [&str; 9] =
    ["containerd", "ctr", "flock", "getfattr", "ip", "qemu-system-x86_64", "runc", "setsid", "tc"];

/// The installed runtime under test.
#[derive(Clone, Debug)]
pub struct Stage {
    /// containerd's name of the runtime.
    pub runtime: String,
    /// The prefix it is installed in.
    pub prefix: PathBuf,
    /// `configuration.toml`.
    pub configuration: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) probe: PathBuf,
}

impl Stage {
    /// The runtime under test, or `None` with the reason printed when this machine cannot run it.
    pub(crate) fn find() -> Option<Self> {
        Self::find_with(&[])
    }

    /// As [`Stage::find`], for tests through the Container Runtime Interface.
    pub(crate) fn find_for_cri() -> Option<Self> {
        let cache = cache_of_tests();
        let plugins = ["bridge", "host-local", "loopback", "portmap"];
        let plugins = plugins.map(|plugin| Path::new(PLUGINS).join(plugin));
        let files: Vec<_> = plugins.into_iter().chain([cache.join("images").join(PAUSE_FILE)]).collect();
        Self::find_with(&files)
    }

    fn find_with(needed: &[PathBuf]) -> Option<Self> {
        let prefix = env::var_os("KATA_TEST_STAGE").map(PathBuf::from);
        let demanded = prefix.is_some();
        let prefix = prefix.unwrap_or_else(|| workspace().join("target/stage"));
        let stage = Self {
            runtime: env::var("KATA_E2E_RUNTIME").unwrap_or_else(|_| KATA.to_owned()),
            configuration: prefix.join("share/defaults/kata-containers/configuration.toml"),
            cache: cache_of_tests(),
            probe: env::var_os("KATA_TEST_PROBE").map_or_else(probe, PathBuf::from),
            prefix,
        };
        let missing = stage.missing(needed);
        match missing.first() {
            None => Some(stage),
            Some(_) if demanded => fail(format_args!("This test cannot run: {}", missing.join(", "))),
            Some(_) => {
                println!("SKIPPED, run `cargo xtask test`: {}", missing.join(", "));
                None
            }
        }
    }

    /// Whether the runtime under test is this project's.
    pub fn is_kata(&self) -> bool {
        self.runtime == KATA
    }

    /// The program that tells what a container sees, static.
    pub fn probe(&self) -> &Path {
        &self.probe
    }

    /// The folder with the images of the tests.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// `PATH` with the installed programs first.
    pub(crate) fn path(&self) -> OsString {
        let old = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(self.prefix.join("bin")).chain(env::split_paths(&old));
        env::join_paths(all).expect("the parts of a PATH and a path without colon make a PATH")
    }

    fn missing(&self, needed: &[PathBuf]) -> Vec<String> {
        let mut missing = Vec::new();
        if !rustix::process::geteuid().is_root() {
            missing.push("root is needed".to_owned());
        }
        let path = self.path();
        let on_path = |program: &str| env::split_paths(&path).any(|d| d.join(program).is_file());
        let lacking = PROGRAMS.iter().filter(|program| !on_path(program));
        missing.extend(lacking.map(|program| format!("{program} is not installed")));
        let mut files = vec![
            self.probe.clone(),
            self.cache.join("images/busybox.tar"),
            self.cache.join("images/debian.tar"),
            self.cache.join("images/network.tar"),
            self.cache.join("images/tools.tar"),
        ];
        files.extend_from_slice(needed);
        if self.is_kata() {
            files.extend([self.prefix.join("bin/containerd-shim-kata-v2"), self.configuration.clone()]);
        }
        let lacking = files.iter().filter(|file| !file.is_file());
        missing.extend(lacking.map(|file| format!("{} is not there", file.display())));
        missing
    }
}

/// How much of something a test does: `usual`, or `soak` where `KATA_E2E_SOAK` is set.
#[must_use]
pub fn amount<T>(usual: T, soak: T) -> T {
    if env::var_os("KATA_E2E_SOAK").is_some() { soak } else { usual }
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).expect("this package lies two levels below the workspace")
}

/// As `cargo xtask` builds it.
fn probe() -> PathBuf {
    workspace().join("target/x86_64-unknown-linux-gnu/agent/kata-probe")
}

fn cache_of_tests() -> PathBuf {
    env::var_os("KATA_TEST_CACHE").map_or_else(cache, PathBuf::from)
}

/// As `cargo xtask` chooses it.
fn cache() -> PathBuf {
    if let Some(own) = env::var_os("KATA_BUILD_CACHE") {
        return PathBuf::from(own);
    }
    let xdg = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    base.unwrap_or_default().join("kata-containers")
}
