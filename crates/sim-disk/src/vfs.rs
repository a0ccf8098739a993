//! The SQLite VFS of a disk.
//!
//! SQLite keeps a global list of VFSes and hands out bare pointers to them, so one that was ever
//! registered is never freed: each belongs to a [`Slot`] that lives as long as the process, and
//! disks come and go in the slots. There are as many slots as there were disks at one time.
//!
//! Where SQLite's VFS for Unix makes a choice (lock levels, folder syncs, device characteristics,
//! modes of new files), this one makes the same, as seen from one process.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    mem,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering, fence},
    },
    thread,
    time::Duration,
};

use rusqlite::ffi;

use crate::{
    disk::{Inner, State, folder_of},
    faults::Call,
    sites::Caller,
    tree::{Errno, Inode},
};

/// As SQLite's VFS for Unix.
const PATH_BYTES_MAX: c_int = 4096;
const SECTOR_BYTES: c_int = 4096;
/// 2026-01-01 00:00 UTC in milliseconds of the Julian calendar, the unit of `xCurrentTimeInt64`.
const NOW: ffi::sqlite3_int64 = 210_866_760_000_000 + 1_767_225_600_000;

/// A registered VFS.
pub(crate) struct Slot {
    name: String,
    disk: Mutex<Weak<Inner>>,
}

/// Slots without a disk.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());
static SLOTS: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    /// A slot for a new disk: one that is free, or a newly registered one.
    pub(crate) fn acquire() -> &'static Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(Self::register)
    }

    fn register() -> &'static Self {
        // SQLite's count of its memory is guarded by one lock for all connections, and nobody asks for it.
        // SAFETY: as documented for this option. If SQLite has started already, it is refused.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) };
        let name = format!("sim-disk-{}", SLOTS.fetch_add(1, Ordering::Relaxed));
        let c_name = CString::new(name.clone()).unwrap_or_default();
        let slot: &'static Self = Box::leak(Box::new(Self { name, disk: Mutex::new(Weak::new()) }));
        // SAFETY: all-zero is a valid sqlite3_vfs: integers, null pointers, absent functions.
        let mut vfs: ffi::sqlite3_vfs = unsafe { mem::zeroed() };
        vfs.iVersion = 2;
        vfs.szOsFile = mem::size_of::<SimFile>() as c_int;
        vfs.mxPathname = PATH_BYTES_MAX;
        vfs.zName = c_name.into_raw();
        vfs.pAppData = ptr::from_ref(slot).cast_mut().cast();
        vfs.xOpen = Some(x_open);
        vfs.xDelete = Some(x_delete);
        vfs.xAccess = Some(x_access);
        vfs.xFullPathname = Some(x_full_pathname);
        vfs.xRandomness = Some(x_randomness);
        vfs.xSleep = Some(x_sleep);
        vfs.xCurrentTime = Some(x_current_time);
        vfs.xGetLastError = Some(x_get_last_error);
        vfs.xCurrentTimeInt64 = Some(x_current_time_int64);
        // SAFETY: the structure and its name are leaked, so they outlive every use by SQLite. It
        // fails only when SQLite cannot start, and then no connection can be opened either.
        unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) };
        slot
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn point_to(&self, disk: &Arc<Inner>) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(disk);
    }

    /// The disk is gone, and with it all its open files: the next disk may have the slot.
    pub(crate) fn release(&'static self) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    fn disk(&self) -> Option<Arc<Inner>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

/// SQLite's lock levels on a database file.
#[derive(Default)]
pub(crate) struct FileLocks {
    /// The highest level that anyone holds.
    level: c_int,
    /// How many hold at least a shared lock.
    shared: usize,
}

/// One region of a wal-index; SQLite alone reads and writes it.
struct Region(NonNull<u8>, Layout);

impl Region {
    fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), 4096).ok()?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        NonNull::new(memory).map(|memory| Self(memory, layout))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.0.as_ptr(), self.1) };
    }
}

// SAFETY: memory that belongs to the region; what is in it is guarded by SQLite's own protocol.
unsafe impl Send for Region {}

/// The shared memory of a database in WAL mode: gone when the last connection closes.
#[derive(Default)]
pub(crate) struct Shm {
    regions: Vec<Region>,
    /// For each lock: how many hold it shared, or -1 if one holds it alone.
    locks: [i32; ffi::SQLITE_SHM_NLOCK as usize],
    users: usize,
}

/// The locks of one connection on the shared memory, as bits.
#[derive(Clone, Copy, Default)]
struct ShmHeld {
    shared: u16,
    exclusive: u16,
}

