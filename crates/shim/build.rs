//! Packs the program's relocations: a bitmap instead of half a megabyte that each shim would keep in memory.
//! Linkers and C libraries know it since 2022 (glibc 2.36).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
