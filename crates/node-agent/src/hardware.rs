//! What this machine has, and how much of it is in use. What cannot be read is not known, and that is no error.
//!
//! A graphics card that hangs takes whoever asks it along, so one thread of its own asks. Who looks waits for a few seconds
//! at the most, and then takes what was seen last.

use std::{
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use node_types::hardware::{Amount, GRAPHICS_MAX, Graphics, Hardware, Processor};
use nvml_wrapper::{Nvml, enum_wrappers::device::TemperatureSensor};
use tokio::time::Instant;

/// Where a control group says how much memory its processes may take (kernel documentation, cgroup v2 and v1).
const CGROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// How long graphics cards may take to say how they are: 2 seconds.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How long they may take where their memory decides what fits, the first time the driver's library is loaded for it: 10
/// seconds.
const MEMORY_TIME: Duration = Duration::from_secs(10);

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
    let total = read("/proc/meminfo").and_then(|text| kibibytes(&text, "MemTotal:"));
    let limits = CGROUP_LIMITS.iter().filter_map(|path| read(path)?.trim().parse::<u64>().ok());
    let graphics = graphics(MEMORY_TIME).iter().filter_map(|card| card.memory.total_bytes).sum();
    Memory { main: total.into_iter().chain(limits).min(), graphics }
}

/// Looks at this machine, and at the disk that holds `folder`. Blocks for some milliseconds where there are graphics cards,
/// and for 2 seconds where they hang.
#[must_use]
pub fn look(folder: &Path) -> Hardware {
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs(folder).ok();
    Hardware {
        processor: Processor {
            name: read("/proc/cpuinfo").and_then(|text| processor_name(&text)),
            threads: std::thread::available_parallelism()
                .ok()
                .and_then(|count| u32::try_from(count.get()).ok()),
            load_1m_milli: read("/proc/loadavg").and_then(|text| load_milli(&text)),
        },
        memory: Amount {
            total_bytes: kibibytes(&meminfo, "MemTotal:"),
            free_bytes: kibibytes(&meminfo, "MemAvailable:"),
        },
        disk: Amount {
            total_bytes: disk.as_ref().map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize)),
            free_bytes: disk.as_ref().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        },
        graphics: graphics(LOOK_TIME),
    }
}

