//! Keys of `[runtime]`.

use std::path::PathBuf;

use kata_trace::{BadEndpoint, Endpoint};

use super::agent::{LOG_LEVELS, log_level};
use super::{Applied, Kind, Refusal, Row, Table, set};
use crate::model::{Config, EmptyDirMode, LogFormat, NetworkModel, SandboxBindMount, SandboxSizing};
use crate::size_limits::SizeLimits;
use crate::value::{Fixed, Value};

const fn row(key: &'static str, kind: Kind, default: Fixed) -> Row {
    Row::new(Table::Runtime, key, kind, default)
}

pub(super) static ROWS: &[Row] = &[
    row("enable_debug", Kind::Bool, Fixed::Bool(false))
        .does("Debug output of the shim.", |c, v| set(&mut c.runtime.enable_debug, v.flag())),
    row("log_level", LOG_LEVELS, Fixed::Text("info"))
        .does("How much the shim logs; enable_debug makes it at least debug.", |c, v| {
            set(&mut c.runtime.log_level, log_level(v))
        }),
    row("log_format", Kind::OneOf(&["logfmt", "json"]), Fixed::Text("logfmt"))
        .does("The form of the shim's log lines: logfmt, or a JSON object each.", |c, v| {
            set(&mut c.runtime.log_format, if v.text() == "json" { LogFormat::Json } else { LogFormat::Logfmt })
        })
        .ours(),
    row("static_sandbox_resource_mgmt", Kind::Bool, Fixed::Bool(false))
        .does("Never resize a VM: it has the size of its start for all its life.", |c, v| {
            set(&mut c.runtime.static_sandbox_resource_mgmt, v.flag())
        })
        .annotation("runtime.static_sandbox_resource_mgmt"),
    row("sandbox_cgroup_only", Kind::Bool, Fixed::Bool(true))
        .does("All of a pod is in the pod's cgroup; false: only the VM's CPUs are.", |c, v| {
            set(&mut c.runtime.sandbox_cgroup_only, v.flag())
        })
        .annotation("runtime.sandbox_cgroup_only"),
    row("enable_vcpus_pinning", Kind::Bool, Fixed::Bool(false))
        .does("Bind each virtual CPU to a CPU of the host while the pod's cpuset has as many.", |c, v| {
            set(&mut c.runtime.enable_vcpus_pinning, v.flag())
        })
        .annotation("runtime.enable_vcpus_pinning"),
    row("sandbox_sizing", Kind::OneOf(&["limits", "default-plus-limits"]), Fixed::Text("limits"))
        .does("How a VM's size follows from the pod's limits: they, or the default and they.", |c, v| {
            let sizing = match v.text() {
                "default-plus-limits" => SandboxSizing::DefaultPlusLimits,
                _ => SandboxSizing::Limits,
            };
            set(&mut c.runtime.sandbox_sizing, sizing)
        })
        .ours(),
    row("enable_tracing", Kind::Bool, Fixed::Bool(false))
        .does("Spans of the sandbox, for a collector of OpenTelemetry.", |c, v| {
            set(&mut c.runtime.tracing.is_on, v.flag())
        }),
    row("jaeger_endpoint", Kind::Text, Fixed::Text(""))
        .does("Where spans go, by OTLP over HTTP; empty: as the environment says, else this host.", |c, v| {
            let given = Some(v.text()).filter(|url| !url.is_empty());
            let endpoint = given.map(Endpoint::parse).transpose();
            set(&mut c.runtime.tracing.endpoint, endpoint.map_err(|BadEndpoint(words)| Refusal::Invalid(words))?)
        }),
    row("jaeger_user", Kind::Text, Fixed::Text(""))
        .does("The name that the collector wants, by HTTP's basic authentication.", |c, v| {
            set(&mut c.runtime.tracing.credentials.user, v.text().to_owned())
        }),
    row("jaeger_password", Kind::Text, Fixed::Text(""))
        .does("The password that the collector wants with that name.", |c, v| {
            set(&mut c.runtime.tracing.credentials.password, v.text().to_owned())
        }),
    row("internetworking_model", Kind::OneOf(&["tcfilter", "macvtap", "none"]), Fixed::Text("tcfilter"))
        .does("How the pod's interfaces are connected with the VM.", |c, v| {
            set(
                &mut c.runtime.internetworking_model,
                match v.text() {
                    "macvtap" => NetworkModel::MacVtap,
                    "none" => NetworkModel::None,
                    _ => NetworkModel::TcFilter,
                },
            )
        })
        .annotation("runtime.internetworking_model"),
    row("experimental", Kind::List, Fixed::List(&[]))
        .does(
            "What is allowed although it is no drop-in: host_network, shared_network_namespace, force_guest_pull.",
            experimental,
        )
        .annotation("runtime.experimental"),
    row("experimental_force_guest_pull", Kind::Bool, Fixed::Bool(false))
        .does("Let the guest pull every image, whatever the snapshotter has.", |c, v| {
            // The word in `experimental` means the same.
            c.runtime.force_guest_pull |= v.flag();
            Ok(())
        })
        .annotation("runtime.experimental_force_guest_pull"),
    row("disable_guest_seccomp", Kind::Bool, Fixed::Bool(false))
        .does("Drop the seccomp profiles of containers: the VM is the wall.", |c, v| {
            set(&mut c.runtime.disable_guest_seccomp, v.flag())
        })
        .annotation("runtime.disable_guest_seccomp"),
    row("disable_guest_apparmor", Kind::Bool, Fixed::Bool(true))
        .does("Leave AppArmor off in the guest, and drop the AppArmor profiles of containers.", |c, v| {
            set(&mut c.runtime.disable_guest_apparmor, v.flag())
        })
        .ours(),
    row("guest_selinux_label", Kind::Text, Fixed::Text(""))
        .does("The SELinux label of every process of a container; empty leaves each its own.", |c, v| {
            set(&mut c.runtime.guest_selinux_label, v.text().to_owned())
        })
        .annotation("runtime.guest_selinux_label"),
    row("sandbox_bind_mounts", Kind::List, Fixed::List(&[])).does(
        "Files and directories of the host for the guest itself: PATH, PATH:ro or PATH:rw.",
        sandbox_bind_mounts,
    ),
    row("emptydir_mode", EMPTYDIR_MODES, Fixed::Text("shared-fs"))
        .does("Where the files of an emptyDir are: shared with the host, or in an image.", emptydir_mode),
    row("emptydir_size_limit", Kind::List, Fixed::List(&[]))
        .does("What an emptyDir can hold: SIZE for each, VOLUME=SIZE for one.", |c, v| {
            set(&mut c.runtime.emptydir_size_limit, size_limits(v)?)
        })
        .lowering_annotation("runtime.emptydir_size_limit")
        .ours(),
    row("writable_layer_size_limit", Kind::List, Fixed::List(&[]))
        .does("What a container can write to its root: SIZE for each, CONTAINER=SIZE for one.", |c, v| {
            set(&mut c.runtime.writable_layer_size_limit, size_limits(v)?)
        })
        .lowering_annotation("runtime.writable_layer_size_limit")
        .ours(),
    row("writable_layer_dir", Kind::Path, Fixed::Text("/var/lib/kata-containers/layers"))
        .does("The host's directory for what containers with such a limit write.", |c, v| {
            set(&mut c.runtime.writable_layer_dir, PathBuf::from(v.text()))
        })
        .ours(),
];

