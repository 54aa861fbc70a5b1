//! Changes of a pod's network.

use std::time::Duration;

use tokio::time::timeout;

use super::support::Pod;
use crate::{GuestNetwork, Watch, look};

#[tokio::test]
async fn an_interface_an_address_and_a_route_that_come_later_are_told() {
    let pod = Pod::new();
    let mut watch = Watch::new(&pod.pod.path).await.unwrap();
    pod.pod.ip("link add eth1 type veth peer name eth2
                link set eth1 up");
    until(&pod, &mut watch, |guest| guest.interfaces.len() == 2).await;
    pod.pod.ip("addr add 10.3.0.2/24 dev eth1");
    until(&pod, &mut watch, |guest| !guest.interfaces[1].IPAddresses.is_empty()).await;
    pod.pod.ip("route add 10.4.0.0/16 via 10.3.0.1");
    until(&pod, &mut watch, |guest| guest.routes.iter().any(|route| route.dest == "10.4.0.0/16")).await;
    pod.pod.ip("link del eth1");
    until(&pod, &mut watch, |guest| guest.interfaces.len() == 1).await;
}

/// Looks after each change until what is expected is there.
async fn until(pod: &Pod, watch: &mut Watch, expected: impl Fn(&GuestNetwork) -> bool) {
    let seen = async {
        loop {
            watch.changed().await.unwrap();
            if expected(&look(&pod.pod.path).await.unwrap().guest) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), seen).await.expect("the change is told");
}

#[tokio::test]
async fn a_look_shows_what_would_be_connected() {
    let pod = Pod::new();
    pod.pod.ip("link add eth1 type veth peer name eth2
                link set eth1 up");
    let seen = look(&pod.pod.path).await.unwrap();
    let names: Vec<_> = seen.guest.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, ["eth0", "eth1"]);
    assert_eq!(pod.links(), ["lo", "eth0", "eth2", "eth1"]);
}

/// What somebody has decided about an interface must not hold for another one that gets its name.
#[tokio::test]
async fn an_interface_that_is_made_anew_has_another_index() {
    let pod = Pod::new();
    let before = look(&pod.pod.path).await.unwrap().indices;
    pod.pod.ip("link del eth0
                link add eth0 type veth peer name eth2
                link set eth0 up");
    let after = look(&pod.pod.path).await.unwrap().indices;
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
}
