//! The ways to an agent: hybrid vsock, abstract sockets, a sandbox's management socket. What stands between is made here.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::agent::{answers, connect, ctl, errors};
use crate::agent_test;

/// Joins two streams until both have ended.
fn join(client: UnixStream, agent: UnixStream) {
    let copy = |mut from: UnixStream, mut to: UnixStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    let (from, to) = (agent.try_clone().expect("copied"), client.try_clone().expect("copied"));
    let back = thread::spawn(move || copy(from, to));
    copy(client, agent);
    back.join().expect("no panic");
}

/// A VMM's socket: takes one connection, reads a line, answers and joins with the agent.
fn fake_vmm(path: &Path, answer: &'static str, agent: Option<&Path>) -> JoinHandle<String> {
    let listener = UnixListener::bind(path).expect("bound");
    let agent = agent.map(|agent| UnixStream::connect(agent).expect("listens"));
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("comes");
        let mut asked = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" && client.read(&mut byte).expect("is read") == 1 {
            asked.extend(byte);
        }
        client.write_all(answer.as_bytes()).expect("is taken");
        if let Some(agent) = agent {
            join(client, agent);
        }
        String::from_utf8(asked).expect("is text")
    })
}

/// A shim's management socket that answers one request.
fn fake_shim(root: &Path, id: &str, status: &'static str, body: String) -> JoinHandle<String> {
    fs::create_dir_all(root.join(id)).expect("a folder");
    let listener = UnixListener::bind(root.join(id).join("shim-monitor.sock")).expect("bound");
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("comes");
        let mut asked = String::new();
        BufReader::new(client.try_clone().expect("copied")).read_line(&mut asked).expect("is read");
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        client.write_all(answer.as_bytes()).expect("is taken");
        asked
    })
}

agent_test!(an_agent_is_reached_by_hybrid_vsock, |agent| {
    for (port, words) in
        [("1024", &["--hybrid-vsock"] as &[&str]), ("77", &["--hybrid-vsock", "--hybrid-vsock-port", "77"])]
    {
        let path = agent.folder.path().join(format!("vmm{port}.sock"));
        let vmm = fake_vmm(&path, "OK 1073741824\n", Some(&agent.socket()));
        let output = connect(&format!("unix://{}", path.display()), &[words, &["-c", "Check"]].concat());
        assert_eq!(answers(&output), [json!({ "status": "SERVING" })]);
        assert_eq!(vmm.join().expect("no panic"), format!("CONNECT {port}\n"));
    }
});

#[test]
fn a_vmm_that_refuses_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vmm.sock");
    let vmm = fake_vmm(&path, "NO\n", None);
    let output = connect(&format!("hvsock://{}:5", path.display()), &["-c", "Check"]);
    assert_eq!((output.status.code(), vmm.join().expect("no panic").as_str()), (Some(1), "CONNECT 5\n"));
    assert!(errors(&output).contains("The VMM refused a connection to port 5"), "{}", errors(&output));
}

#[test]
fn a_vmm_that_says_nothing_is_waited_for_as_long_as_a_request_may_take() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vmm.sock");
    let _listener = UnixListener::bind(&path).expect("bound");
    let output = connect(&format!("hvsock://{}:5", path.display()), &["--timeout", "100ms", "-c", "Check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("within 100 ms"), "{}", errors(&output));
}

agent_test!(an_agent_is_reached_by_an_abstract_socket, |agent| {
    let name = format!("kata-agent-ctl-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("is short");
    let listener = UnixListener::bind_addr(&address).expect("bound");
    let behind = UnixStream::connect(agent.socket()).expect("listens");
    let joined = thread::spawn(move || join(listener.accept().expect("comes").0, behind));
    let output = connect(&format!("unix://@{name}"), &["-c", "Check"]);
    assert_eq!(answers(&output), [json!({ "status": "SERVING" })]);
    joined.join().expect("no panic");
});

agent_test!(a_sandboxs_shim_tells_where_its_agent_is, |agent| {
    let root = agent.folder.path().join("state");
    let url = format!("unix://{}\n", agent.socket().display());
    let shim = fake_shim(&root, "4f2a77", "200 OK", url);
    let root = root.display().to_string();
    let output = ctl(&["connect", "--root", &root, "--sandbox", "4f", "-c", "Check"]);
    assert_eq!(answers(&output), [json!({ "status": "SERVING" })]);
    assert_eq!(shim.join().expect("no panic"), "GET /agent-url HTTP/1.1\r\n");
});

#[test]
fn a_shims_own_words_say_why_its_agent_has_no_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = fake_shim(folder.path(), "4f2a77", "501 Not Implemented", "It has no address\n".into());
    let root = folder.path().display().to_string();
    let output = ctl(&["connect", "--root", &root, "--sandbox", "4f", "-c", "Check"]);
    shim.join().expect("no panic");
    assert_eq!(output.status.code(), Some(1));
    let expected =
        "kata-agent-ctl: The shim of sandbox 4f2a77 does not tell where its agent is: It has no address";
    assert_eq!(errors(&output), expected);
}

#[test]
fn a_sandbox_is_meant_by_one_id_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().display().to_string();
    for id in ["4f2a", "4f2b"] {
        fs::create_dir(folder.path().join(id)).expect("a folder");
    }
    let wrong = |id: &str| errors(&ctl(&["connect", "--root", &root, "--sandbox", id, "-c", "Check"]));
    assert!(wrong("4f2").contains("`4f2` is the beginning of several ids: 4f2a, 4f2b; give more of it"));
    assert!(
        wrong("5").contains(&format!("No sandbox has an id that begins with `5` in {root}; does it run"))
    );
    assert!(wrong("4f2a").contains("Nobody answers at"), "{}", wrong("4f2a"));
}
