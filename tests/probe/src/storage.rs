//! `kata-probe storage WHAT PATH…`: how fast a file system is, for `cargo xtask bench`; a line for each pair tells what was
//! done and how many seconds it took.
//!
//! | what | path | done |
//! |---|---|---|
//! | `write` | a directory | [`BYTES`] are written to a new file there, in pieces of 1 MiB |
//! | `read` | a file | all of it is read from begin to end, in pieces of 1 MiB |
//! | `random` | a file | [`READS`] pieces of 4 KiB are read, each once, in an order that no cache foresees |
//! | `small` | a directory | [`FILES`] files are made with a line in each, then looked at, then removed |
//!
//! Nothing is synchronised: disks are as fast for a VM as for another, what lies before them is measured.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// What `write` writes.
const BYTES: u64 = 512 << 20;
const PIECE: usize = 1 << 20;
/// What `random` reads, in pieces of this length.
const READS: u64 = 16_384;
const SECTOR: usize = 4096;
/// A prime: its multiples visit every piece of a file that is not a multiple of it.
const STRIDE: u64 = 15_485_863;
/// What `small` makes.
const FILES: u32 = 10_000;

type Work = fn(&Path) -> io::Result<()>;

/// Does all that is asked for.
pub(crate) fn run(wanted: &[&str]) -> io::Result<()> {
    for pair in wanted.chunks(2) {
        let (work, path): (Work, _) = match pair {
            ["write", path] => (write, path),
            ["read", path] => (read, path),
            ["random", path] => (random, path),
            ["small", path] => (small, path),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "storage WHAT PATH…")),
        };
        let begun = Instant::now();
        work(Path::new(path))?;
        println!("{}\t{:.6}", pair[0], begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn write(directory: &Path) -> io::Result<()> {
    let path = directory.join("written");
    let mut file = File::create(&path)?;
    let piece = vec![b'w'; PIECE];
    for _ in 0..BYTES / PIECE as u64 {
        file.write_all(&piece)?;
    }
    drop(file);
    fs::remove_file(path)
}

fn read(path: &Path) -> io::Result<()> {
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
    while file.read(&mut piece)? > 0 {}
    Ok(())
}

fn random(path: &Path) -> io::Result<()> {
    let (file, mut piece) = (File::open(path)?, [0; SECTOR]);
    let pieces = file.metadata()?.len() / SECTOR as u64;
    let reads = READS.min(pieces);
    for number in 0..reads {
        file.read_exact_at(&mut piece, number * STRIDE % pieces * SECTOR as u64)?;
    }
    Ok(())
}

fn small(directory: &Path) -> io::Result<()> {
    let path = |number: u32| directory.join(format!("small-{number}"));
    for number in 0..FILES {
        fs::write(path(number), "a line\n")?;
    }
    for number in 0..FILES {
        fs::metadata(path(number))?;
    }
    (0..FILES).try_for_each(|number| fs::remove_file(path(number)))
}
