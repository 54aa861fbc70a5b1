//! A container of a pod.

use std::path::PathBuf;
use std::time::Duration;

use super::log::{self, LogLine};
use super::{Pod, Stream, proto};
use crate::command::{Finished, PATIENCE};
use crate::failure::{eventually, fail};
use crate::recipe::Image;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// Why, in a word.
    pub reason: String,
    /// What it wrote.
    pub log: Vec<LogLine>,
}

impl Ended {
    /// What it wrote to standard output, as lines of text.
    pub fn text(&self) -> String {
        log::text(&self.log, "stdout")
    }
}

/// A container to be made in a pod.
#[must_use = "a recipe does nothing until it is run"]
pub struct ContainerRecipe<'p> {
    pod: &'p Pod<'p>,
    config: proto::ContainerConfig,
}

impl<'p> ContainerRecipe<'p> {
    pub(super) fn new(pod: &'p Pod<'p>, name: &str) -> Self {
        // Containers are in the namespaces that their pod names.
        let of_pod = pod.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let security = proto::LinuxContainerSecurityContext {
            namespace_options: of_pod.and_then(|security| security.namespace_options.clone()),
            ..Default::default()
        };
        let linux = proto::LinuxContainerConfig {
            security_context: Some(security),
            resources: Some(Default::default()),
        };
        let config = proto::ContainerConfig {
            metadata: Some(proto::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(proto::ImageSpec { image: Image::Busybox.name().to_owned(), ..Default::default() }),
            log_path: format!("{name}.log"),
            linux: Some(linux),
            ..Default::default()
        };
        Self { pod, config }
    }

    /// Changes what the interface is told.
    pub fn with(mut self, change: impl FnOnce(&mut proto::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes what the interface is told about the workload's rights.
    pub fn security(self, change: impl FnOnce(&mut proto::LinuxContainerSecurityContext)) -> Self {
        self.with(|config| {
            change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
        })
    }

    /// The image, if it is not busybox.
    pub fn image(self, image: Image) -> Self {
        self.pod.cri.ensure_image(image);
        self.with(|config| config.image.get_or_insert_default().image = image.name().to_owned())
    }

    /// The program and its arguments.
    pub fn command<S: Into<String>>(self, words: impl IntoIterator<Item = S>) -> Self {
        self.with(|config| config.command = words.into_iter().map(Into::into).collect())
    }

    /// A line for the container's `/bin/sh`.
    pub fn shell(self, line: &str) -> Self {
        self.command(["/bin/sh", "-c", line])
    }

    /// A workload that does nothing until SIGTERM, which it heeds as soon as it has written `ready`.
    pub fn idle(self) -> Self {
        self.shell("trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done")
    }

    /// `CreateContainer`.
    #[track_caller]
    pub fn create(self) -> PodContainer<'p> {
        self.try_create().unwrap_or_else(|e| fail(format_args!("Cannot create a container: {e}")))
    }

    /// As [`ContainerRecipe::create`], for what is to fail; tells why.
    pub fn try_create(self) -> Result<PodContainer<'p>, String> {
        let Self { pod, config } = self;
        let log_path = config.log_path.clone();
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: pod.id().to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = pod.cri.call(|mut client| async move { client.create_container(request).await });
        let id = answer.map_err(|status| status.message().to_owned())?.container_id;
        Ok(PodContainer { pod, id, log_path })
    }

    /// `CreateContainer`, `StartContainer`.
    #[track_caller]
    pub fn start(self) -> PodContainer<'p> {
        let container = self.create();
        container.start();
        container
    }

    /// As [`ContainerRecipe::start`], then waits for the workload's end.
    #[track_caller]
    pub fn run(self) -> Ended {
        let container = self.start();
        container.wait();
        container.ended()
    }
}

/// A container of a pod.
pub struct PodContainer<'p> {
    pod: &'p Pod<'p>,
    id: String,
    log_path: String,
}

