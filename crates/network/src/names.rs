//! The names of the devices that are made in a pod's namespace: `tap0_kata`, `tap1_kata`, ...

use crate::netlink::Link;

/// Whether a device of this name was made by this crate (or its like) for a VM.
pub(crate) fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("tap").and_then(|rest| rest.strip_suffix("_kata"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The first such name that no interface has.
pub(crate) fn free(links: &[Link]) -> String {
    let names = (0_u32..).map(|number| format!("tap{number}_kata"));
    let taken = |name: &String| links.iter().any(|link| link.name == *name);
    names.into_iter().find(|name| !taken(name)).expect("there are more numbers than interfaces")
}

#[cfg(test)]
mod tests {
    use super::{free, is_ours};
    use crate::netlink::Link;

    #[test]
    fn only_numbered_names_are_ours() {
        assert!(is_ours("tap0_kata") && is_ours("tap17_kata"));
        for other in ["tap_kata", "tapx_kata", "tap0", "eth0", "tap0_kata1", "mytap0_kata"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn the_first_free_number_is_taken() {
        let named = |name: &str| Link { name: name.to_owned(), ..Link::default() };
        assert_eq!(free(&[]), "tap0_kata");
        assert_eq!(free(&[named("tap0_kata"), named("tap2_kata"), named("eth0")]), "tap1_kata");
    }
}
