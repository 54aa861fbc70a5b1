//! Verdicts from made-up checks, and checks of made-up hosts.

use std::fs;
use std::path::Path;

use kata_config::Accelerator;

use super::probes;
use super::report::{Item, Need, Report, Status};
use crate::host::Host;

const FIRST: &str = "System is capable of running Kata Containers";
const SECOND: &str = "System can currently create Kata Containers";

fn failed(need: Need) -> Item {
    Item::not("x", Status::Failed, "missing", "do something").needed_for(need)
}

#[test]
fn both_verdicts_need_root_and_everything() {
    let fine = vec![Item::ok("x", Need::Create, "there")];
    assert_eq!(Report::new(fine.clone(), true, false).verdicts(), [FIRST, SECOND]);
    assert_eq!(Report::new(fine, false, false).verdicts(), [FIRST]);
    let missing = Report::new(vec![failed(Need::Create)], true, false);
    assert_eq!(missing.verdicts(), [FIRST, "System cannot currently create Kata Containers"]);
    assert!(!missing.ok);
    let hopeless = Report::new(vec![failed(Need::Run)], true, false);
    assert_eq!(hopeless.verdicts(), ["System is not capable of running Kata Containers"]);
}

#[test]
fn what_is_missing_fails_without_root_too() {
    let report = Report::new(vec![failed(Need::Create)], false, false);
    assert_eq!((report.ok, report.can_create), (false, None));
}

#[test]
fn strict_fails_on_warnings() {
    let warned = vec![Item::not("x", Status::Warning, "slow", "wait")];
    assert!(Report::new(warned.clone(), true, false).ok);
    assert!(!Report::new(warned, true, true).ok);
    let absent = vec![Item::not("x", Status::Absent, "no", "nothing")];
    assert!(Report::new(absent, true, true).ok);
}

fn host(flags: &str, kvm: bool) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("proc")).unwrap();
    fs::create_dir_all(dir.path().join("dev")).unwrap();
    fs::write(dir.path().join("proc/cpuinfo"), format!("processor: 0\nflags: {flags}\n")).unwrap();
    if kvm {
        fs::write(dir.path().join("dev/kvm"), "").unwrap();
    }
    let host = Host::below(dir.path());
    (dir, host)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_accelerator_is_chosen_and_explained() {
    let (_dir, with) = host("svm", true);
    assert!(probes::accelerator(&with, Accelerator::Auto).detail.starts_with("kvm: "));
    let (_dir, without) = host("sse", true);
    let auto = probes::accelerator(&without, Accelerator::Auto);
    assert_eq!((auto.status, auto.detail.starts_with("tcg: ")), (Status::Warning, true));
    assert_eq!(probes::accelerator(&without, Accelerator::Tcg).status, Status::Ok);
    assert!(probes::accelerator(&without, Accelerator::Kvm).is_failure(Need::Run));
}

#[test]
fn another_hypervisor_that_has_virtual_machines_is_a_warning() {
    let (dir, host) = host("vmx", true);
    let modules = |text: &str| fs::write(dir.path().join("proc/modules"), text).unwrap();
    modules("vboxdrv 606208 0 vboxnetflt, Live 0x0\nkvm 1 3 - Live 0x0\n");
    assert_eq!(probes::other_hypervisors(&host).status, Status::Ok, "loaded, and not in use");
    modules("vboxdrv 606208 2 vboxnetflt, Live 0x0\n");
    let found = probes::other_hypervisors(&host);
    assert_eq!((found.status, found.detail.as_str()), (Status::Warning, "VirtualBox runs"));
}

#[test]
fn missing_things_come_with_advice() {
    let nowhere = Path::new("/nonexistent/thing");
    for item in [
        probes::qemu(nowhere),
        probes::file_daemon("virtiofsd", nowhere, "install it"),
        probes::kernel(nowhere),
        probes::initrd(nowhere),
    ] {
        assert_eq!(item.status, Status::Failed, "{item}");
        assert!(item.advice.is_some() && item.detail.contains("/nonexistent/thing"), "{item}");
    }
}

#[test]
fn a_file_must_be_a_file_with_something_in_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(probes::kernel(dir.path()).detail.ends_with("is no regular file"));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    assert!(probes::initrd(&empty).detail.ends_with("is empty"));
}
