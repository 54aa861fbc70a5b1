//! The pod's configuration as CRI implementations hand it to `CreateSandbox`: `runtime.v1.PodSandboxConfig`, as far as
//! a VM can tell the difference.

use std::collections::{BTreeMap, HashMap};

use kata_sandbox::{Dns, Pod};
use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;

use crate::pod_limits;

/// Annotations that are ours; others are for other eyes.
const OURS: &str = "io.katacontainers.";

/// What a pod shall be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PodConfig {
    /// Fields 2, 4 and 3 of 8: its host name, its resolver and its kernel settings.
    pub(crate) pod: Pod,
    /// Field 7: those of its annotations that are for this runtime. Among them, under the names that containerd has for it
    /// where there is a pause container, what its containers may use together.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The configuration is broken.
#[derive(Debug, thiserror::Error)]
#[error("The value of {type_url} does not parse")]
pub(crate) struct CriError {
    /// The type it claims to be.
    type_url: String,
    /// Why not.
    source: protobuf::Error,
}

impl PodConfig {
    /// Whether these options of `CreateSandbox` are a pod's configuration.
    pub(crate) fn is_in(any: &Any) -> bool {
        any.type_url.ends_with(".PodSandboxConfig")
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn from_any(any: &Any) -> Result<Self, CriError> {
        Self::read(&any.value).map_err(|source| CriError { type_url: any.type_url.clone(), source })
    }

    fn read(bytes: &[u8]) -> protobuf::Result<Self> {
        let mut config = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                0x12 => config.pod.hostname = input.read_string()?,
                0x22 => config.pod.dns = dns(&input.read_bytes()?)?,
                0x3a => {
                    let (name, value) = entry(&input.read_bytes()?)?;
                    if name.starts_with(OURS) {
                        config.annotations.insert(name, value);
                    }
                }
                0x42 => {
                    let linux = input.read_bytes()?;
                    config.pod.sysctls = sysctls(&linux)?;
                    config.annotations.extend(resources(&linux)?);
                }
                _ => skip(tag, &mut input)?,
            }
        }
        Ok(config)
    }
}

/// An entry of a map of strings.
fn entry(bytes: &[u8]) -> protobuf::Result<(String, String)> {
    let mut entry = (String::new(), String::new());
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x0a => entry.0 = input.read_string()?,
            0x12 => entry.1 = input.read_string()?,
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(entry)
}

/// A `DNSConfig`.
fn dns(bytes: &[u8]) -> protobuf::Result<Dns> {
    let mut dns = Dns::default();
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x0a => dns.servers.push(input.read_string()?),
            0x12 => dns.searches.push(input.read_string()?),
            0x1a => dns.options.push(input.read_string()?),
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(dns)
}

/// Those of a `LinuxPodSandboxConfig`.
fn sysctls(linux: &[u8]) -> protobuf::Result<HashMap<String, String>> {
    let mut sysctls = HashMap::new();
    let mut input = CodedInputStream::from_bytes(linux);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x1a => sysctls.extend([entry(&input.read_bytes()?)?]),
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(sysctls)
}

/// Those of a `LinuxPodSandboxConfig`: the `LinuxContainerResources` in its field 5.
fn resources(linux: &[u8]) -> protobuf::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut input = CodedInputStream::from_bytes(linux);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            0x2a => found.extend(amounts(&input.read_bytes()?)?),
            _ => skip(tag, &mut input)?,
        }
    }
    Ok(found)
}

/// Those of a `LinuxContainerResources`.
fn amounts(resources: &[u8]) -> protobuf::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut input = CodedInputStream::from_bytes(resources);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let name = match tag {
            0x08 => pod_limits::CPU_PERIOD,
            0x10 => pod_limits::CPU_QUOTA,
            0x18 => pod_limits::CPU_SHARES,
            0x20 => pod_limits::MEMORY,
            _ => {
                skip(tag, &mut input)?;
                continue;
            }
        };
        found.insert(name.to_owned(), input.read_int64()?.to_string());
    }
    Ok(found)
}

fn skip(tag: u32, input: &mut CodedInputStream<'_>) -> protobuf::Result<()> {
    protobuf::rt::read_unknown_or_skip_group(tag, input, &mut protobuf::UnknownFields::new())
}

#[cfg(test)]
mod tests {
    use protobuf::well_known_types::any::Any;

    use super::PodConfig;

    fn any(value: &[u8]) -> Any {
        Any { type_url: "runtime.v1.PodSandboxConfig".into(), value: value.to_vec(), ..Any::default() }
    }

    #[test]
    fn the_name_and_our_annotations_are_read() {
        let ours = b"\x3a\x1a\x0a\x15io.katacontainers.x.y\x12\x01z";
        let other = b"\x3a\x06\x0a\x01a\x12\x01b";
        let metadata = b"\x0a\x03\x0a\x01p";
        let config = [&metadata[..], b"\x12\x03web", ours, other, b"\x42\x02\x0a\x00"].concat();
        let config = PodConfig::from_any(&any(&config)).unwrap();
        assert_eq!(config.pod.hostname, "web");
        assert_eq!(
            config.annotations.into_iter().collect::<Vec<_>>(),
            [("io.katacontainers.x.y".into(), "z".into())]
        );
    }

    #[test]
    fn the_resolver_and_the_kernel_settings_are_read() {
        let dns = b"\x22\x11\x0a\x07\x31.1.1.1\x12\x01a\x12\x01b\x1a\x00";
        let linux = b"\x42\x08\x1a\x06\x0a\x01a\x12\x01b";
        let pod = PodConfig::from_any(&any(&[&dns[..], linux].concat())).unwrap().pod;
        assert_eq!(
            (pod.dns.servers, pod.dns.searches),
            (vec!["1.1.1.1".into()], vec!["a".into(), "b".into()])
        );
        assert_eq!(pod.dns.options, [""]);
        assert_eq!(pod.sysctls.into_iter().collect::<Vec<_>>(), [("a".into(), "b".into())]);
    }

    #[test]
    fn what_the_containers_may_use_is_read_as_containerds_annotations() {
        // 100000, 150000 and 268435456 as variable-length integers, and a CPU set.
        let resources = b"\x08\xa0\x8d\x06\x10\xf0\x93\x09\x20\x80\x80\x80\x80\x01\x32\x010";
        let linux = [b"\x42\x13\x2a\x11", &resources[..]].concat();
        let config = PodConfig::from_any(&any(&linux)).unwrap();
        assert_eq!(
            config.annotations.into_iter().collect::<Vec<_>>(),
            [
                ("io.kubernetes.cri.sandbox-cpu-period".into(), "100000".into()),
                ("io.kubernetes.cri.sandbox-cpu-quota".into(), "150000".into()),
                ("io.kubernetes.cri.sandbox-memory".into(), "268435456".into()),
            ]
        );
    }

    #[test]
    fn what_does_not_parse_is_an_error() {
        assert!(PodConfig::from_any(&any(b"\x12\x7fweb")).is_err());
    }
}
