//! What /proc says of processes and sockets (proc(5)). Reading only, parsed by hand, no panics on
//! whatever stands there: other users choose their process names.

use super::gather::Gather;
use std::{
    ffi::OsString, fs, io, net::SocketAddr, os::unix::ffi::OsStringExt, os::unix::fs::MetadataExt,
    path::Path, sync::OnceLock, thread, time::Duration,
};

use super::fs::{entries, read_bytes};
use super::process::Pid;

/// What is read of a file in /proc: a table of ten thousand sockets fits.
const MAX_PROC: u64 = 2 << 20;

/// How often a process is looked at that is just being executed, and how long after another: on a
/// loaded machine it may be out of turn in the middle of that.
const EXEC_LOOKS: (u32, Duration) = (500, Duration::from_millis(1));

/// The text of a file; what is not UTF-8 in it (a process's name may hold anything) is replaced.
fn text(path: &str) -> io::Result<String> {
    let bytes = read_bytes(fs::File::open(path)?, MAX_PROC)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process started, in clock ticks since boot: with the pid, its identity. `None` where it has
/// ended, also while it is not reaped yet (but a main thread may end before the others).
pub fn start_time(pid: Pid) -> Option<u64> {
    let stat = stat(pid)?;
    let lives = !has_ended(&stat) || number(&stat, 17)? > 1;
    number(&stat, 19).filter(|_| lives)
}

/// That of this process; 0 where the kernel does not say.
pub fn own_start_time() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    *START.get_or_init(|| start_time(Pid::own()).unwrap_or(0))
}

/// What the kernel says of a process, from its state on.
fn stat(of: Pid) -> Option<String> {
    behind_name(&text(&format!("/proc/{of}/stat")).ok()?).map(str::to_owned)
}

/// What is behind the last `)` of a stat line: the name before it may hold anything.
fn behind_name(line: &str) -> Option<&str> {
    Some(line.rsplit_once(')')?.1)
}

/// One of the numbers there; the state has the place 0.
fn number(stat: &str, at: usize) -> Option<u64> {
    stat.split_ascii_whitespace().nth(at)?.parse().ok()
}

fn has_ended(stat: &str) -> bool {
    stat.trim_start().starts_with(['Z', 'X'])
}

