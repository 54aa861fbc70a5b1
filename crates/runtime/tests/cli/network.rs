//! `network` and `iptables`, against sandboxes that are no more than a socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use crate::tree::Tree;

const ETH0: &str = r#"[{"device":"veth0","name":"eth0","IPAddresses":[{"family":"v4","address":"10.1.0.2","mask":"24"}],
    "mtu":1500,"hwAddr":"02:00:00:00:00:01","type":""},{"name":"lo","mtu":65536,"hwAddr":"00:00:00:00:00:00"}]"#;

/// A sandbox `abc123` that gives this answer to one request; what it was asked.
pub(crate) fn sandbox(tree: &Tree, status: &str, body: &'static str) -> JoinHandle<String> {
    fs::create_dir_all(tree.path("state/abc123")).unwrap();
    let listener = UnixListener::bind(tree.path("state/abc123/shim-monitor.sock")).unwrap();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        while !is_whole(&request) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).unwrap();
            request += std::str::from_utf8(&bytes[..count]).unwrap();
        }
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        request
    })
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// The first line and the body of the request that these words make, which is answered by "done".
fn request(words: &[&str]) -> String {
    let tree = Tree::complete();
    tree.file("rules", "*nat\n");
    let asked = sandbox(&tree, "200 OK", "");
    let rules = tree.path("rules").display().to_string();
    let words: Vec<&str> = words.iter().map(|word| if *word == "RULES" { &rules } else { *word }).collect();
    let printed = tree.run(&words);
    assert_eq!((printed.code, printed.stdout.as_str()), (0, ""), "{}", printed.stderr);
    let asked = asked.join().unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.lines().next().unwrap())
}

#[test]
fn interfaces_are_a_table_or_json() {
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", ETH0);
    let printed = tree.run(&["network", "list", "abc"]);
    insta::assert_snapshot!(printed.stdout, @"
    NAME  HARDWARE ADDRESS     MTU  CONNECTED TO  ADDRESSES
    eth0  02:00:00:00:00:01   1500  veth0         10.1.0.2/24
    lo    00:00:00:00:00:00  65536  -
    ");
    assert!(asked.join().unwrap().starts_with("GET /network/interfaces HTTP/1.1\r\n"));
    let tree = Tree::complete();
    let asked = sandbox(&tree, "200 OK", ETH0);
    let printed = tree.run(&["network", "list", "abc123", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!((&all[0]["device"], &all[1]["name"]), (&"veth0".into(), &"lo".into()));
    asked.join().unwrap();
}

#[test]
fn each_command_is_one_request() {
    let add = ["network", "add", "abc", "net1", "--mtu", "1400", "--address", "10.1.0.9/24"];
    insta::assert_snapshot!(request(&add), @r#"POST /network/interfaces HTTP/1.1 {"device":"net1","name":"","IPAddresses":[{"family":"v4","address":"10.1.0.9","mask":"24"}],"mtu":1400,"hwAddr":"","type":""}"#);
    assert_eq!(
        request(&["network", "remove", "abc", "a%/b"]),
        "DELETE /network/interfaces/a%25%2Fb HTTP/1.1 "
    );
    let set = ["network", "routes", "set", "abc", "default via 10.1.0.1 dev eth0"];
    insta::assert_snapshot!(request(&set), @r#"PUT /network/routes HTTP/1.1 [{"dest":"","gateway":"10.1.0.1","device":"eth0","source":"","scope":0,"family":"v4","flags":0,"mtu":0,"metric":0,"table":0}]"#);
    assert_eq!(request(&["network", "routes", "reset", "abc"]), "DELETE /network/routes HTTP/1.1 ");
    assert_eq!(
        request(&["network", "add", "abc", "--file", "RULES"]),
        "POST /network/interfaces HTTP/1.1 *nat\n"
    );
    for words in
        [["set", "abc", "RULES", "--v6"].as_slice(), &["set", "--sandbox-id", "abc", "--v6", "RULES"]]
    {
        let words: Vec<&str> = ["iptables"].iter().chain(words).copied().collect();
        assert_eq!(request(&words), "PUT /ip6tables HTTP/1.1 *nat\n");
    }
    assert_eq!(request(&["iptables", "get", "--sandbox-id", "abc"]), "GET /iptables HTTP/1.1 ");
}

#[test]
fn the_sandboxs_refusal_is_told_in_its_words() {
    let tree = Tree::complete();
    let asked = sandbox(&tree, "404 Not Found", "The pod has no eth7\n");
    let printed = tree.run(&["network", "add", "abc", "eth7"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (1, "kata-runtime: The pod has no eth7\n"));
    asked.join().unwrap();
}

#[test]
fn a_sandbox_that_does_not_run_is_told_from_none() {
    let tree = Tree::complete();
    let said = |words: &[&str]| {
        let printed = tree.run(words);
        assert_eq!(printed.code, 1);
        printed.stderr
    };
    assert!(
        said(&["iptables", "get", "abc"])
            .contains("No sandbox in /tree/state has an id that begins with `abc`")
    );
    drop(sandbox(&tree, "200 OK", ""));
    fs::remove_file(tree.path("state/abc123/shim-monitor.sock")).unwrap();
    assert!(said(&["network", "list", "abc"]).contains("The sandbox abc123 does not run"));
    drop(UnixListener::bind(tree.path("state/abc123/shim-monitor.sock")).unwrap());
    assert!(said(&["network", "list", "abc"]).contains("Connection refused"));
}
