//! Direct-assigned volumes of a sandbox that runs.

use std::path::Path;

use super::Scene;
use crate::direct::{VolumeCondition, VolumeStats, VolumeUsage};
use crate::error::ErrorKind;

const VOLUME: &str = "/volume";

#[tokio::test]
async fn how_full_a_volume_is_the_guest_says() {
    let scene = Scene::running().await;
    let stats = scene.sandbox.volume_stats(Path::new(VOLUME)).await.unwrap();
    let usage = vec![VolumeUsage { available: 1, total: 3, used: 2, unit: 1 }];
    // What the guest says controls no terminal.
    let condition = VolumeCondition { abnormal: false, message: "fine".to_owned() };
    assert_eq!(stats, VolumeStats { usage, volume_condition: Some(condition) });
    assert_eq!(scene.agent.asked().last().unwrap(), "GetVolumeStats /guest/volume");
}

#[tokio::test]
async fn a_volume_grows_on_its_disk_first_and_then_in_the_guest() {
    let scene = Scene::running().await;
    scene.sandbox.resize_volume(Path::new(VOLUME), 1 << 30).await.unwrap();
    assert_eq!(*scene.host.levers.resized.lock().unwrap(), ["disk-1 1073741824"]);
    assert_eq!(scene.agent.asked().last().unwrap(), "ResizeVolume /guest/volume 1073741824");
}

/// Storage rounds up: a volume whose guest could not follow the first time was refused as one that would shrink.
#[tokio::test]
async fn a_disk_that_is_larger_already_is_left_and_the_guest_is_asked() {
    let scene = Scene::running().await;
    scene.sandbox.resize_volume(Path::new(VOLUME), 4096).await.unwrap();
    assert!(scene.host.levers.resized.lock().unwrap().is_empty());
    assert_eq!(scene.agent.asked().last().unwrap(), "ResizeVolume /guest/volume 4096");
}

#[tokio::test]
async fn a_volume_that_the_sandbox_does_not_have_is_told() {
    let scene = Scene::running().await;
    let refused = scene.sandbox.volume_stats(Path::new("/other")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.to_string().contains("\"/other\""), "{refused}");
    let refused = scene.sandbox.resize_volume(Path::new("/other"), 1 << 30).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}
