//! How many workers a machine deserves.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Result, input_error};

/// More than the hardware threads of the largest servers of two sockets (768), and few enough for
/// any system to start: a larger number is a slip.
const MAX_THREADS: usize = 1024;

/// The size of a team: what the user asked for, or what the machine deserves.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) for none and for more than [`MAX_THREADS`].
pub(crate) fn choose_threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        None => Ok(default_threads()),
        Some(threads @ 1..=MAX_THREADS) => Ok(threads),
        Some(threads) => Err(input_error(format!(
            "{threads} threads cannot run anything: it takes 1 to {MAX_THREADS}"
        ))),
    }
}

/// Physical cores within the process's affinity and its cgroup's quota.
///
/// Two hardware threads of a core share its multipliers and its path to memory: the second adds
/// nothing to a forward pass and delays the barrier. Where the system does not tell them apart in
/// the way of Linux, all hardware threads count.
fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(allowed, |cores| cores.clamp(1, allowed)).min(MAX_THREADS)
}

/// Distinct (package, core) pairs among the processors that this process may run on; `None` on
/// systems without Linux's `/proc` and `/sys`.
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
    use crate::error::ErrorKind;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list("\t0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_list("3"), Some(vec![3]));
        assert_eq!(parse_list("a-b"), None);
    }

    #[test]
    fn the_number_of_threads_is_bounded() {
        assert!((1..=MAX_THREADS).contains(&choose_threads(None).unwrap()));
        assert_eq!(choose_threads(Some(MAX_THREADS)).unwrap(), MAX_THREADS);
        for out_of_range in [0, MAX_THREADS + 1, usize::MAX] {
            let error = choose_threads(Some(out_of_range)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    }
}
