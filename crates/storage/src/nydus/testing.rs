//! The management interface of a nydusd that does nothing but write down what it is asked for.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

/// Answers one connection after the other as `answers` say, and returns the requests: their first lines and bodies.
pub(super) fn serve(socket: &Path, answers: &[(u16, &str)]) -> JoinHandle<Vec<(String, String)>> {
    let listener = UnixListener::bind(socket).unwrap();
    let answers: Vec<(u16, String)> =
        answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
    thread::spawn(move || answers.iter().map(|answer| take(&listener, answer)).collect())
}

fn take(listener: &UnixListener, (status, body): &(u16, String)) -> (String, String) {
    let (mut stream, _) = listener.accept().unwrap();
    let request = read(&mut stream);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Word\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
    request
}

fn read(stream: &mut UnixStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.lines().next().unwrap().to_owned(), body.to_owned());
            }
        }
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "the request is whole");
        bytes.extend_from_slice(&some[..count]);
    }
}
