//! Requests as a nydusd gets them, and its answers.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::{Api, ApiError, FileSystem};
use crate::nydus::testing::serve;

#[tokio::test]
async fn each_request_is_as_the_interface_has_it() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let state = r#"{"id":null,"version":{},"state":"RUNNING","backend_collection":{}}"#;
    let served = serve(&socket, &[(200, state), (204, ""), (204, "")]);
    let api = Api::new(socket);
    assert_eq!(api.state().await.unwrap(), "RUNNING");
    let config = r#"{"mode":"direct"}"#;
    let image = FileSystem { source: "/image.boot", fs_type: "rafs", config };
    api.mount("/rafs/c1/lowerdir", image).await.unwrap();
    api.unmount("/rafs/c1/lowerdir").await.unwrap();
    let asked = served.join().unwrap();
    let lines: Vec<_> = asked.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "GET /api/v1/daemon HTTP/1.1",
            "POST /api/v1/mount?mountpoint=/rafs/c1/lowerdir HTTP/1.1",
            "DELETE /api/v1/mount?mountpoint=/rafs/c1/lowerdir HTTP/1.1",
        ]
    );
    let body: Value = serde_json::from_str(&asked[1].1).unwrap();
    assert_eq!(body, json!({ "source": "/image.boot", "fs_type": "rafs", "config": config }));
    assert!(asked[0].1.is_empty() && asked[2].1.is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_daemons_words() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let answers = [(500, r#"{"code":"Undefined","message":"no bootstrap"}"#), (404, "not\njson"), (400, "")];
    let served = serve(&socket, &answers);
    let api = Api::new(socket);
    let mut told = Vec::new();
    for _ in answers {
        told.push(api.unmount("/x").await.unwrap_err().to_string());
    }
    served.join().unwrap();
    assert_eq!(
        told,
        [
            "nydusd has refused `DELETE /api/v1/mount?mountpoint=/x` (500): no bootstrap (code Undefined)",
            "nydusd has refused `DELETE /api/v1/mount?mountpoint=/x` (404): not json",
            "nydusd has refused `DELETE /api/v1/mount?mountpoint=/x` (400): it does not say why",
        ]
    );
}

#[tokio::test]
async fn an_answer_without_end_is_not_taken() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let served = serve(&socket, &[(200, &"x".repeat(2 << 20))]);
    let error = Api::new(socket).state().await.unwrap_err();
    assert!(matches!(error, ApiError::Broken { .. }), "{error}");
    // The rest is not read: that may or may not be an error there.
    served.join().ok();
}

#[tokio::test]
async fn a_state_that_is_none_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let served = serve(&socket, &[(200, "{}")]);
    let error = Api::new(socket).state().await.unwrap_err();
    assert!(matches!(error, ApiError::Answer { .. }), "{error}");
    served.join().unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_told_from_one_that_refuses() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("api.sock");
    let api = Api::new(socket.clone());
    assert!(api.unmount("/x").await.unwrap_err().is_gone());
    drop(UnixListener::bind(&socket).unwrap());
    assert!(api.unmount("/x").await.unwrap_err().is_gone());
}
