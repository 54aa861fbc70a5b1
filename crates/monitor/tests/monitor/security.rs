//! TLS and the token.

use std::fs;
use std::process::Command;

use crate::scene::Scene;

/// A certificate for 127.0.0.1, and its key.
fn certificate(scene: &Scene) -> (String, String) {
    let (cert, key) = (scene.path("cert.pem"), scene.path("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]);
    openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (cert.display().to_string(), key.display().to_string())
}

/// What curl gets with these words: exit code and output.
fn curl(words: &[&str]) -> (i32, String) {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "30"])
        .args(words)
        .output()
        .expect("curl is there");
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let scene = Scene::new();
    let (cert, key) = certificate(&scene);
    let monitor = scene.monitor(&["-tls-cert", &cert, "-tls-key", &key]);
    let address = &monitor.address;
    let (code, answer) = curl(&["--cacert", &cert, &format!("https://{address}/metrics")]);
    assert!(code == 0 && answer.contains("kata_monitor_running_shim_count 0"), "{answer}");
    assert_ne!(curl(&[&format!("https://{address}/metrics")]).0, 0, "nobody vouches for it");
    assert_ne!(curl(&[&format!("http://{address}/metrics")]).0, 0);
}

#[test]
fn without_the_token_nothing_is_told() {
    let scene = Scene::new();
    let _shim = scene.shim("secret-pod", "a 1\n");
    let token = scene.path("token");
    fs::write(&token, "s3cret\n").unwrap();
    let monitor = scene.monitor(&["-token-file", &token.display().to_string()]);
    for path in ["/", "/metrics", "/sandboxes", "/agent-url", "/events", "/nothing"] {
        for field in ["X: y", "Authorization: Bearer wrong"] {
            let (head, words) = monitor.get(path, &[field]);
            assert!(
                head.starts_with("HTTP/1.1 401 ") && head.contains("www-authenticate: Bearer"),
                "{path}: {head}"
            );
            assert!(!words.contains("secret-pod"));
        }
    }
    let field = ["Authorization: Bearer s3cret"];
    monitor_sees(&monitor, &field);
}

fn monitor_sees(monitor: &crate::scene::Monitor, field: &[&str]) {
    let end = std::time::Instant::now() + crate::scene::PATIENCE;
    while monitor.get("/sandboxes", field).1 != "secret-pod\n" {
        assert!(std::time::Instant::now() < end, "never there");
    }
}

#[test]
fn what_cannot_be_used_is_an_error_that_says_so() {
    let scene = Scene::new();
    let none = scene.path("none").display().to_string();
    fs::write(scene.path("empty"), "\n").unwrap();
    let empty = scene.path("empty").display().to_string();
    let (cert, key) = certificate(&scene);
    let (other, _) = {
        let other = Scene::new();
        let pair = certificate(&other);
        fs::copy(&pair.0, scene.path("other.pem")).unwrap();
        (scene.path("other.pem").display().to_string(), ())
    };
    for (options, words) in [
        (vec!["-token-file", &none], "The token cannot be read"),
        (vec!["-token-file", &empty], "has no token"),
        (vec!["-tls-cert", &none, "-tls-key", &key], "must be PEM"),
        (vec!["-tls-cert", &cert, "-tls-key", &empty], "must be PEM"),
        (vec!["-tls-cert", &other, "-tls-key", &key], "are no certificate and its key"),
        (vec!["-listen-address", "256.0.0.1:1"], "choose another --listen-address"),
    ] {
        let output = scene.command().args(&options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(words), "{options:?}: {said}");
    }
}
