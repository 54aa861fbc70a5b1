//! The real agent on a unix socket, in namespaces of its own, without a VM.

mod guest;

use guest::{Guest, message, process, skips};

#[tokio::test]
async fn a_container_exits_with_the_code_of_its_process() {
    if skips() {
        return;
    }
    let guest = Guest::start().await;
    guest.run("c", &["sh", "-c", "exit 7"]).await;
    assert_eq!(guest.wait("c", "").await.expect("ended"), 7);
}