/// What a processor calls itself (`/proc/cpuinfo`, proc(5)); some architectures do not say.
fn processor_name(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    let name = line.split_once(':')?.1.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The first average of `/proc/loadavg` (proc(5)), which has two decimals, times 1000.
fn load_milli(text: &str) -> Option<u64> {
    let (whole, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = format!("{hundredths:0<2}").get(..2)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(hundredths * 10)
}

/// A line of `/proc/meminfo` (proc(5)): kibibytes, though it says kB.
fn kibibytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The graphics cards that can be asked, NVIDIA's first.
fn graphics(patience: Duration) -> Vec<Graphics> {
    static CARDS: Cards = Cards::new();
    CARDS.look(patience, || {
        let mut cards = nvidia();
        cards.extend(amd());
        cards.truncate(GRAPHICS_MAX);
        cards
    })
}

/// What was seen of the graphics cards last, and since when they are being asked, if they are.
struct Cards {
    seen: Mutex<(Vec<Graphics>, Option<Instant>)>,
    answered: Condvar,
}

impl Cards {
    const fn new() -> Self {
        Self { seen: Mutex::new((Vec::new(), None)), answered: Condvar::new() }
    }

    /// What `read` says, or what was seen last where it takes longer than `patience`. One thread reads at a time: where it
    /// hangs, no other is started, and nobody waits for it anew.
    fn look(
        &'static self,
        patience: Duration,
        read: impl FnOnce() -> Vec<Graphics> + Send + 'static,
    ) -> Vec<Graphics> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.1.is_none() {
            let reading = move || {
                let cards = read();
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = (cards, None);
                self.answered.notify_all();
            };
            let begun = std::thread::Builder::new().name("graphics".to_owned()).spawn(reading);
            seen.1 = begun.ok().map(|_| Instant::now());
        }
        let Some(begun) = seen.1 else { return seen.0.clone() };
        let left = patience.saturating_sub(begun.elapsed());
        seen = self
            .answered
            .wait_timeout_while(seen, left, |seen| seen.1 == Some(begun))
            .map_or_else(|error| error.into_inner().0, |(seen, _)| seen);
        seen.0.clone()
    }
}

/// By NVIDIA's library, which is there where its driver is. Loading it takes long, so it is kept once it works.
fn nvidia() -> Vec<Graphics> {
    static LIBRARY: OnceLock<Nvml> = OnceLock::new();
    let library = match LIBRARY.get() {
        Some(library) => library,
        None => match Nvml::init() {
            Ok(library) => LIBRARY.get_or_init(|| library),
            Err(_) => return Vec::new(),
        },
    };
    let card = |index| {
        let device = library.device_by_index(index).ok()?;
        let memory = device.memory_info().ok();
        Some(Graphics {
            name: device.name().unwrap_or_else(|_| "NVIDIA".to_owned()),
            memory: Amount {
                total_bytes: memory.as_ref().map(|memory| memory.total),
                free_bytes: memory.as_ref().map(|memory| memory.free),
            },
            busy_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            milliwatts: device.power_usage().ok(),
        })
    };
    (0..library.device_count().unwrap_or(0)).filter_map(card).collect()
}

/// By what the amdgpu driver says of each card (kernel documentation, "GPU sysfs").
fn amd() -> Vec<Graphics> {
    let Ok(cards) = std::fs::read_dir("/sys/class/drm") else { return Vec::new() };
    let mut devices: Vec<PathBuf> = cards.filter_map(|card| Some(card.ok()?.path())).collect();
    // `card0` and its connectors `card0-DP-1` lead to the same device; so does `renderD128`, which has no memory of its own.
    devices.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with("card") && !name.contains('-')
    });
    devices.sort();
    let number = |path: PathBuf| read(path)?.trim().parse::<u64>().ok();
    let card = |path: PathBuf| {
        let device = path.join("device");
        let total = number(device.join("mem_info_vram_total"))?;
        let used = number(device.join("mem_info_vram_used"));
        let name = read(device.join("product_name")).map(|name| name.trim().to_owned());
        Some(Graphics {
            name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| "AMD".to_owned()),
            memory: Amount {
                total_bytes: Some(total),
                free_bytes: used.map(|used| total.saturating_sub(used)),
            },
            busy_percent: number(device.join("gpu_busy_percent")).and_then(|busy| u32::try_from(busy).ok()),
            celsius: None,
            milliwatts: None,
        })
    };
    devices.into_iter().filter_map(card).collect()
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
        assert_eq!(kibibytes("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(2 << 20));
        assert_eq!(kibibytes("MemFree: 1 kB\n", "MemTotal:"), None);
        assert!(memory().main.is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_kernel_s_words_become_figures() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Ryzen 9 7950X 16-Core\ncache size\t: 1024 KB\n";
        assert_eq!(processor_name(cpuinfo).as_deref(), Some("Ryzen 9 7950X 16-Core"));
        assert_eq!(processor_name("processor\t: 0\nmodel name\t: \n"), None);
        for (text, wanted) in
            [("0.52 0.58 0.59 1/467 1\n", Some(520)), ("12.05 1 1", Some(12_050)), ("", None), ("x.y", None)]
        {
            assert_eq!(load_milli(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn this_machine_says_what_it_has() {
        let found = look(Path::new("/"));
        assert!(found.processor.threads.is_some_and(|threads| threads > 0), "{found:?}");
        assert!(found.memory.free_bytes <= found.memory.total_bytes, "{found:?}");
        assert!(found.disk.total_bytes.is_some_and(|bytes| bytes > 0), "{found:?}");
        assert_eq!(look(Path::new("/no such folder")).disk, Amount::default());
    }

    #[test]
    fn a_card_that_hangs_keeps_nobody_and_is_seen_as_it_was_last() {
        static CARDS: Cards = Cards::new();
        let card = |name: &str| Graphics {
            name: name.to_owned(),
            memory: Amount::default(),
            busy_percent: None,
            celsius: None,
            milliwatts: None,
        };
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(50));
        let first = card("first");
        assert_eq!(CARDS.look(long, || vec![first]), [card("first")]);
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let second = card("second");
        let hanging = move || {
            let _ = hangs.recv();
            vec![second]
        };
        assert_eq!(CARDS.look(short, hanging), [card("first")]);
        // It is not asked again while it hangs.
        assert_eq!(CARDS.look(short, || unreachable!()), [card("first")]);
        drop(answer);
        let third = card("third");
        // The one that hung may have to end first.
        let answers = || {
            let third = third.clone();
            CARDS.look(long, move || vec![third])
        };
        assert!((0..2).any(|_| answers() == [card("third")]), "it is asked again once it answers");
    }

    #[test]
    fn a_model_fits_main_memory_or_the_graphics_cards() {
        let memory = Memory { main: Some(10), graphics: 20 };
        assert_eq!([10, 11, 20, 21].map(|bytes| memory.holds(bytes)), [true, true, true, false]);
        assert!(Memory::default().holds(u64::MAX), "where nothing is known, nothing is refused");
    }
}