impl PodContainer<'_> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `StartContainer`.
    #[track_caller]
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|e| fail(format_args!("Cannot start container {}: {e}", self.id)));
    }

    /// As [`PodContainer::start`], for what is to fail; tells why.
    pub fn try_start(&self) -> Result<(), String> {
        let request = proto::StartContainerRequest { container_id: self.id.clone() };
        let answer = self.pod.cri.call(|mut client| async move { client.start_container(request).await });
        answer.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    /// `ContainerStatus`.
    #[track_caller]
    pub fn status(&self) -> proto::ContainerStatus {
        let request = proto::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let answer = self.pod.cri.call(|mut client| async move { client.container_status(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("No status of {}: {e}", self.id)));
        answer.status.expect("an answer has a status")
    }

    /// Returns when the workload has ended, and what it wrote is in its log.
    #[track_caller]
    pub fn wait(&self) {
        eventually("the container ends", PATIENCE, || {
            self.status().state() == proto::ContainerState::ContainerExited
        });
        // containerd tells the end and writes on.
        let log = self.log_file();
        eventually("the log is closed", PATIENCE, || !self.pod.cri.containerd.has_open(&log));
    }

    fn log_file(&self) -> PathBuf {
        self.pod.logs().join(&self.log_path)
    }

    /// How it ended.
    #[track_caller]
    pub fn ended(&self) -> Ended {
        let status = self.status();
        assert_eq!(status.state(), proto::ContainerState::ContainerExited, "{status:?}");
        Ended { code: status.exit_code, reason: status.reason, log: self.log() }
    }

    /// `StopContainer`, with SIGKILL after so many seconds.
    #[track_caller]
    pub fn stop(&self, timeout: i64) {
        let request = proto::StopContainerRequest { container_id: self.id.clone(), timeout };
        let answer = self.pod.cri.call(|mut client| async move { client.stop_container(request).await });
        answer.unwrap_or_else(|e| fail(format_args!("Cannot stop container {}: {e}", self.id)));
    }

    /// `RemoveContainer`, which kills it if it runs.
    #[track_caller]
    pub fn remove(&self) {
        let request = proto::RemoveContainerRequest { container_id: self.id.clone() };
        let answer = self.pod.cri.call(|mut client| async move { client.remove_container(request).await });
        answer.unwrap_or_else(|e| fail(format_args!("Cannot remove container {}: {e}", self.id)));
    }

    /// `ExecSync` with a timeout, 0 for none.
    pub fn exec_within<S: Into<String>>(
        &self,
        timeout: Duration,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Finished, String> {
        let cmd = words.into_iter().map(Into::into).collect();
        let timeout = i64::try_from(timeout.as_secs()).expect("a short time");
        let request = proto::ExecSyncRequest { container_id: self.id.clone(), cmd, timeout };
        let answer = self.pod.cri.call(|mut client| async move { client.exec_sync(request).await });
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(Finished { code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
    }

    /// `ExecSync` of a line for its shell.
    #[track_caller]
    pub fn exec_shell(&self, line: &str) -> Finished {
        let finished = self.exec_within(Duration::ZERO, ["/bin/sh", "-c", line]);
        finished.unwrap_or_else(|e| fail(format_args!("Cannot run {line:?}: {e}")))
    }

    /// Runs a line in its shell, which must succeed; returns what it printed.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        self.exec_shell(line).ok().text()
    }

    /// `Exec` of a line for its shell, with standard input, through the streaming server.
    #[track_caller]
    pub fn exec(&self, line: &str, tty: bool) -> Stream {
        let cmd = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let request = proto::ExecRequest {
            container_id: self.id.clone(),
            cmd,
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let answer = self.pod.cri.call(|mut client| async move { client.exec(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("Cannot run {line:?}: {e}")));
        Stream::open(&answer.url)
    }

    /// `Attach`, through the streaming server.
    #[track_caller]
    pub fn attach(&self, stdin: bool, tty: bool) -> Stream {
        let container_id = self.id.clone();
        let request = proto::AttachRequest { container_id, stdin, tty, stdout: true, stderr: !tty };
        let answer = self.pod.cri.call(|mut client| async move { client.attach(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("Cannot attach: {e}")));
        Stream::open(&answer.url)
    }

    /// `UpdateContainerResources`.
    #[track_caller]
    pub fn update(&self, resources: proto::LinuxContainerResources) {
        let request =
            proto::UpdateContainerResourcesRequest { container_id: self.id.clone(), linux: Some(resources) };
        let answer =
            self.pod.cri.call(|mut client| async move { client.update_container_resources(request).await });
        answer.unwrap_or_else(|e| fail(format_args!("Cannot update container {}: {e}", self.id)));
    }

    /// `ContainerStats`.
    #[track_caller]
    pub fn stats(&self) -> proto::ContainerStats {
        let request = proto::ContainerStatsRequest { container_id: self.id.clone() };
        let answer = self.pod.cri.call(|mut client| async move { client.container_stats(request).await });
        let answer = answer.unwrap_or_else(|e| fail(format_args!("No figures of {}: {e}", self.id)));
        answer.stats.expect("an answer has figures")
    }

    /// `ReopenContainerLog`.
    #[track_caller]
    pub fn reopen_log(&self) {
        let request = proto::ReopenContainerLogRequest { container_id: self.id.clone() };
        let answer =
            self.pod.cri.call(|mut client| async move { client.reopen_container_log(request).await });
        answer.unwrap_or_else(|e| fail(format_args!("Cannot reopen the log of {}: {e}", self.id)));
    }

    /// Returns when this is a line of its log.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) {
        eventually("the line is in the log", PATIENCE, || self.log().iter().any(|line| line.text == text));
    }

    /// What it wrote to its log so far.
    #[track_caller]
    pub fn log(&self) -> Vec<LogLine> {
        log::read(&self.log_file())
    }
}
