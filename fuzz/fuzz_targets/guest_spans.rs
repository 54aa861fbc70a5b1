//! The stream of spans that a guest sends: what is taken from it is written and read again as it was.
#![no_main]

use kata_trace::{Batch, MAX_FRAME, encode, next_frame, spans};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;

fuzz_target!(|stream: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime needs nothing");
    runtime.block_on(taken(stream));
});

async fn taken(mut stream: &[u8]) {
    // A stream that breaks off, or goes too far, ends.
    while let Ok(Some(message)) = next_frame(&mut stream).await {
        assert!(message.len() <= MAX_FRAME);
        let Ok(read) = spans(&message) else { continue };
        let resource = [("service.name", "kata-agent".to_owned())];
        let written = encode(Batch { resource: &resource, spans: &read });
        assert_eq!(spans(&written), Ok(read));
    }
}
