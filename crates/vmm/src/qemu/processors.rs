//! Virtual CPUs that come and go while QEMU runs, each in a socket of its own.

use serde_json::{Value, json};

use super::hotplug::REMOVAL_DEADLINE;
use super::lifecycle::Qemu;
use super::qmp::{Client, DeviceAdd, HotpluggableCpu, QueryHotpluggableCpus, VcpuThread};
use crate::vmm::VmmError;

/// What is to be done for a number of CPUs.
#[derive(Debug, Default)]
struct Steps {
    add: Vec<HotpluggableCpu>,
    /// By their ids, the last one first.
    remove: Vec<String>,
    /// How many there are then.
    count: u32,
}

impl Steps {
    fn to(wanted: u32, mut sockets: Vec<HotpluggableCpu>) -> Self {
        // The guest counts its CPUs in the order in which they came.
        sockets.sort_by_key(socket);
        let (present, absent): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|cpu| cpu.qom_path.is_some());
        let there = u32::try_from(present.len()).unwrap_or(u32::MAX);
        if wanted >= there {
            let add = absent.into_iter().take((wanted - there) as usize).collect();
            return Self { add, count: wanted, ..Self::default() };
        }
        let removable = present.iter().rev().filter(was_added).map(device_id);
        let remove: Vec<_> = removable.take((there - wanted) as usize).collect();
        let count = there - u32::try_from(remove.len()).unwrap_or(0);
        Self { remove, count, ..Self::default() }
    }
}

impl Qemu {
    /// Adds or takes out CPUs until there are so many; how many there are then, as those of the start stay.
    pub(super) async fn plug_vcpus(&self, wanted: u32) -> Result<u32, VmmError> {
        let client = self.client().await?;
        let steps = Steps::to(wanted, client.execute(QueryHotpluggableCpus {}).await?);
        for cpu in steps.add {
            add(&client, cpu).await?;
        }
        for id in &steps.remove {
            self.remove(&client, id).await?;
        }
        Ok(steps.count)
    }

    async fn remove(&self, client: &Client, id: &str) -> Result<(), VmmError> {
        match self.let_go(client, id).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(VmmError::VcpuInUse { id: id.to_owned(), deadline: REMOVAL_DEADLINE }),
            // The guest has let go since it was last asked.
            Err(VmmError::Control(error)) if error.is_device_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The threads that run the CPUs, each once.
pub(super) fn threads(cpus: &[VcpuThread]) -> Vec<u32> {
    let mut threads: Vec<_> = cpus.iter().map(|cpu| cpu.thread_id.cast_unsigned()).collect();
    threads.sort_unstable();
    threads.dedup();
    threads
}

async fn add(client: &Client, cpu: HotpluggableCpu) -> Result<(), VmmError> {
    let id = device_id(&cpu);
    let mut device = cpu.props;
    device.insert("driver".to_owned(), json!(cpu.r#type));
    device.insert("id".to_owned(), json!(id));
    Ok(client.execute(DeviceAdd(device)).await.map(drop)?)
}

fn socket(cpu: &HotpluggableCpu) -> u64 {
    cpu.props.get("socket-id").and_then(Value::as_u64).unwrap_or_default()
}

fn device_id(cpu: &HotpluggableCpu) -> String {
    format!("cpu{}", socket(cpu))
}

/// Those of the start have no id.
fn was_added(cpu: &&HotpluggableCpu) -> bool {
    cpu.qom_path.as_deref() == Some(&format!("/machine/peripheral/{}", device_id(cpu)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Steps, VcpuThread, device_id, threads};

    /// Three sockets, as QEMU names them (7.2): the last one first.
    fn steps(wanted: u32, added: &[u64]) -> (Vec<String>, Vec<String>, u32) {
        let socket = |number: u64| {
            let props = json!({"core-id": 0, "thread-id": 0, "node-id": 0, "socket-id": number});
            let path = match number {
                0 => Some("/machine/unattached/device[0]".to_owned()),
                _ => added.contains(&number).then(|| format!("/machine/peripheral/cpu{number}")),
            };
            match path {
                Some(path) => {
                    json!({"props": props, "vcpus-count": 1, "qom-path": path, "type": "host-x86_64-cpu"})
                }
                None => json!({"props": props, "vcpus-count": 1, "type": "host-x86_64-cpu"}),
            }
        };
        let sockets = serde_json::from_value(json!([socket(2), socket(1), socket(0)])).unwrap();
        let Steps { add, remove, count } = Steps::to(wanted, sockets);
        (add.iter().map(device_id).collect(), remove, count)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// As QEMU 7.2 answers.
    #[test]
    fn cpus_that_are_emulated_by_one_thread_are_found_once() {
        let cpu = |index: u32, thread: u32| {
            json!({"thread-id": thread, "props": {"socket-id": index}, "qom-path": "/machine/unattached/device[0]",
                "target": "x86_64", "cpu-index": index})
        };
        let cpus = |threads: [u32; 3]| -> Vec<VcpuThread> {
            serde_json::from_value(json!([cpu(0, threads[0]), cpu(1, threads[1]), cpu(2, threads[2])]))
                .unwrap()
        };
        assert_eq!(threads(&cpus([52, 52, 52])), [52]);
        assert_eq!(threads(&cpus([53, 52, 54])), [52, 53, 54]);
    }

    #[test]
    fn the_lowest_sockets_are_filled_first() {
        assert_eq!(steps(2, &[]), (names(&["cpu1"]), names(&[]), 2));
        assert_eq!(steps(3, &[]), (names(&["cpu1", "cpu2"]), names(&[]), 3));
        assert_eq!(steps(3, &[1, 2]), (names(&[]), names(&[]), 3));
    }

    #[test]
    fn the_last_cpu_goes_first_and_those_of_the_start_stay() {
        assert_eq!(steps(2, &[1, 2]), (names(&[]), names(&["cpu2"]), 2));
        assert_eq!(steps(0, &[1, 2]), (names(&[]), names(&["cpu2", "cpu1"]), 1));
    }
}
