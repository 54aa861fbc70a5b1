//! Network namespaces as a CNI plugin leaves them to a runtime: made with iproute2, in the test's corner of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;

/// Where iproute2 keeps namespaces.
const NAMESPACES: &str = "/run/netns";

/// A pod's network namespace; it is removed with the value.
pub struct Network {
    name: &'static str,
}

impl Network {
    /// An empty one.
    #[track_caller]
    pub fn new(name: &'static str) -> Self {
        ip(&format!("netns add {name}"));
        Self { name }
    }

    /// With `eth0`, a veth whose other end is `host0` outside: 10.7.0.2 and fd00:7::2 inside, .1 and ::1 outside, which is
    /// also the way to everywhere else.
    #[track_caller]
    pub fn with_veth(name: &'static str) -> Self {
        let network = Self::new(name);
        network.add_veth("eth0", "host0", 7);
        network.inside("route add default via 10.7.0.1");
        network.inside("-6 route add default via fd00:7::1");
        network
    }

    /// A veth into the subnets of that number.
    #[track_caller]
    pub fn add_veth(&self, inside: &str, outside: &str, number: u8) {
        let name = self.name;
        ip(&format!("link add {outside} type veth peer name {inside} netns {name}"));
        ip(&format!("addr add 10.{number}.0.1/24 dev {outside}"));
        ip(&format!("addr add fd00:{number}::1/64 dev {outside} nodad"));
        ip(&format!("link set {outside} up"));
        self.inside(&format!("addr add 10.{number}.0.2/24 dev {inside}"));
        self.inside(&format!("addr add fd00:{number}::2/64 dev {inside} nodad"));
        self.inside(&format!("link set {inside} up"));
    }

    /// Runs `ip` in it; what it prints.
    #[track_caller]
    pub fn inside(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// What `tc` says about it.
    #[track_caller]
    pub fn traffic_control(&self) -> String {
        run(Command::new("tc").args(["-n", self.name, "qdisc", "show"])).ok().text()
    }

    /// Its interfaces and queueing disciplines.
    #[track_caller]
    pub fn holdings(&self) -> Vec<String> {
        let (links, disciplines) = (self.inside("-o link"), self.traffic_control());
        let names = links.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned);
        names.chain(disciplines.lines().map(str::to_owned)).collect()
    }

    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(self.name)
    }

    /// The option of `ctr run` for a container in it.
    pub fn option(&self) -> [String; 2] {
        ["--with-ns".to_owned(), format!("network:{}", self.path().display())]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Of a failed test the failure is the news.
        let _ = Command::new("ip").args(["netns", "delete", self.name]).status();
        // iproute2 makes the folder a mount, which the last one takes along.
        if std::fs::read_dir(NAMESPACES).is_ok_and(|mut entries| entries.next().is_none()) {
            let _ = rustix::mount::unmount(NAMESPACES, rustix::mount::UnmountFlags::DETACH);
            let _ = std::fs::remove_dir(NAMESPACES);
        }
    }
}

/// Runs `ip` in the test's own namespace; what it prints.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split(' '))).ok().text()
}
