//! Threads of virtual CPUs on CPUs of the host: a real QEMU.

use super::real;
use crate::qemu::launch;
use crate::vmm::{Affinity, Resize, Vmm, VmmError};

/// The CPUs that this process's thread of that name may run on.
pub(super) fn allowed(pid: u32, name: &str) -> String {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap().path();
        if std::fs::read_to_string(thread.join("comm")).unwrap().starts_with(name) {
            let status = std::fs::read_to_string(thread.join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            return line.unwrap().trim().to_owned();
        }
    }
    panic!("no such thread")
}

fn on(cpus: &[u32], each: Option<u32>) -> Affinity {
    Affinity { cpus: cpus.to_vec(), each }
}

#[tokio::test]
async fn a_vm_is_bound_to_cpus_and_let_go_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut plan) = real(&dir) else { return };
    plan.max_vcpus = 1;
    let vm = launch(plan).await.unwrap();
    vm.ready().await.unwrap();
    let where_it_runs = || ["qemu", "CPU 0/"].map(|thread| allowed(vm.pid(), thread));
    let before = where_it_runs();
    assert!(!vm.set_affinity(&on(&[0], None)).await.unwrap(), "that it has it alone is not asked for");
    assert_eq!(where_it_runs(), ["0", "0"]);
    assert!(vm.set_affinity(&on(&[0], Some(1))).await.unwrap());
    assert_eq!(where_it_runs(), ["0", "0"]);
    assert!(!vm.set_affinity(&on(&[0], Some(2))).await.unwrap(), "there are not as many");
    assert!(!vm.set_affinity(&on(&[], Some(1))).await.unwrap(), "nothing to pin it to");
    assert_eq!(where_it_runs(), before);
    let refused = vm.set_affinity(&on(&[1023], None)).await.unwrap_err();
    assert!(matches!(refused, VmmError::Affinity { .. }), "{refused}");
    vm.kill().await;
}