const EMPTYDIR_MODES: Kind = Kind::OneOf(&["shared-fs", "block-plain", "block-encrypted"]);

fn emptydir_mode(config: &mut Config, value: &Value) -> Applied {
    let mode = match value.text() {
        "block-encrypted" => {
            let instead = "use \"block-plain\" on an encrypted file system of the host";
            return Err(Refusal::NotYet(format!("encrypted images; {instead}")));
        }
        "block-plain" => EmptyDirMode::BlockPlain,
        _ => EmptyDirMode::SharedFs,
    };
    set(&mut config.runtime.emptydir_mode, mode)
}

fn size_limits(value: &Value) -> Result<SizeLimits, Refusal> {
    SizeLimits::parse(value.list()).map_err(Refusal::Invalid)
}

fn experimental(config: &mut Config, value: &Value) -> Applied {
    for word in value.list() {
        let allowed = match word.as_str() {
            "host_network" => &mut config.runtime.host_network,
            "shared_network_namespace" => &mut config.runtime.shared_network_namespace,
            "force_guest_pull" => &mut config.runtime.force_guest_pull,
            _ => {
                return Err(Refusal::Invalid(format!(
                    "knows \"host_network\", \"shared_network_namespace\" and \"force_guest_pull\", not {word:?}"
                )));
            }
        };
        *allowed = true;
    }
    Ok(())
}

fn sandbox_bind_mounts(config: &mut Config, value: &Value) -> Applied {
    let mut mounts: Vec<SandboxBindMount> = Vec::new();
    for item in value.list() {
        let (path, read_only) = match item.rsplit_once(':') {
            Some((path, "rw")) => (path, false),
            Some((path, "ro")) => (path, true),
            _ => (item.as_str(), true),
        };
        let path = PathBuf::from(path);
        let named = path.file_name().is_some() && !path.components().any(|part| part.as_os_str() == "..");
        if !path.is_absolute() || !named {
            return Err(Refusal::Invalid(format!("must name absolute paths, not {item:?}")));
        }
        if mounts.iter().any(|other| other.path.file_name() == path.file_name()) {
            return Err(Refusal::Invalid(format!(
                "names two paths that end alike, the second one {item:?}: the guest finds each by its last name"
            )));
        }
        mounts.push(SandboxBindMount { path, read_only });
    }
    set(&mut config.runtime.sandbox_bind_mounts, mounts)
}
