//! Keys of `[runtime]`.

use super::agent::{LOG_LEVELS, log_level};
use super::{Kind, Row, Table, set};
use crate::value::Fixed;

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
];
