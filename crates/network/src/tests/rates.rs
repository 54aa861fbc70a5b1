//! Limits of what a network card carries.

use super::support::Pod;
use crate::{Model, NetworkError, Rates, Request, attach};

const RATES: Rates = Rates { receive: 8_000_000, send: 40_000_000_000 };

fn disciplines(pod: &Pod, interface: &str) -> String {
    pod.pod.command("tc", &format!("qdisc show dev {interface}"))
}

#[tokio::test]
async fn each_direction_has_its_own_limit_where_the_packets_leave() {
    let pod = Pod::new();
    let network = attach(&Request { rates: RATES, ..pod.request(Model::TcFilter) }).await.unwrap();
    let (received, sent) = (disciplines(&pod, "tap0_kata"), disciplines(&pod, "eth0"));
    assert!(received.contains("tbf 6b61: root") && received.contains("rate 8Mbit"), "{received}");
    assert!(sent.contains("tbf 6b61: root") && sent.contains("rate 40Gbit"), "{sent}");
    pod.assert_packets_pass(&network);
}

#[tokio::test]
async fn a_killed_vms_limit_is_taken_back() {
    let pod = Pod::new();
    drop(attach(&Request { rates: RATES, ..pod.request(Model::TcFilter) }).await.unwrap());
    assert_eq!(pod.log.open().len(), 2);
    pod.log.replay();
    assert!(pod.log.open().is_empty());
    let left = disciplines(&pod, "eth0");
    assert!(!left.contains("tbf"), "{left}");
}

#[tokio::test]
async fn a_killed_vms_limit_is_not_in_the_next_ones_way() {
    let pod = Pod::new();
    drop(attach(&Request { rates: RATES, ..pod.request(Model::TcFilter) }).await.unwrap());
    let slower = Rates { send: 1_000_000, ..RATES };
    let network = attach(&Request { rates: slower, ..pod.request(Model::TcFilter) }).await.unwrap();
    let sent = disciplines(&pod, "eth0");
    assert!(sent.contains("rate 1Mbit"), "{sent}");
    pod.assert_packets_pass(&network);
}

#[tokio::test]
async fn another_programs_discipline_is_neither_replaced_nor_removed() {
    let pod = Pod::new();
    pod.pod.command("tc", "qdisc add dev eth0 root handle 1: htb");
    let error = attach(&Request { rates: RATES, ..pod.request(Model::TcFilter) }).await.unwrap_err();
    assert!(matches!(error, NetworkError::Shaped { .. }), "{error}");
    let there = disciplines(&pod, "eth0");
    assert!(there.contains("htb 1: root") && !there.contains("ingress"), "{there}");
    assert!(pod.log.open().is_empty());
}

#[tokio::test]
async fn what_cannot_be_limited_is_refused() {
    let pod = Pod::new();
    let error = attach(&Request { rates: RATES, ..pod.request(Model::MacVtap) }).await.unwrap_err();
    assert!(matches!(error, NetworkError::NoRate { .. }), "{error}");
    assert_eq!(pod.links(), ["lo", "eth0"]);
}
