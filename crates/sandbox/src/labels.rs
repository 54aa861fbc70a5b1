//! Security labels: which ones of a specification the guest gets, and what its kernel must be told for them.
//!
//! A manager on a host with AppArmor or SELinux labels every container, for the host's kernel. The guest's kernel has
//! either module off unless the configuration wants it, and then no label reaches the guest.

use kata_config::Config;
use oci_spec::runtime::{Process, Spec};

/// What holds for all containers of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    apparmor: bool,
    selinux: bool,
    /// In place of each container's own.
    selinux_label: Option<String>,
}

impl Labels {
    /// As the configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        let label = &config.runtime.guest_selinux_label;
        Self {
            apparmor: !config.runtime.disable_guest_apparmor,
            selinux: !config.hypervisor.disable_guest_selinux,
            selinux_label: Some(label).filter(|label| !label.is_empty()).cloned(),
        }
    }

    /// Rewrites the labels of a container.
    pub(crate) fn confine_container(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut() {
            self.confine(process);
        }
        if !self.selinux
            && let Some(linux) = spec.linux_mut()
        {
            linux.set_mount_label(None);
        }
    }

    /// Rewrites the labels of a process, also of one that is added later.
    pub(crate) fn confine(&self, process: &mut Process) {
        if !self.apparmor {
            process.set_apparmor_profile(None);
        }
        if !self.selinux {
            process.set_selinux_label(None);
        } else if self.selinux_label.is_some() {
            process.set_selinux_label(self.selinux_label.clone());
        }
    }

    /// Name and value of a kernel parameter: a module works only if it is listed. Without one nobody needs the audit
    /// system.
    pub(crate) fn kernel_param(&self) -> (&'static str, &'static str) {
        match (self.apparmor, self.selinux) {
            (true, _) => ("lsm", "landlock,yama,apparmor"),
            (false, true) => ("lsm", "landlock,yama,selinux"),
            (false, false) => ("audit", "0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use kata_config::Config;
    use oci_spec::runtime::{LinuxBuilder, ProcessBuilder, Spec, SpecBuilder};

    use super::Labels;

    /// As a manager makes it on a host with both modules.
    fn labelled() -> Spec {
        let process = ProcessBuilder::default().apparmor_profile("docker-default").selinux_label("a:b:c:s0");
        let linux = LinuxBuilder::default().mount_label("a:b:d:s0").build().unwrap();
        SpecBuilder::default().process(process.build().unwrap()).linux(linux).build().unwrap()
    }

    /// AppArmor profile, SELinux label and mount label that the guest gets.
    fn confined(config: &Config) -> [Option<String>; 3] {
        let mut spec = labelled();
        Labels::of(config).confine_container(&mut spec);
        let process = spec.process().as_ref().unwrap();
        let mounts = spec.linux().as_ref().unwrap().mount_label();
        [process.apparmor_profile().clone(), process.selinux_label().clone(), mounts.clone()]
    }

    #[test]
    fn the_hosts_labels_stay_on_the_host_unless_the_configuration_says_otherwise() {
        let config = Config::built_in(1);
        assert_eq!(confined(&config), [None, None, None]);
        assert_eq!(Labels::of(&config).kernel_param(), ("audit", "0"));
    }

    #[test]
    fn a_profile_reaches_a_guest_with_apparmor() {
        let mut config = Config::built_in(1);
        config.runtime.disable_guest_apparmor = false;
        assert_eq!(confined(&config), [Some("docker-default".to_owned()), None, None]);
        assert_eq!(Labels::of(&config).kernel_param().1, "landlock,yama,apparmor");
    }

    #[test]
    fn labels_reach_a_guest_with_selinux_and_the_configured_one_wins() {
        let mut config = Config::built_in(1);
        config.hypervisor.disable_guest_selinux = false;
        assert_eq!(confined(&config), [None, Some("a:b:c:s0".to_owned()), Some("a:b:d:s0".to_owned())]);
        config.runtime.guest_selinux_label = "x:y:z:s0".to_owned();
        assert_eq!(confined(&config)[1].as_deref(), Some("x:y:z:s0"));
        assert_eq!(Labels::of(&config).kernel_param().1, "landlock,yama,selinux");
    }
}
