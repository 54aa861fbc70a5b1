//! Sandboxes that are no more than a directory and a socket, on which some paths have answers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use crate::tree::Tree;

/// A pod of two containers and its pause container.
pub(crate) const POD: &str = r#"{"id":"abc123","status":"running","pid":4321,
    "size":{"boot":{"vcpus":2,"memory_mib":364,
        "millicpus":[{"what":"the pod's limit","amount":1500},{"what":"rounded up","amount":500}],
        "mib":[{"what":"the pod's limit","amount":256},{"what":"overhead_memory","amount":96},
            {"what":"the kernel's tables, a 32nd of the whole","amount":12}]},
        "most":{"vcpus":8,"memory_mib":16384}},
    "containers":[
    {"id":"abc123","bundle":"/run/bundles/abc123","created_ns":1700000000000000000,"pause":true,"status":"running",
     "terminal":false,"execs":[]},
    {"id":"web","bundle":"BUNDLES/web","created_ns":1700000001500000000,"pause":false,"status":"running",
     "terminal":false,"execs":[{"id":"sh1","status":"stopped","terminal":true,"exit_status":3,"exited_ns":1}]},
    {"id":"job","bundle":"BUNDLES/job","created_ns":1700000002000000000,"pause":false,"status":"stopped",
     "terminal":false,"exit_status":0,"exited_ns":1700000003000000000,"execs":[]}]}"#;

/// Answers that path with that body, as often as it is asked, and 404 to others.
pub(crate) fn answering(tree: &Tree, id: &str, answers: &[(&str, String)]) {
    let answers: Vec<(String, String)> =
        answers.iter().map(|(path, body)| ((*path).to_owned(), body.clone())).collect();
    let listener = listener(tree, id);
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&mut stream.unwrap(), &answers);
        }
    });
}

/// Takes connections, and never says anything.
pub(crate) fn hung(tree: &Tree, id: &str) {
    let listener = listener(tree, id);
    thread::spawn(move || {
        let mut streams = Vec::new();
        for stream in listener.incoming() {
            streams.push(stream);
        }
    });
}

/// A sandbox whose shim has gone: the socket is there, and nobody behind it.
pub(crate) fn dead(tree: &Tree, id: &str) {
    drop(listener(tree, id));
}

fn listener(tree: &Tree, id: &str) -> UnixListener {
    let dir = tree.path(&format!("state/{id}"));
    fs::create_dir_all(&dir).unwrap();
    UnixListener::bind(dir.join("shim-monitor.sock")).unwrap()
}

fn answer(stream: &mut UnixStream, answers: &[(String, String)]) {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        if count == 0 {
            return;
        }
        request.extend_from_slice(&bytes[..count]);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    let (status, body) = match answers.iter().find(|(there, _)| there == path) {
        Some((_, body)) => ("200 OK", body.as_str()),
        None => ("404 Not Found", "There is nothing here\n"),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
