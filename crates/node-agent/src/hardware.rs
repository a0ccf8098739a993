//! What this machine has: memory, and memory of graphics cards. What cannot be read is not known, and that is no error.

use std::{path::Path, sync::OnceLock};

use nvml_wrapper::{Nvml, enum_wrappers::device::TemperatureSensor};

/// Where a control group says how much memory its processes may take (kernel documentation, cgroup v2 and v1).
const CGROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// How much memory a machine has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine, or of the control group where that has less; `None` where nobody can tell.
    pub main: Option<u64>,
    /// Of all graphics cards together; 0 where there is none that can be asked.
    pub graphics: u64,
}

impl Memory {
    /// Whether a model that needs so much can be loaded at all: into main memory, or into that of the graphics cards.
    #[must_use]
    pub fn holds(&self, bytes: u64) -> bool {
        self.main.is_none_or(|main| bytes <= main) || bytes <= self.graphics
    }
}

/// Looks at this machine.
#[must_use]
pub fn memory() -> Memory {
    let total = read("/proc/meminfo").and_then(|text| mem_total(&text));
    let limits = CGROUP_LIMITS.iter().filter_map(|path| read(path)?.trim().parse::<u64>().ok());
    Memory { main: total.into_iter().chain(limits).min(), graphics: nvidia().unwrap_or(0) + amd() }
}

/// How this machine does now. What cannot be read is `None`, or not in the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Processes that ran or wanted to, on average over the last minute.
    pub load: Option<f64>,
    /// Processors that this process may use.
    pub processors: Option<u64>,
    /// Bytes of main memory.
    pub memory: Option<u64>,
    /// Bytes of main memory that new work could have.
    pub memory_available: Option<u64>,
    /// Bytes of the volume's file system.
    pub disk: Option<u64>,
    /// Bytes of it that the node could still use.
    pub disk_free: Option<u64>,
    /// NVIDIA's cards.
    pub cards: Vec<Card>,
}

/// How a graphics card does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Its number.
    pub index: u32,
    /// What it is called.
    pub name: String,
    /// How much of the last moment it worked, in percent.
    pub busy_percent: Option<u32>,
    /// Bytes of its memory.
    pub memory: Option<u64>,
    /// Bytes of it that are in use.
    pub memory_used: Option<u64>,
    /// In degrees Celsius.
    pub temperature: Option<u32>,
}

/// Looks at this machine, and at the file system of a folder.
#[must_use]
pub fn status(folder: &Path) -> Status {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs(folder).ok();
    Status {
        load: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        processors: std::thread::available_parallelism().ok().map(|count| count.get() as u64),
        memory: mem_total(&meminfo),
        memory_available: kilobytes(&meminfo, "MemAvailable:"),
        disk: disk.map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize)),
        disk_free: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        cards: cards().unwrap_or_default(),
    }
}

fn cards() -> Option<Vec<Card>> {
    let nvml = nvml()?;
    let cards = (0..nvml.device_count().ok()?).filter_map(|index| {
        let card = nvml.device_by_index(index).ok()?;
        let memory = card.memory_info().ok();
        Some(Card {
            index,
            name: card.name().unwrap_or_default(),
            busy_percent: card.utilization_rates().ok().map(|rates| rates.gpu),
            memory: memory.as_ref().map(|memory| memory.total),
            memory_used: memory.as_ref().map(|memory| memory.used),
            temperature: card.temperature(TemperatureSensor::Gpu).ok(),
        })
    });
    Some(cards.collect())
}

/// NVIDIA's library, which is there where its driver is: looked for once.
fn nvml() -> Option<&'static Nvml> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    NVML.get_or_init(|| Nvml::init().ok()).as_ref()
}

/// How this process does now. What cannot be read is `None`.
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

/// Looks at this process.
#[must_use]
pub fn process() -> Process {
    let stat = read("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; the numbers after it begin with the third field.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let seconds = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    let booted = read("/proc/stat")
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok());
    let limits = read("/proc/self/limits").unwrap_or_default();
    Process {
        resident: read("/proc/self/status").and_then(|text| kilobytes(&text, "VmRSS:")),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64),
        open_files_max: limits.lines().find_map(|line| line.strip_prefix("Max open files")).and_then(|rest| {
            rest.split_ascii_whitespace().next()?.parse().ok()
        }),
        started: booted.zip(seconds(22)).map(|(booted, after)| booted + after),
        processor: seconds(14).zip(seconds(15)).map(|(user, system)| user + system),
    }
}

/// `MemTotal` of `/proc/meminfo` (proc(5)).
fn mem_total(text: &str) -> Option<u64> {
    kilobytes(text, "MemTotal:")
}

/// A line of `/proc`, in bytes: it gives kibibytes, though it says kB.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn nvidia() -> Option<u64> {
    let nvml = nvml()?;
    let cards = 0..nvml.device_count().ok()?;
    Some(cards.filter_map(|card| Some(nvml.device_by_index(card).ok()?.memory_info().ok()?.total)).sum())
}

/// By what the amdgpu driver says of each card.
fn amd() -> u64 {
    let Ok(cards) = std::fs::read_dir("/sys/class/drm") else { return 0 };
    let totals = cards.filter_map(|card| {
        let path = card.ok()?.path().join("device/mem_info_vram_total");
        // `card0` and its connectors `card0-DP-1` lead to the same device.
        let connector = path.components().any(|part| part.as_os_str().to_string_lossy().contains('-'));
        (!connector).then_some(())?;
        read(path)?.trim().parse::<u64>().ok()
    });
    totals.sum()
}

#[expect(clippy::disallowed_methods, reason = "what the kernel says, no file of the volume")]
fn read(path: impl AsRef<Path>) -> Option<String> {
    String::from_utf8(std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(mem_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
        assert!(memory().main.is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn machine_and_process_are_looked_at() {
        let status = status(Path::new("/"));
        assert!(status.memory > status.memory_available && status.disk > status.disk_free, "{status:?}");
        assert!(status.load.is_some() && status.processors > Some(0));
        let process = process();
        assert!(process.resident > Some(1 << 20) && process.open_files > Some(2), "{process:?}");
        assert!(process.open_files_max >= process.open_files && process.processor.is_some());
        // After this line was written, and not in a machine's first second.
        assert!(process.started > Some(1_700_000_000.0), "{process:?}");
    }

    #[test]
    fn a_model_fits_main_memory_or_the_graphics_cards() {
        let memory = Memory { main: Some(10), graphics: 20 };
        assert_eq!([10, 11, 20, 21].map(|bytes| memory.holds(bytes)), [true, true, true, false]);
        assert!(Memory::default().holds(u64::MAX), "where nothing is known, nothing is refused");
    }
}
