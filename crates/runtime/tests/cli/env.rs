//! `env`: the format that tools read.

use crate::tree::Tree;

/// The keys of upstream's format 1.0.27.
const KEYS: &[(&str, &[&str])] = &[
    ("Meta", &["Version"]),
    ("Image", &["Path"]),
    ("Initrd", &["Path"]),
    ("Kernel", &["Path", "Parameters"]),
    (
        "Hypervisor",
        &[
            "MachineType",
            "Version",
            "Path",
            "BlockDeviceDriver",
            "EntropySource",
            "SharedFS",
            "VirtioFSDaemon",
            "SocketPath",
            "Msize9p",
            "MemorySlots",
            "HotPlugVFIO",
            "ColdPlugVFIO",
            "PCIeRootPort",
            "PCIeSwitchPort",
            "Debug",
            "SecurityInfo",
        ],
    ),
    (
        "Runtime",
        &[
            "Path",
            "GuestSeLinuxLabel",
            "Experimental",
            "Debug",
            "Trace",
            "DisableGuestSeccomp",
            "DisableNewNetNs",
            "SandboxCgroupOnly",
            "Config",
            "Version",
        ],
    ),
    (
        "Host",
        &[
            "AvailableGuestProtections",
            "Kernel",
            "Architecture",
            "VMContainerCapable",
            "SupportVSocks",
            "Distro",
            "CPU",
            "Memory",
        ],
    ),
    ("Agent", &["Debug", "Trace"]),
];

#[test]
fn toml_has_every_key_of_the_format() {
    for name in ["env", "kata-env"] {
        let printed = Tree::complete().run(&[name]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        let document: toml::Table = printed.stdout.parse().unwrap();
        assert_eq!(document.len(), KEYS.len());
        for (table, keys) in KEYS {
            let inside = document[*table].as_table().unwrap();
            assert_eq!(inside.len(), keys.len(), "{table}");
            assert!(keys.iter().all(|key| inside.contains_key(*key)), "{table}: {inside:?}");
        }
        assert_eq!(document["Meta"]["Version"].as_str(), Some("1.0.27"));
        assert_eq!(document["Hypervisor"]["Version"].as_str(), Some("QEMU emulator version 10.0.2"));
        assert_eq!(document["Kernel"]["Path"].as_str(), Some("/tree/kernel"));
        assert_eq!(document["Runtime"]["Config"]["Path"].as_str(), Some("/tree/configuration.toml"));
    }
}

#[test]
fn json_is_the_same_document() {
    let tree = Tree::complete();
    let json: serde_json::Value = serde_json::from_str(&tree.run(&["env", "--json"]).stdout).unwrap();
    let toml: toml::Table = tree.run(&["env"]).stdout.parse().unwrap();
    let (mut json, mut toml) = (json, serde_json::to_value(toml).unwrap());
    for document in [&mut json, &mut toml] {
        document["Host"]["Memory"] = serde_json::Value::Null;
    }
    assert_eq!(json, toml);
}

#[test]
fn a_missing_hypervisor_is_shown_as_unknown() {
    let tree = Tree::complete();
    std::fs::remove_file(tree.path("qemu")).unwrap();
    let printed = tree.run(&["env"]);
    assert!(printed.code == 0 && printed.stdout.contains("Version = \"<<unknown>>\""), "{}", printed.stdout);
}