/// Bytes of a process that are in memory.
pub fn resident(of: Pid) -> Option<u64> {
    let status = text(&format!("/proc/{of}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The user that a process acts as.
pub fn uid(pid: Pid) -> Option<u32> {
    let status = text(&format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// The leader of our session, where that has a terminal.
pub fn terminal_leader() -> Option<i32> {
    let stat = stat(Pid::own())?;
    let leader = number(&stat, 3).filter(|_| number(&stat, 4) != Some(0));
    leader.and_then(|pid| pid.try_into().ok())
}

/// The process's name (at most 15 bytes, chosen by itself: escape before printing).
pub fn name(pid: Pid) -> Option<String> {
    let comm = text(&format!("/proc/{pid}/comm")).ok()?;
    Some(comm.strip_suffix('\n').unwrap_or(&comm).to_owned())
}

/// The text of `/proc/PID/cgroup` (cgroups(7)).
pub fn cgroup(pid: Pid) -> Option<String> {
    text(&format!("/proc/{pid}/cgroup")).ok()
}

/// The fewest tasks that a control group above us allows (`pids.max`, in version 2 of them), and for
/// a user the soft limit on all of its processes (RLIMIT_NPROC, getrlimit(2)).
pub fn task_limit() -> Option<usize> {
    const ROOT: &str = "/sys/fs/cgroup";
    let groups = cgroup(Pid::own()).unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = Path::new(ROOT).join(own);
    let most =
        |group: &Path| text(&group.join("pids.max").to_string_lossy()).ok()?.trim().parse().ok();
    let by_groups = own.ancestors().take_while(|group| group.starts_with(ROOT)).filter_map(most);
    by_groups.chain(super::user::process_limit()).min()
}

/// Which boot this is: a new random id at each one. Empty where the kernel does not say.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read)
}

/// The children of our main thread: where the kernel puts the orphans that we inherit.
pub fn children_of_main_thread() -> Vec<Pid> {
    let own = Pid::own();
    children_in(&format!("/proc/{own}/task/{own}"))
}

/// Whether a process is among those that we descend from.
pub fn is_ancestor(pid: Pid) -> bool {
    let parent = |of: &Pid| Pid::new(number(&stat(*of)?, 1)?.try_into().ok()?);
    // Ancestors come and go while they are read: no tree is as deep as that.
    std::iter::successors(Pid::parent(), parent).take(1000).any(|ancestor| ancestor == pid)
}

/// A process's command line.
pub fn arguments(pid: Pid) -> Option<Vec<OsString>> {
    let bytes = read_bytes(fs::File::open(format!("/proc/{pid}/cmdline")).ok()?, MAX_PROC).ok()?;
    let words = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    Some(words.map(|word| OsString::from_vec(word.to_vec())).gather())
}

/// The children of all threads of a process.
pub fn children(of: Pid) -> Vec<Pid> {
    let threads = entries(Path::new(&format!("/proc/{of}/task"))).into_iter();
    threads.flat_map(|thread| children_in(&thread.path().to_string_lossy())).gather()
}

fn children_in(thread: &str) -> Vec<Pid> {
    let list = text(&format!("{thread}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::new(pid.parse().ok()?)).gather()
}

/// Every process that we can see.
pub fn processes() -> Vec<Pid> {
    let pid = |entry: &fs::DirEntry| Pid::new(entry.file_name().to_str()?.parse().ok()?);
    entries(Path::new("/proc")).iter().filter_map(pid).gather()
}

/// The value of a variable with which a process of our own user was started.
#[allow(clippy::disallowed_methods, reason = "an exec that goes on tells nobody of its end")]
pub fn variable(of: Pid, name: &str) -> Option<String> {
    let path = format!("/proc/{of}/environ");
    if fs::metadata(&path).ok()?.uid() != super::user::own_uid() {
        return None;
    }
    let (most, pause) = EXEC_LOOKS;
    let mut looks = 0..most;
    let all = loop {
        let all = read_bytes(fs::File::open(&path).ok()?, MAX_PROC).ok()?;
        if !is_executing(of, all.len()) || looks.next().is_none() {
            break String::from_utf8_lossy(&all).into_owned();
        }
        thread::sleep(pause);
    };
    all.split('\0').find_map(|one| Some(one.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Flags of processes without an environment: threads of the kernel (PF_KTHREAD in linux/sched.h), and
/// what is about to have ended.
const KERNEL_THREAD: u64 = 0x0020_0000;
const EXITING: u64 = 4;

/// Whether a process, of whose environment so many bytes were read, has got another one meanwhile or has
/// none yet: execve(2) says where the code ends (`end_code`) once it is there.
fn is_executing(pid: Pid, read: usize) -> bool {
    let Some(stat) = stat(pid).filter(|stat| !has_ended(stat)) else { return false };
    let has_none = number(&stat, 6).is_none_or(|flags| flags & (KERNEL_THREAD | EXITING) != 0);
    let [code_end, start, end] = [24, 47, 48].map(|at| number(&stat, at));
    let length = end.zip(start).map(|(end, start)| end.saturating_sub(start).min(MAX_PROC));
    let is_whole = length.is_none_or(|length| length <= read as u64);
    !has_none && (code_end == Some(0) || !is_whole)
}

/// Whether a process is about to have ended: its environment is gone, and its children are still its own.
pub fn is_exiting(pid: Pid) -> bool {
    let flags = stat(pid).and_then(|stat| number(&stat, 6));
    flags.is_some_and(|flags| flags & EXITING != 0)
}

/// The process that listens on a TCP address, where our rights let us see it.
pub fn listener(address: SocketAddr) -> Option<Pid> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let table = text(table).ok()?;
    let inode = table.lines().skip(1).find_map(|row| listening_inode(row, address.port()))?;
    let wanted = format!("socket:[{inode}]");
    let target = |fd: &fs::DirEntry| fs::read_link(fd.path()).ok();
    processes().into_iter().find(|pid| {
        let open = entries(Path::new(&format!("/proc/{pid}/fd")));
        open.iter().any(|fd| target(fd).is_some_and(|target| target.as_os_str() == wanted.as_str()))
    })
}

/// The socket's inode in a row of /proc/net/tcp that is listening (state 0A) on `port`.
fn listening_inode(row: &str, port: u16) -> Option<&str> {
    let mut fields = row.split_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let same = u16::from_str_radix(local_port, 16) == Ok(port);
    (same && state == "0A").then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_stat_line_may_hold_parentheses() {
        let rest = "S 1 2 2 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        let line = format!("42 (a) R 9 (b) {rest}");
        let read = behind_name(&line).unwrap();
        assert_eq!((read.trim_start(), number(read, 19)), (rest, Some(777)));
        assert!(!has_ended(read) && has_ended(" Z 1") && has_ended(" X 1"));
        assert_eq!(behind_name("42 (sh"), None);
        assert_eq!(behind_name(""), None);
        assert!(start_time(Pid::own()).is_some());
    }

    #[test]
    fn ancestors_and_arguments_of_a_process() {
        assert!(Pid::parent().is_none_or(is_ancestor));
        assert!(!is_ancestor(Pid::own()));
        assert_eq!(arguments(Pid::own()), Some(std::env::args_os().collect()));
    }

    #[test]
    fn our_own_listener_is_found() {
        let listener_socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(listener_socket.local_addr().unwrap()), Some(Pid::own()));
        assert_eq!(listening_inode("garbled", 1), None);
    }
}
