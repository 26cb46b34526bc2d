//! What the guest's init is to run: a small file in the output directory.
//!
//! The directory, the number of words, the program and its arguments, then `NAME=value` for each variable; every one of
//! these ends with a NUL byte, which none of them can contain.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The job's file in the output directory, there while the guest runs.
pub(crate) const JOB: &str = "job";
/// The program's exit status, in decimal.
pub(crate) const RC: &str = "rc";
/// The kernel's log, written when the program has ended.
pub(crate) const DMESG: &str = "dmesg";

/// A program, with everything that a process starts with.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) cwd: OsString,
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

impl Job {
    /// The text of the file, or nothing when a part contains a NUL byte.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let count = OsString::from(self.words.len().to_string());
        let plain = [&self.cwd, &count].into_iter().chain(&self.words).cloned();
        let env = self.env.iter().map(|(name, value)| [name.as_os_str(), value].join(OsStr::new("=")));
        let mut text = Vec::new();
        for part in plain.chain(env) {
            if part.as_bytes().contains(&0) {
                return None;
            }
            text.extend(part.as_bytes());
            text.push(0);
        }
        Some(text)
    }

    /// The reverse of [`Job::encode`].
    pub(crate) fn decode(text: &[u8]) -> Option<Job> {
        let mut parts = text.strip_suffix(&[0])?.split(|byte| *byte == 0).map(|part| OsString::from_vec(part.to_vec()));
        let cwd = parts.next()?;
        let count: usize = parts.next()?.to_str()?.parse().ok()?;
        let words: Vec<OsString> = parts.by_ref().take(count).collect();
        let env = parts.map(|part| {
            // A name may begin with `=`, so look for the separator behind its first byte.
            let bytes = part.as_bytes();
            let at = 1 + bytes.get(1..)?.iter().position(|byte| *byte == b'=')?;
            Some((OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
        });
        let env = env.collect::<Option<Vec<_>>>()?;
        (words.len() == count && count > 0).then_some(Job { cwd, words, env })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(words: &[&str], env: &[(&str, &str)]) -> Job {
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Job { cwd: "/a b".into(), words: words.iter().map(Into::into).collect(), env }
    }

    #[test]
    fn comes_back_as_it_was() {
        for job in [
            job(&["sh"], &[]),
            job(&["sh", "-c", "", "a\nb='"], &[("A", ""), ("B", "x=y z")]),
            Job { words: vec![OsString::from_vec(vec![0xff, 1])], ..job(&[], &[("Z", "\n")]) },
        ] {
            assert_eq!(Job::decode(&job.encode().unwrap()), Some(job));
        }
    }

    #[test]
    fn nul_and_broken_files_are_refused() {
        assert_eq!(job(&["a\0b"], &[]).encode(), None);
        assert_eq!(Job::decode(b""), None);
        assert_eq!(Job::decode(b"/\x002\0only\0"), None);
        assert_eq!(Job::decode(b"/\x000\0"), None);
    }
}
