//! Questions about a namespace, and namespaces that cannot be a VM's.

use std::path::Path;
use std::process::{Command, Stdio, id};

use super::support::{Namespace, Pod};
use crate::{Model, NetworkError, Request, attach, is_hosts, processes_in};

#[test]
fn the_hosts_namespace_is_told_from_a_pods() {
    let pod = Namespace::new();
    assert!(!is_hosts(&pod.path).unwrap());
    assert!(is_hosts(Path::new("/proc/self/ns/net")).unwrap());
    assert!(is_hosts(Path::new("/run/netns/nothing")).is_err());
}

#[test]
fn the_processes_in_a_namespace_are_told() {
    let pod = Namespace::new();
    assert!(processes_in(&pod.path).unwrap().is_empty());
    let mut child = pod.run(|| Command::new("cat").stdin(Stdio::piped()).spawn()).unwrap();
    assert_eq!(processes_in(&pod.path).unwrap(), [child.id()]);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(processes_in(Path::new("/proc/self/ns/net")).unwrap().contains(&id()));
}

#[tokio::test]
async fn the_hosts_network_is_refused() {
    let pod = Pod::new();
    let request = Request { netns: "/proc/self/ns/net".into(), ..pod.request(Model::TcFilter) };
    let error = attach(&request).await.unwrap_err();
    assert!(matches!(error, NetworkError::Host { .. }), "{error}");
}

#[tokio::test]
async fn a_path_that_is_no_namespace_is_refused() {
    let pod = Pod::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), Path::new("/run/netns/nothing"), Path::new("/proc/self/ns/mnt")] {
        let request = Request { netns: path.into(), ..pod.request(Model::TcFilter) };
        let error = attach(&request).await.unwrap_err();
        assert!(matches!(error, NetworkError::Namespace { .. }), "{error}");
    }
}
