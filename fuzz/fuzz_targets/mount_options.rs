//! Mount options, one a line: of a container's mounts and storages in the guest, and of root file systems on the host.
//! The first byte says how often they are given.
#![no_main]

use std::path::Path;

use kata_fuzz::request;
use kata_protocol::agent::Storage;
use kata_storage::fuzzing::{RootfsOrders, rootfs_options};
use libfuzzer_sys::fuzz_target;

/// The kernel copies one page of options.
const PAGE: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((times, text)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let mut options: Vec<String> = text.split('\n').map(str::to_owned).collect();
    request::mount_options(&options);
    request::storage(&Storage { options: options.clone(), ..Default::default() });
    // The layers of an image are many, in one option.
    for option in &mut options {
        if let Some(layers) = option.strip_prefix("lowerdir=") {
            *option = format!("lowerdir={}", vec![layers; 1 + usize::from(*times)].join(":"));
        }
    }
    if let Some(orders) = rootfs_options(&options) {
        rootfs(&orders);
    }
});

/// What the kernel is told fits, and means what was asked for.
fn rootfs(orders: &RootfsOrders) {
    let asked = orders.asked.join(",");
    match &orders.told {
        None => assert!(asked.len() >= PAGE),
        Some((None, base)) => assert!(asked.is_empty() && base.is_none()),
        Some((Some(told), None)) => assert!(told.len() < PAGE && *told == asked),
        Some((Some(told), Some(base))) => {
            assert!(told.len() < PAGE && base.ends_with('/') && base.len() > 1);
            // What a comma or a relative path would mean depends on more than the options.
            let plain = |option: &String| {
                !option.contains(',') && paths_of(option).is_none_or(|mut paths| paths.all(is_absolute))
            };
            if orders.asked.iter().all(plain) {
                let expanded: Vec<String> = told.split(',').map(|option| expand(option, base)).collect();
                assert_eq!(paths_in(&expanded.join(",")), paths_in(&asked));
            }
        }
    }
}

/// Slashes in a row mean as much as one, and `/.` or a slash at the end of a directory nothing: as paths they are equal.
fn paths_in(text: &str) -> Vec<&Path> {
    text.split([',', ':']).map(Path::new).collect()
}

fn is_absolute(path: &str) -> bool {
    path.is_empty() || path.starts_with('/')
}

fn paths_of(option: &str) -> Option<impl Iterator<Item = &str>> {
    let (name, paths) = option.split_once('=')?;
    ["lowerdir", "upperdir", "workdir"].contains(&name).then(|| paths.split(':'))
}

fn expand(option: &str, base: &str) -> String {
    let (Some(paths), Some((name, _))) = (paths_of(option), option.split_once('=')) else {
        return option.to_owned();
    };
    let whole = |path: &str| match path {
        "." => base.to_owned(),
        path if is_absolute(path) => path.to_owned(),
        path => format!("{base}{path}"),
    };
    format!("{name}={}", paths.map(whole).collect::<Vec<_>>().join(":"))
}
