//! What a pod may use: what CRI implementations write into the annotations of `config.json`, or a single container's own
//! limits.

use std::collections::HashMap;

use kata_sandbox::sizing::{CpuLimit, Limits};
use oci_spec::runtime::Spec;
use serde::Deserialize;

use crate::pod;

/// containerd's, and for the Sandbox API ours ([`crate::cri`]).
pub(crate) const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
pub(crate) const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
pub(crate) const CPU_SHARES: &str = "io.kubernetes.cri.sandbox-cpu-shares";
pub(crate) const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// CRI-O's, the newer name first: a `LinuxContainerResources` of the CRI as JSON.
const CRIO_RESOURCES: [&str; 2] = ["pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"];

/// An annotation does not say what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitsError {
    /// No number.
    #[error("The annotation {name} must be a whole number, not {value:?}")]
    NoNumber {
        /// The annotation.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Not the CRI's.
    #[error("The annotation {name} must be a LinuxContainerResources as JSON")]
    NoResources {
        /// The annotation.
        name: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// The part of a `LinuxContainerResources` that a VM's size depends on. What is absent is 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    cpu_period: i64,
    cpu_quota: i64,
    cpu_shares: i64,
    memory_limit_in_bytes: i64,
    hugepage_limits: Vec<HugePages>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HugePages {
    limit: u64,
}

/// What is known at the start of what the containers of this specification's VM may use; `None` if nothing is.
///
/// # Errors
/// An annotation does not parse.
pub(crate) fn of(spec: &Spec) -> Result<Option<Limits>, LimitsError> {
    let empty = HashMap::new();
    let annotations = spec.annotations().as_ref().unwrap_or(&empty);
    let said = match of_containerd(annotations)? {
        None => of_crio(annotations)?,
        found => found,
    };
    match said {
        Some(resources) => Ok(Some(resources.limits())),
        // A pod's sandbox container has little to do with what the others may use.
        None if pod::is_of_pod(spec) => Ok(None),
        None => Ok(spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).map(Limits::of)),
    }
}

fn of_containerd(annotations: &HashMap<String, String>) -> Result<Option<Resources>, LimitsError> {
    if ![CPU_PERIOD, CPU_QUOTA, CPU_SHARES, MEMORY].iter().any(|name| annotations.contains_key(*name)) {
        return Ok(None);
    }
    let number = |name: &'static str| {
        let Some(value) = annotations.get(name) else { return Ok(0) };
        value.trim().parse().map_err(|_| LimitsError::NoNumber { name, value: value.clone() })
    };
    Ok(Some(Resources {
        cpu_period: number(CPU_PERIOD)?,
        cpu_quota: number(CPU_QUOTA)?,
        cpu_shares: number(CPU_SHARES)?,
        memory_limit_in_bytes: number(MEMORY)?,
        hugepage_limits: Vec::new(),
    }))
}

fn of_crio(annotations: &HashMap<String, String>) -> Result<Option<Resources>, LimitsError> {
    let found = CRIO_RESOURCES.into_iter().find_map(|name| Some((name, annotations.get(name)?)));
    let Some((name, text)) = found else { return Ok(None) };
    serde_json::from_str(text).map_err(|source| LimitsError::NoResources { name, source })
}

impl Resources {
    fn limits(&self) -> Limits {
        let cpu = CpuLimit { quota: Some(self.cpu_quota), period: u64::try_from(self.cpu_period).ok() };
        let pages = self.hugepage_limits.iter().fold(0_u64, |sum, pages| sum.saturating_add(pages.limit));
        Limits::new(cpu, Some(self.memory_limit_in_bytes))
            .with_request(u64::try_from(self.cpu_shares).unwrap_or(0))
            .with_huge_pages(pages)
    }
}

#[cfg(test)]
mod tests {
    use kata_sandbox::sizing::{CpuLimit, Limits};
    use serde_json::{Value, json};

    use super::{LimitsError, of};

    fn read(annotations: &Value, resources: &Value) -> Result<Option<Limits>, LimitsError> {
        let spec =
            json!({ "ociVersion": "1.1.0", "annotations": annotations, "linux": { "resources": resources } });
        of(&serde_json::from_value(spec).unwrap())
    }

    fn limits(quota: i64, memory: i64) -> Limits {
        Limits::new(CpuLimit { quota: Some(quota), period: Some(100_000) }, Some(memory))
    }

    #[test]
    fn containerds_annotations_say_what_a_pod_may_use() {
        let annotations = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-cpu-period": "100000",
            "io.kubernetes.cri.sandbox-cpu-quota": "150000",
            "io.kubernetes.cri.sandbox-cpu-shares": "1024",
            "io.kubernetes.cri.sandbox-memory": "268435456",
        });
        let expected = limits(150_000, 256 << 20).with_request(1024);
        assert_eq!(read(&annotations, &json!({})).unwrap(), Some(expected));
    }

    #[test]
    fn crios_say_so_under_either_name() {
        let resources = r#"{"cpu_period":100000,"cpu_quota":150000,"cpu_shares":2,"memory_limit_in_bytes":268435456,
            "hugepage_limits":[{"page_size":"2MB","limit":4194304}],"cpuset_cpus":"0"}"#;
        let expected = limits(150_000, 256 << 20).with_request(2).with_huge_pages(4 << 20);
        for name in ["pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"] {
            assert_eq!(read(&json!({ name: resources }), &json!({})).unwrap(), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_single_container_says_so_by_its_own_limits() {
        let resources = json!({ "cpu": { "quota": 150_000, "period": 100_000, "shares": 4096 },
            "memory": { "limit": 256 << 20 }, "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] });
        let expected = limits(150_000, 256 << 20).with_huge_pages(4 << 20);
        assert_eq!(read(&json!({}), &resources).unwrap(), Some(expected), "its shares are a weight");
    }

    #[test]
    fn a_pause_containers_own_limits_are_not_the_pods() {
        let pause = json!({ "io.kubernetes.cri.container-type": "sandbox" });
        assert_eq!(read(&pause, &json!({ "memory": { "limit": 4 << 20 } })).unwrap(), None);
    }

    #[test]
    fn an_annotation_that_is_no_number_is_named() {
        let error = read(&json!({ "io.kubernetes.cri.sandbox-memory": "256Mi" }), &json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The annotation io.kubernetes.cri.sandbox-memory must be a whole number, not \"256Mi\""
        );
        let error = read(&json!({ "io.kubernetes.cri-o.PodLinuxResources": "wrong" }), &json!({}));
        assert!(error.unwrap_err().to_string().starts_with("The annotation io.kubernetes.cri-o.PodLinux"));
    }
}
