//! A guest that runs out of memory as a whole, while no container has met a limit of its own.

use kata_e2e::kata_cri_test;

#[test]
fn the_container_that_took_it_is_named_and_the_others_and_the_agent_live() {
    kata_cri_test(|cri| {
        let memory = ("io.katacontainers.config.hypervisor.default_memory".to_owned(), "160".to_owned());
        let pod = cri.pod().with(|config| config.annotations.extend([memory])).run();
        let modest = pod.container("modest").idle().start();
        modest.wait_for_line("ready");
        // One buffer, nearly as large as the guest's whole memory, of which the agent and the kernel have some.
        let kib = "$(sed -n 's/^MemTotal: *//p' /proc/meminfo | cut -d' ' -f1)";
        let line = format!("exec dd if=/dev/zero of=/dev/null bs=$(({kib} - 8192))k count=1");
        let greedy = pod.container("greedy").shell(&line).run();
        assert_eq!((greedy.code, greedy.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(modest.shell("grep -w oom_kill /sys/fs/cgroup/memory.events"), "oom_kill 0");
        // The agent makes another container.
        assert_eq!(pod.container("later").shell("echo runs").run().text(), "runs");
        modest.stop(10);
        assert_eq!(modest.ended().reason, "Completed");
    });
}
