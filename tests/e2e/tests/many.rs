//! Many sandboxes leave the host as one does: as it was.

use std::thread;
use std::time::Duration;

use kata_e2e::{amount, eventually, test};

#[test]
fn many_one_after_the_other() {
    test(|containerd| {
        for n in 0..amount(7, 20) {
            let run = containerd.container().shell(&format!("echo {n}; exit {n}")).run().with_code(n);
            assert_eq!(run.text(), n.to_string());
        }
        eventually("no process is left", Duration::from_secs(20), || containerd.processes().is_empty());
    });
}

#[test]
fn eight_at_once() {
    test(|containerd| {
        // One first, so that the image is there.
        containerd.container().command(["/bin/true"]).run().ok().done();
        thread::scope(|scope| {
            let one = |n: i32| containerd.container().shell(&format!("echo {n}; sleep 1; exit {n}")).run();
            let runs: Vec<_> = (1..=8).map(|n| (n, scope.spawn(move || one(n)))).collect();
            for (n, run) in runs {
                assert_eq!(run.join().unwrap().with_code(n).text(), n.to_string());
            }
        });
        eventually("no process is left", Duration::from_secs(20), || containerd.processes().is_empty());
    });
}
