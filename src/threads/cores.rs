//! How many workers a machine deserves.

use std::collections::BTreeSet;
use std::path::Path;

/// Physical cores within the process's affinity and its cgroup's quota.
///
/// Two hardware threads of a core share its multipliers and its path to memory: the second adds
/// nothing to a forward pass and delays the barrier.
pub(crate) fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// Distinct (package, core) pairs among the processors that this process may run on.
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = BTreeSet::new();
    for cpu in parse_list(list)? {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let read = |name| {
            let text = std::fs::read_to_string(Path::new(&topology).join(name)).ok()?;
            text.trim().parse::<i64>().ok()
        };
        cores.insert((read("physical_package_id")?, read("core_id")?));
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Reads the kernel's list format, `0-3,8,10-11`.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.trim().parse().ok()?..=last.trim().parse::<usize>().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list("\t0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_list("3"), Some(vec![3]));
        assert_eq!(parse_list("a-b"), None);
        assert!(default_threads() >= 1);
    }
}