/// What SQLite allocates for an open file: its methods and our handle.
#[repr(C)]
struct SimFile {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

/// An open file.
struct Handle {
    disk: Arc<Inner>,
    vfs_name: &'static str,
    inode: Inode,
    path: PathBuf,
    read_only: bool,
    /// The first sync also syncs the folder.
    sync_folder: bool,
    level: c_int,
    shm: Option<ShmHeld>,
    persist_wal: bool,
    powersafe_overwrite: bool,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The handle of an open file.
///
/// # Safety
/// `file` was opened by [`x_open`] and not closed yet. SQLite never uses one file from two threads
/// at once, so the handle is ours alone for the time of a call.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: x_open put a boxed handle there; x_close alone frees it.
    unsafe { &mut *(*file.cast::<SimFile>()).handle }
}

/// The disk that a VFS leads to.
///
/// # Safety
/// `vfs` was registered by [`Slot::register`].
unsafe fn disk_of(vfs: *mut ffi::sqlite3_vfs) -> Option<(Arc<Inner>, &'static Slot)> {
    // SAFETY: pAppData points to the leaked slot.
    let slot = unsafe { &*(*vfs).pAppData.cast::<Slot>() };
    Some((slot.disk()?, slot))
}

/// A path of SQLite's.
///
/// # Safety
/// `name` is a string that ends with a zero byte and lives as long as the path is used.
unsafe fn path_of<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: as above.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

fn code(error: Errno, otherwise: c_int) -> c_int {
    if error == Errno::NO_SPACE { ffi::SQLITE_FULL } else { otherwise }
}

/// The mode of a file that SQLite makes: journals have their database's, temporary files are ours
/// alone, all others 0644.
fn mode_for(state: &State, path: &Path, flags: c_int) -> u32 {
    if flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0 {
        return 0o600;
    }
    if flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0
        && let Some((database, _)) = path.to_string_lossy().rsplit_once('-')
        && let Ok(Some((_, node))) = state.found(Path::new(database))
    {
        return node.mode;
    }
    0o644
}

unsafe extern "C" fn x_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` is szOsFile bytes. No methods means that SQLite will not close it.
    unsafe { (*file).pMethods = ptr::null() };
    // SAFETY: SQLite calls with the VFS that was registered.
    let Some((disk, slot)) = (unsafe { disk_of(vfs) }) else { return ffi::SQLITE_CANTOPEN };
    let has = |flag: c_int| flags & flag != 0;
    let mut read_only = has(ffi::SQLITE_OPEN_READONLY);
    let mut state = disk.state();
    let (inode, path) = if name.is_null() {
        if state.gate(Call::Open, Path::new("")).is_err() {
            return ffi::SQLITE_CANTOPEN;
        }
        (state.create_anonymous(), PathBuf::new())
    } else {
        // SAFETY: SQLite's file names end with zero and outlive the call.
        let path = unsafe { path_of(name) };
        let mode = mode_for(&state, path, flags);
        if state.gate(Call::Open, path).is_err() {
            return ffi::SQLITE_CANTOPEN;
        }
        let found = match state.file_for(path, !read_only) {
            // As the VFS for Unix: what cannot be written is opened for reading.
            Err(Errno::ACCESS) if !read_only => {
                read_only = true;
                state.file_for(path, false)
            }
            other => other,
        };
        let inode = match found {
            Ok(Some(_)) if has(ffi::SQLITE_OPEN_CREATE) && has(ffi::SQLITE_OPEN_EXCLUSIVE) => {
                return ffi::SQLITE_CANTOPEN;
            }
            Ok(Some(inode)) => inode,
            Ok(None) if has(ffi::SQLITE_OPEN_CREATE) => match state.create(path, mode) {
                Ok(inode) => inode,
                Err(_) => return ffi::SQLITE_CANTOPEN,
            },
            Ok(None) | Err(_) => return ffi::SQLITE_CANTOPEN,
        };
        (inode, path.to_owned())
    };
    state.opened(inode);
    if has(ffi::SQLITE_OPEN_DELETEONCLOSE) && !name.is_null() {
        // It was found or made just now, so the one way to fail is a folder that is read-only.
        let _ = state.remove(&path);
    }
    drop(state);
    let journal = has(ffi::SQLITE_OPEN_SUPER_JOURNAL)
        || has(ffi::SQLITE_OPEN_MAIN_JOURNAL)
        || has(ffi::SQLITE_OPEN_WAL);
    let opened = Handle {
        disk,
        vfs_name: slot.name(),
        inode,
        path,
        read_only,
        sync_folder: has(ffi::SQLITE_OPEN_CREATE) && journal && !read_only,
        level: ffi::SQLITE_LOCK_NONE,
        shm: None,
        persist_wal: false,
        powersafe_overwrite: true,
    };
    if !out_flags.is_null() {
        let access = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE;
        let now = if read_only { flags & !access | ffi::SQLITE_OPEN_READONLY } else { flags };
        // SAFETY: SQLite gave a place for the flags.
        unsafe { *out_flags = now };
    }
    // SAFETY: `file` is szOsFile bytes, room for a SimFile.
    unsafe {
        (*file.cast::<SimFile>()).handle = Box::into_raw(Box::new(opened));
        (*file).pMethods = &raw const METHODS;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the file is open, and SQLite does not use it after this.
    let mut open = unsafe { Box::from_raw((*file.cast::<SimFile>()).handle) };
    // SAFETY: `file` is still SQLite's own memory.
    unsafe { (*file).pMethods = ptr::null() };
    shm_leave(&mut open);
    unlock(&mut open, ffi::SQLITE_LOCK_NONE);
    open.disk.state().closed(open.inode);
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open; SQLite gave `amount` bytes to read into.
    let (open, into) =
        unsafe { (handle(file), slice::from_raw_parts_mut(into.cast::<u8>(), amount as usize)) };
    let data = {
        let mut state = open.disk.state();
        if state.gate(Call::Read, &open.path).is_err() {
            return ffi::SQLITE_IOERR_READ;
        }
        let Some(data) = state.live.file(open.inode) else { return ffi::SQLITE_IOERR_READ };
        data.read(offset as u64, into)
    };
    if data < into.len() {
        into[data..].fill(0);
        return ffi::SQLITE_IOERR_SHORT_READ;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open; SQLite gave `amount` bytes to write.
    let (open, bytes) = unsafe { (handle(file), slice::from_raw_parts(bytes.cast::<u8>(), amount as usize)) };
    if open.read_only {
        return ffi::SQLITE_IOERR_WRITE;
    }
    let mut state = open.disk.state();
    let done =
        state.gate(Call::Write, &open.path).and_then(|()| state.write(open.inode, offset as u64, bytes));
    done.map_or_else(|error| code(error, ffi::SQLITE_IOERR_WRITE), |()| ffi::SQLITE_OK)
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let mut state = open.disk.state();
    if open.read_only || state.gate(Call::Truncate, &open.path).is_err() {
        return ffi::SQLITE_IOERR_TRUNCATE;
    }
    state.truncate(open.inode, size as u64);
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let mut state = open.disk.state();
    if state.sync_file(Caller::Sqlite, open.inode, &open.path).is_err() {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    if open.sync_folder {
        // As the VFS for Unix, which does not look at what the sync of the folder answers.
        let _ = state.sync_dir(Caller::Sqlite, &folder_of(&open.path));
        open.sync_folder = false;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, size: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let length = open.disk.state().live.file(open.inode).map_or(0, |data| data.length());
    // SAFETY: SQLite gave a place for the size.
    unsafe { *size = length as ffi::sqlite3_int64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_lock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    if open.level >= wanted {
        return ffi::SQLITE_OK;
    }
    let mut state = open.disk.state();
    let locks = state.locks.entry(open.inode).or_default();
    let others_matter = locks.level >= ffi::SQLITE_LOCK_PENDING || wanted > ffi::SQLITE_LOCK_SHARED;
    if open.level != locks.level && others_matter {
        return ffi::SQLITE_BUSY;
    }
    if wanted == ffi::SQLITE_LOCK_SHARED {
        locks.shared += 1;
        locks.level = locks.level.max(wanted);
        open.level = wanted;
        return ffi::SQLITE_OK;
    }
    if wanted == ffi::SQLITE_LOCK_EXCLUSIVE {
        if open.level == ffi::SQLITE_LOCK_RESERVED {
            // Keeps new readers out while the old ones finish; held even when we answer "busy".
            open.level = ffi::SQLITE_LOCK_PENDING;
            locks.level = ffi::SQLITE_LOCK_PENDING;
        }
        if locks.shared > 1 {
            return ffi::SQLITE_BUSY;
        }
    }
    open.level = wanted;
    locks.level = wanted;
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: the file is open.
    unlock(unsafe { handle(file) }, level);
    ffi::SQLITE_OK
}

fn unlock(open: &mut Handle, level: c_int) {
    if open.level <= level {
        return;
    }
    let mut state = open.disk.state();
    let locks = state.locks.entry(open.inode).or_default();
    if open.level > ffi::SQLITE_LOCK_SHARED {
        locks.level = ffi::SQLITE_LOCK_SHARED;
    }
    if level == ffi::SQLITE_LOCK_NONE {
        locks.shared -= 1;
        if locks.shared == 0 {
            state.locks.remove(&open.inode);
        }
    }
    open.level = level;
}

unsafe extern "C" fn x_check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let level = open.disk.state().locks.get(&open.inode).map_or(ffi::SQLITE_LOCK_NONE, |locks| locks.level);
    // SAFETY: SQLite gave a place for the answer.
    unsafe { *out = c_int::from(level > ffi::SQLITE_LOCK_SHARED) };
    ffi::SQLITE_OK
}

/// Sets or tells a flag as SQLite's file controls do: negative only asks.
///
/// # Safety
/// `argument` points to an int.
unsafe fn flag(flag: &mut bool, argument: *mut c_void) {
    // SAFETY: as above.
    let value = unsafe { &mut *argument.cast::<c_int>() };
    if *value < 0 {
        *value = c_int::from(*flag);
    } else {
        *flag = *value != 0;
    }
}

unsafe extern "C" fn x_file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    match operation {
        ffi::SQLITE_FCNTL_LOCKSTATE => {
            // SAFETY: for this operation the argument is an int to fill.
            unsafe { *argument.cast::<c_int>() = open.level };
        }
        // SAFETY: for this operation the argument is an int.
        ffi::SQLITE_FCNTL_PERSIST_WAL => unsafe { flag(&mut open.persist_wal, argument) },
        ffi::SQLITE_FCNTL_POWERSAFE_OVERWRITE => {
            // SAFETY: for this operation the argument is an int.
            unsafe { flag(&mut open.powersafe_overwrite, argument) };
        }
        ffi::SQLITE_FCNTL_VFSNAME => {
            let name = CString::new(open.vfs_name).unwrap_or_default();
            // SAFETY: the argument is a place for a string that SQLite will free; %s copies ours.
            unsafe {
                *argument.cast::<*mut c_char>() = ffi::sqlite3_mprintf(c"%s".as_ptr(), name.as_ptr());
            }
        }
        ffi::SQLITE_FCNTL_HAS_MOVED => {
            let here = open.disk.state().live.find(&open.path);
            // SAFETY: for this operation the argument is an int to fill.
            unsafe { *argument.cast::<c_int>() = c_int::from(here != Ok(Some(open.inode))) };
        }
        ffi::SQLITE_FCNTL_EXTERNAL_READER => {
            // SAFETY: for this operation the argument is an int to fill. No other process reads.
            unsafe { *argument.cast::<c_int>() = 0 };
        }
        ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_CHUNK_SIZE => {}
        _ => return ffi::SQLITE_NOTFOUND,
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn x_device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let powersafe = if open.powersafe_overwrite { ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE } else { 0 };
    powersafe | ffi::SQLITE_IOCAP_SUBPAGE_READ
}

unsafe extern "C" fn x_shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: the file is open, and SQLite gave a place for the address.
    let (open, out) = unsafe { (handle(file), &mut *out) };
    *out = ptr::null_mut();
    let mut state = open.disk.state();
    if open.shm.is_none() {
        if state.gate(Call::Open, &open.path).is_err() {
            return ffi::SQLITE_CANTOPEN;
        }
        state.shm.entry(open.inode).or_default().users += 1;
        open.shm = Some(ShmHeld::default());
    }
    let wanted = region as usize;
    loop {
        let have = state.shm.entry(open.inode).or_default().regions.len();
        if have > wanted {
            break;
        }
        if extend == 0 {
            return ffi::SQLITE_OK;
        }
        if state.gate(Call::Write, &open.path).and_then(|()| state.take_shm(bytes as usize)).is_err() {
            return ffi::SQLITE_IOERR_SHMSIZE;
        }
        let Some(new) = Region::new(bytes as usize) else { return ffi::SQLITE_NOMEM };
        state.shm.entry(open.inode).or_default().regions.push(new);
    }
    *out = state.shm[&open.inode].regions[wanted].0.as_ptr().cast();
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: the file is open.
    let open = unsafe { handle(file) };
    let Some(held) = &mut open.shm else { return ffi::SQLITE_IOERR_SHMLOCK };
    let mut state = open.disk.state();
    let Some(shm) = state.shm.get_mut(&open.inode) else { return ffi::SQLITE_IOERR_SHMLOCK };
    let range = offset as usize..(offset + count) as usize;
    let mask = ((1_u32 << range.end) - (1_u32 << range.start)) as u16;
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        shm_release(shm, held, mask);
    } else if flags & ffi::SQLITE_SHM_SHARED != 0 {
        if held.shared & mask == 0 {
            let lock = &mut shm.locks[range.start];
            if *lock < 0 {
                return ffi::SQLITE_BUSY;
            }
            *lock += 1;
            held.shared |= mask;
        }
    } else {
        if shm.locks[range.clone()].iter().any(|lock| *lock != 0) {
            return ffi::SQLITE_BUSY;
        }
        shm.locks[range].fill(-1);
        held.exclusive |= mask;
    }
    ffi::SQLITE_OK
}

fn shm_release(shm: &mut Shm, held: &mut ShmHeld, mask: u16) {
    for (bit, lock) in shm.locks.iter_mut().enumerate() {
        let bit = 1_u16 << bit & mask;
        if held.exclusive & bit != 0 {
            *lock = 0;
        } else if held.shared & bit != 0 {
            *lock -= 1;
        }
    }
    held.exclusive &= !mask;
    held.shared &= !mask;
}

unsafe extern "C" fn x_shm_barrier(_file: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn x_shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: the file is open.
    shm_leave(unsafe { handle(file) });
    ffi::SQLITE_OK
}

fn shm_leave(open: &mut Handle) {
    let Some(mut held) = open.shm.take() else { return };
    let mut state = open.disk.state();
    let Some(shm) = state.shm.get_mut(&open.inode) else { return };
    shm_release(shm, &mut held, u16::MAX);
    shm.users -= 1;
    if shm.users == 0 {
        let bytes: usize = shm.regions.iter().map(|region| region.1.size()).sum();
        state.shm.remove(&open.inode);
        state.give_shm(bytes);
    }
}

unsafe extern "C" fn x_delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: SQLite calls with the VFS that was registered and a path that ends with zero.
    let (disk, path) = unsafe { (disk_of(vfs), path_of(name)) };
    let Some((disk, _)) = disk else { return ffi::SQLITE_IOERR_DELETE };
    let mut state = disk.state();
    match state.gate(Call::Delete, path).and_then(|()| state.remove(path)) {
        Ok(true) => {}
        Ok(false) => return ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(_) => return ffi::SQLITE_IOERR_DELETE,
    }
    if sync_folder & 1 != 0 && state.sync_dir(Caller::Sqlite, &folder_of(path)).is_err() {
        return ffi::SQLITE_IOERR_DIR_FSYNC;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls with the VFS that was registered and a path that ends with zero.
    let (disk, path) = unsafe { (disk_of(vfs), path_of(name)) };
    let Some((disk, _)) = disk else { return ffi::SQLITE_IOERR_ACCESS };
    let state = disk.state();
    let there = if flags == ffi::SQLITE_ACCESS_EXISTS {
        // As the VFS for Unix: an empty file does not count.
        let found = state.live.find(path).ok().flatten();
        found.is_some_and(|inode| state.live.file(inode).is_none_or(|data| data.length() > 0))
    } else {
        matches!(state.file_for(path, flags == ffi::SQLITE_ACCESS_READWRITE), Ok(Some(_)))
    };
    // SAFETY: SQLite gave a place for the answer.
    unsafe { *out = c_int::from(there) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: a path that ends with zero.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if bytes.len() > room as usize {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: there is room, and SQLite's buffers do not overlap.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_randomness(vfs: *mut ffi::sqlite3_vfs, bytes: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite calls with the VFS that was registered and gave `bytes` bytes to fill.
    let (disk, out) = unsafe { (disk_of(vfs), slice::from_raw_parts_mut(out.cast::<u8>(), bytes as usize)) };
    let Some((disk, _)) = disk else { return 0 };
    let mut state = disk.state();
    for chunk in out.chunks_mut(8) {
        chunk.copy_from_slice(&state.random().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

unsafe extern "C" fn x_sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    thread::sleep(Duration::from_micros(microseconds.max(0) as u64));
    microseconds
}

unsafe extern "C" fn x_current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite gave a place for the time.
    unsafe { *out = NOW as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_current_time_int64(
    _vfs: *mut ffi::sqlite3_vfs,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite gave a place for the time.
    unsafe { *out = NOW };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_get_last_error(
    _vfs: *mut ffi::sqlite3_vfs,
    _bytes: c_int,
    _out: *mut c_char,
) -> c_int {
    0
}
