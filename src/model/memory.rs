//! How much memory the system and its control groups leave to this process.

use std::fs;

/// Memory that can be had without pushing others out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AtHand {
    pub(crate) bytes: u64,
    /// Whose word that is.
    pub(crate) by: String,
}

/// What the system tells: the least of what is available in all, and of what each control group of
/// this process has left. `None` where it tells nothing, as others than Linux do.
pub(crate) fn at_hand() -> Option<AtHand> {
    told(&|path| fs::read_to_string(path).ok())
}

fn told(read: &dyn Fn(&str) -> Option<String>) -> Option<AtHand> {
    let available = read("/proc/meminfo").and_then(|text| number(&text, "MemAvailable:"));
    let system = available
        .map(|kib| AtHand { bytes: kib.saturating_mul(1024), by: "of the system's".into() });
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(Group::parse).flat_map(Group::levels);
    let groups = groups.filter_map(|(kind, folder)| {
        let bytes = kind.left(&|file| read(&format!("{folder}/{file}")))?;
        Some(AtHand { bytes, by: format!("within the limit of the control group {folder}") })
    });
    system.into_iter().chain(groups).min_by_key(|at_hand| at_hand.bytes)
}

/// The number after `name` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let mut words =
        text.lines().map(str::split_whitespace).find(|words| words.clone().next() == Some(name))?;
    words.nth(1)?.parse().ok()
}

/// The files of one version of control groups.
struct Version {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: pages of files, which the usage counts and which can be given back.
    files: [&'static str; 2],
}

const V1: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};

const V2: Version = Version {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    files: ["inactive_file", "active_file"],
};

impl Version {
    /// What a group with these files has left; `None` where it is not limited.
    fn left(&self, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
        let parse = |name| read(name)?.trim().parse::<u64>().ok();
        // "max" is no number.
        let limit = parse(self.limit)?;
        let stat = read("memory.stat").unwrap_or_default();
        let files = self.files.iter().filter_map(|name| number(&stat, name)).sum();
        Some(limit.saturating_sub(parse(self.usage)?.saturating_sub(files)))
    }
}

/// A group that limits memory.
struct Group {
    version: &'static Version,
    path: String,
}

impl Group {
    /// Of a line of `/proc/self/cgroup`: number, controllers (none of version 2), path.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match controllers {
            "" if number == "0" => &V2,
            _ if controllers.split(',').any(|name| name == "memory") => &V1,
            _ => return None,
        };
        Some(Self { version, path: path.trim_end_matches('/').to_owned() })
    }

    /// The folders of the group and of those around it, each of which may have a limit of its own. In
    /// a container the path may be the host's, which is not there, and the root is the container's group.
    fn levels(self) -> impl Iterator<Item = (&'static Version, String)> {
        let outside = self.path.split('/').any(|name| name == "..");
        let own = if outside { "" } else { self.path.as_str() };
        let ends = own.rmatch_indices('/').map(|(end, _)| end);
        let folders: Vec<_> = std::iter::once(own.len())
            .chain(ends)
            .map(|end| (self.version, format!("{}{}", self.version.root, &own[..end])))
            .collect();
        folders.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16316412 kB\nMemFree:          1000 kB\n\
                           MemAvailable:    8000000 kB\nSwapFree:  99999999 kB\n";

    fn of(files: &[(&str, &str)]) -> Option<AtHand> {
        told(&|path| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    fn by_group(bytes: u64, folder: &str) -> Option<AtHand> {
        Some(AtHand { bytes, by: format!("within the limit of the control group {folder}") })
    }

    #[test]
    fn a_system_without_groups() {
        let system = Some(AtHand { bytes: 8_000_000 * 1024, by: "of the system's".into() });
        assert_eq!(of(&[("/proc/meminfo", MEMINFO)]), system);
        let unlimited = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/user.slice\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/memory.current", "1\n"),
        ];
        assert_eq!(of(&unlimited), system);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("/proc/meminfo", "nothing of the kind\n")]), None);
    }

    #[test]
    fn a_limit_of_version_2_less_what_is_used_but_for_pages_of_files() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a.slice/b.scope\n"),
            ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "3000\n"),
            ("/sys/fs/cgroup/a.slice/b.scope/memory.current", "2500\n"),
            (
                "/sys/fs/cgroup/a.slice/b.scope/memory.stat",
                "anon 1\nactive_file 300\ninactive_file 700\n",
            ),
        ];
        assert_eq!(of(&files), by_group(1500, "/sys/fs/cgroup/a.slice/b.scope"));
    }

    #[test]
    fn a_group_around_it_may_have_less() {
        let files = [
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "9000"),
            ("/sys/fs/cgroup/a/b/memory.current", "0"),
            ("/sys/fs/cgroup/a/memory.max", "5000"),
            ("/sys/fs/cgroup/a/memory.current", "4600"),
        ];
        assert_eq!(of(&files), by_group(400, "/sys/fs/cgroup/a"));
    }

    #[test]
    fn a_container_whose_path_is_the_hosts() {
        for path in ["0::/docker/4711\n", "0::/../../x\n", "0::/\n"] {
            let files = [
                ("/proc/self/cgroup", path),
                ("/sys/fs/cgroup/memory.max", "5000"),
                ("/sys/fs/cgroup/memory.current", "6000"),
            ];
            assert_eq!(of(&files), by_group(0, "/sys/fs/cgroup"), "{path}");
        }
    }

    #[test]
    fn a_limit_of_version_1() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job\n0::/y\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n"),
            ("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1048576\n"),
            ("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "48576\n"),
            ("/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 576\n"),
        ];
        assert_eq!(of(&files), by_group(1_000_576, "/sys/fs/cgroup/memory/job"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells() {
        assert!(at_hand().is_some());
    }
}
