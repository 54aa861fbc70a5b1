//! A VMM that writes whatever it likes to its control channel: the client neither breaks nor waits for ever.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

use kata_vmm::qemu::qmp::{GuestPanicked, QueryStatus, Shutdown as Ended, VserportChange, connect};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

fuzz_target!(|input: &[u8]| {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.set_nonblocking(true).expect("a flag");
    // What does not fit into the socket is not said.
    let _ = theirs.write(input);
    theirs.shutdown(Shutdown::Write).expect("an open socket");
    RUNTIME.block_on(async {
        let Ok(mut connected) = connect(ours.into(), Duration::from_secs(60)).await else { return };
        let events = tokio::spawn(async move {
            while let Some(event) = connected.events.recv().await {
                let _ = (event.decode::<Ended>(), event.decode::<GuestPanicked>());
                let _ = event.decode::<VserportChange>();
            }
        });
        let _ = connected.client.execute(QueryStatus {}).await;
        drop(connected.client);
        events.await.expect("events make no panic");
    });
});
