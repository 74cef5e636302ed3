//! What the system tells about this process and this machine; `None` where it does not.

use std::fs;

/// CPU seconds of all threads that this process has now.
pub(crate) fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0u64;
    for task in fs::read_dir("/proc/self/task").ok()? {
        // A thread that ended meanwhile is none of those that are compared.
        if let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) {
            nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    Some(nanoseconds as f64 * 1e-9)
}

/// CPU seconds of the calling thread.
pub(crate) fn thread_cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? as f64 * 1e-9)
}

/// The most memory that this process has had since [`reset_peak`], mapped pages included.
pub(crate) fn peak_rss() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Forgets the peak so far; where that is refused, the peak is the process's.
pub(crate) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that can be had without pushing others out.
pub(crate) fn available_memory() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// A number of kilobytes, as bytes.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells() {
        assert!(super::cpu_seconds().is_some());
        assert!(super::peak_rss().is_some_and(|bytes| bytes > 100_000));
        assert!(super::available_memory().is_some());
    }
}
