//! What this machine has: memory, and memory of graphics cards. What cannot be read is not known, and that is no error.

use std::path::Path;

use nvml_wrapper::Nvml;

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

/// `MemTotal` of `/proc/meminfo` (proc(5)): kibibytes, though it says kB.
fn mem_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// By NVIDIA's library, which is there where its driver is.
fn nvidia() -> Option<u64> {
    let nvml = Nvml::init().ok()?;
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
    fn a_model_fits_main_memory_or_the_graphics_cards() {
        let memory = Memory { main: Some(10), graphics: 20 };
        assert_eq!([10, 11, 20, 21].map(|bytes| memory.holds(bytes)), [true, true, true, false]);
        assert!(Memory::default().holds(u64::MAX), "where nothing is known, nothing is refused");
    }
}
