//! The fuzz targets as ordinary tests: their corpora, and so many mutations of each entry. `make fuzz` does the same
//! guided by coverage.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a crate of its own elsewhere")]
mod targets;

use std::fs;
use std::path::Path;

/// Of each entry.
const MUTATIONS: u32 = 20;

/// Changes, inserts, repeats or cuts something.
fn mutate(bytes: &mut Vec<u8>, rng: &mut oorandom::Rand32) {
    let at = rng.rand_range(0..bytes.len() as u32 + 1) as usize;
    match rng.rand_range(0..5) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, rng.rand_u32() as u8),
        2 => {
            let len = rng.rand_range(1..16) as usize;
            let copy: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
            bytes.splice(at..at, copy);
        }
        3 => {
            let end = (at + rng.rand_range(1..8) as usize).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = match rng.rand_range(0..4) {
                    0 => 0,
                    1 => 0xff,
                    2 => byte.wrapping_add(1),
                    _ => rng.rand_u32() as u8,
                };
            }
        }
    }
}

#[test]
fn corpora_and_their_mutations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut rng = oorandom::Rand32::new(11);
    for (name, target) in targets::TARGETS {
        let mut entries: Vec<_> = fs::read_dir(folder.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        assert!(!entries.is_empty(), "{name} has no corpus");
        for entry in entries {
            let seed = fs::read(&entry).unwrap();
            target(&seed);
            let mut bytes = seed.clone();
            for _ in 0..MUTATIONS {
                mutate(&mut bytes, &mut rng);
                target(&bytes);
                if bytes.len() > 2 * seed.len() + 64 {
                    bytes.clone_from(&seed);
                }
            }
        }
    }
}
