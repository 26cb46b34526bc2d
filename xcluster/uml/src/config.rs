//! The kernel's configuration: what we ask for, and whether we got it.

use std::collections::HashSet;

/// The options of the lab kernel.
pub(crate) const LAB: &str = include_str!("../lab.config");

/// FNV-1a, 64 bits: names a configuration in the cache, protects nothing.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The lines of `wanted` that `got`, a finished .config, does not honour.
///
/// An option that is wanted off and that the source does not know is off.
pub(crate) fn refused(wanted: &str, got: &str) -> Vec<String> {
    let set: HashSet<&str> = got.lines().map(str::trim_end).collect();
    let named: HashSet<&str> = got.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let honoured = |line: &str| match off(line) {
        Some(name) => !named.contains(name),
        None => set.contains(line),
    };
    let options = wanted.lines().map(str::trim).filter(|line| line.starts_with("CONFIG_") || off(line).is_some());
    options.filter(|line| !honoured(line)).map(str::to_owned).collect()
}

/// The name in `# CONFIG_X is not set`.
fn off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set").filter(|name| name.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_1a_is_the_known_one() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_wanted_option_is_looked_for() {
        let got = "# Automatic\nCONFIG_A=y\nCONFIG_S=\"x,y\"\n# CONFIG_M is not set\nCONFIG_N=13\n";
        assert_eq!(refused("# a comment\n\nCONFIG_A=y\nCONFIG_S=\"x,y\"\n# CONFIG_M is not set\n", got), [""; 0]);
        assert_eq!(refused("CONFIG_B=y\nCONFIG_N=12\n", got), ["CONFIG_B=y", "CONFIG_N=12"]);
        assert_eq!(refused("# CONFIG_A is not set\n# CONFIG_GONE is not set", got), ["# CONFIG_A is not set"]);
    }

    #[test]
    fn lab_config_is_its_own_proof() {
        assert_eq!(refused(LAB, LAB), [""; 0]);
        assert!(refused(LAB, "").len() > 100);
    }
}
