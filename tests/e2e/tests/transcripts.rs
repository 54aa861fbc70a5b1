//! What documents show of a terminal is what it says.

use kata_e2e::{Containerd, Transcript, kata_test};

/// How it is made, by the heading of its transcript in `docs/how-to/debugging.md`.
type Trouble = (&'static str, fn(&Containerd));

const TROUBLES: [Trouble; 5] = [
    ("A key of the configuration is misspelt", |containerd| {
        containerd.reconfigure(|text| text.replacen("\nenable_debug = false", "\nenable_debugg = true", 1));
    }),
    ("The guest's kernel is not where the configuration says", |containerd| {
        containerd.configure(&[("kernel", "\"/usr/share/kata/vmlinux\"")]);
    }),
    ("An annotation is not understood", |_| {}),
    ("The image has no such program", |_| {}),
    ("The VM has died", |_| {}),
];

#[test]
fn troubles_look_as_the_document_says() {
    let transcripts = Transcript::all("docs/how-to/debugging.md");
    let titles: Vec<_> = transcripts.iter().map(|transcript| transcript.title.as_str()).collect();
    assert_eq!(titles, TROUBLES.map(|(title, _)| title));
    for (transcript, (_, trouble)) in transcripts.iter().zip(TROUBLES) {
        kata_test(|containerd| {
            trouble(containerd);
            transcript.play(containerd);
        });
    }
}
