//! This process, as the kernel sees it. What cannot be read is not known, and that is no error.

/// How this process does now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Bytes of main memory that it has.
    pub resident: Option<u64>,
    /// Files that it has open.
    pub open_files: Option<u64>,
    /// Files that it may have open.
    pub open_files_max: Option<u64>,
    /// When it was started, in seconds since 1970 UTC.
    pub started: Option<f64>,
    /// How long it worked, in seconds of one processor.
    pub processor: Option<f64>,
}

/// Ticks of a second in `/proc`: 100 on every Linux that programs see (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Looks at this process (proc(5)).
#[must_use]
pub fn look() -> Process {
    let stat = read("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; the numbers after it begin with the third field.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let seconds = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    let booted = line("/proc/stat", "btime").and_then(|rest| rest.trim().parse::<f64>().ok());
    let resident = line("/proc/self/status", "VmRSS:");
    let open_files_max = line("/proc/self/limits", "Max open files");
    Process {
        resident: resident
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        open_files_max: open_files_max.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()),
        started: booted.zip(seconds(22)).map(|(booted, after)| booted + after),
        processor: seconds(14).zip(seconds(15)).map(|(user, system)| user + system),
    }
}

/// What follows `name` in the first line that begins with it.
fn line(path: &str, name: &str) -> Option<String> {
    read(path)?.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
}

#[expect(clippy::disallowed_methods, reason = "what the kernel says, no file of the volume")]
fn read(path: &str) -> Option<String> {
    String::from_utf8(std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let process = look();
        assert!(process.resident > Some(1 << 20) && process.open_files > Some(2), "{process:?}");
        assert!(process.open_files_max >= process.open_files && process.processor.is_some(), "{process:?}");
        // After this line was written.
        assert!(process.started > Some(1_700_000_000.0), "{process:?}");
    }
}
