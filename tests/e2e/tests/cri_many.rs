//! Many pods at once: all come up, all answer, all go, and the host is as it was.

use std::thread;
use std::time::Instant;

use kata_e2e::{Cri, Pod, Steady, amount, cri_test};

/// Of each VM, in MiB.
const MEMORY: &str = "256";

/// Runs `work` for each of the pods in a thread of its own.
fn for_each<T: Send, U: Send>(all: Vec<T>, work: impl Fn(T) -> U + Sync) -> Vec<U> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the pod is well")).collect()
    })
}

fn run<'c>(cri: &'c Cri<'c>) -> Pod<'c> {
    let memory = ("io.katacontainers.config.hypervisor.default_memory".to_owned(), MEMORY.to_owned());
    let pod = cri.pod().with(|config| config.annotations.extend([memory])).run();
    let container = pod.container("main").idle().start();
    container.wait_for_line("ready");
    assert_eq!(container.shell("hostname"), pod.status().metadata.unwrap_or_default().name);
    pod
}

fn round(cri: &Cri<'_>, steady: &Steady, count: usize) {
    let begun = Instant::now();
    let pods = for_each(vec![(); count], |()| run(cri));
    let up = begun.elapsed();
    assert_eq!(cri.pods().len(), count);
    for_each(pods, |pod| pod.remove());
    println!("{count} pods were up within {up:.1?} and gone within {:.1?}", begun.elapsed());
    assert!(cri.pods().is_empty(), "{:?}", cri.pods());
    assert_eq!(steady.left(cri), Vec::<String>::new());
}

#[test]
fn many_pods_are_made_and_removed_in_parallel() {
    cri_test(|cri| {
        let steady = cri.steady();
        let (rounds, count) = amount((1, 12), (3, 30));
        for _ in 0..rounds {
            round(cri, &steady, count);
        }
    });
}
