//! What is left after a crash, and what is taken back.

use std::io::ErrorKind;

use super::support::{Namespace, Pod};
use crate::{Model, NetworkError, attach, attach_interface, undo};
use kata_intent::Intent;

#[tokio::test]
async fn after_a_crash_the_log_takes_everything_back() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        drop(attach(&pod.request(model)).await.unwrap());
        assert_eq!(pod.log.open().len(), 1);
        pod.log.replay();
        assert_eq!(
            (pod.links(), pod.filters()),
            (vec!["lo".to_owned(), "eth0".to_owned()], "None".to_owned())
        );
        // And once more, as a log that could not be written would have it.
        drop(attach(&pod.request(model)).await.unwrap());
        pod.log.replay();
    }
}

#[tokio::test]
async fn the_log_of_a_dead_sandbox_does_not_take_the_network_of_the_next_one() {
    let pod = Pod::new();
    drop(attach(&pod.request(Model::TcFilter)).await.unwrap());
    let dead = pod.log.open().remove(0);
    let network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    assert_eq!(undo(&dead).unwrap_err().kind(), ErrorKind::ResourceBusy);
    pod.assert_packets_pass(&network);
    drop(network);
    undo(&dead).unwrap();
    assert_eq!(pod.filters(), "None");
}

#[tokio::test]
async fn filters_of_a_vm_that_is_gone_are_replaced() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        drop(attach(&pod.request(Model::TcFilter)).await.unwrap());
        assert_eq!(pod.links(), ["lo", "eth0"]);
        assert_ne!(pod.filters(), "None");
        let network = attach(&pod.request(model)).await.unwrap();
        pod.assert_packets_pass(&network);
    }
}

#[tokio::test]
async fn a_namespace_that_has_a_vm_is_refused_and_the_vm_keeps_its_network() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        let network = attach(&pod.request(model)).await.unwrap();
        for second in [Model::TcFilter, Model::MacVtap] {
            let error = attach(&pod.request(second)).await.unwrap_err();
            assert!(matches!(error, NetworkError::Occupied { .. }), "{error}");
        }
        for second in [Model::TcFilter, Model::MacVtap] {
            let error = attach_interface(&pod.request(second), "eth0").await.unwrap_err();
            assert!(matches!(error, NetworkError::Occupied { .. }), "{error}");
        }
        assert_eq!(pod.log.open().len(), 1);
        pod.assert_packets_pass(&network);
    }
}

#[tokio::test]
async fn a_tap_device_of_the_pod_that_a_vm_holds_is_refused() {
    let pod = Pod::new();
    pod.pod.ip("link set eth0 down
                addr flush dev eth0
                tuntap add dev own mode tap
                link set own up");
    let _network = attach(&pod.request(Model::TcFilter)).await.unwrap();
    let error = attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert!(matches!(&error, NetworkError::Occupied { interface } if interface == "own"), "{error}");
}

#[tokio::test]
async fn of_two_at_the_same_time_one_gets_the_network() {
    for _ in 0..20 {
        let pod = Pod::new();
        let request = pod.request(Model::TcFilter);
        let both: [_; 2] = tokio::join!(attach(&request), attach(&request)).into();
        let (got, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
        assert_eq!(got.len(), 1, "{refused:?}");
        let network = got.into_iter().flatten().next().unwrap();
        pod.assert_packets_pass(&network);
        assert_eq!(pod.log.open().len(), 1);
    }
}

#[tokio::test]
async fn a_crash_between_two_steps_leaves_nothing_in_the_way() {
    for model in [Model::TcFilter, Model::MacVtap] {
        let pod = Pod::new();
        pod.pod.command("tc", "qdisc add dev eth0 ingress");
        let network = attach(&pod.request(model)).await.unwrap();
        pod.assert_packets_pass(&network);
    }
}

#[tokio::test]
async fn filters_of_another_program_are_neither_used_nor_removed() {
    let pod = Pod::new();
    pod.pod.command("tc", "qdisc add dev eth0 clsact");
    let error = attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert!(matches!(error, NetworkError::Filtered { .. }), "{error}");
    undo(&Intent::Ingress { netns: pod.pod.path.clone(), interface: "eth0".to_owned() }).unwrap();
    assert!(pod.filters().contains("clsact"));
    assert_eq!(pod.links(), ["lo", "eth0"]);
}

#[tokio::test]
async fn if_one_interface_fails_the_others_are_taken_back() {
    let pod = Pod::new();
    pod.pod.ip("link add eth1 type veth peer name eth2
                link set eth1 up");
    pod.pod.command("tc", "qdisc add dev eth1 clsact");
    attach(&pod.request(Model::TcFilter)).await.unwrap_err();
    assert_eq!(pod.filters(), "None");
    assert!(pod.log.open().is_empty());
    assert!(!pod.links().iter().any(|link| link.starts_with("tap")));
}

#[test]
fn what_was_never_made_is_no_error_to_undo() {
    let pod = Namespace::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    for netns in
        [pod.path.clone(), "/run/netns/nothing".into(), file.path().into(), "/proc/self/ns/net".into()]
    {
        undo(&Intent::Ingress { netns: netns.clone(), interface: "eth0".to_owned() }).unwrap();
        undo(&Intent::Interface { netns, name: "tap0_kata".to_owned() }).unwrap();
    }
    assert!(undo(&Intent::Dir { path: "/x".into() }).is_err());
}

#[test]
fn an_interface_that_a_vm_cannot_have_made_stays() {
    let pod = Pod::new();
    pod.pod.ip("tuntap add dev tap0_kata mode tap");
    for name in ["eth0", "tap0_kata"] {
        undo(&Intent::Interface { netns: pod.pod.path.clone(), name: name.to_owned() }).unwrap();
    }
    assert_eq!(pod.links(), ["lo", "eth0", "tap0_kata"]);
}
