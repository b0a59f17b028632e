//! System calls by name, and which errors each of them is made to fail with.

use nix::errno::Errno;
use nix::libc;

macro_rules! named {
    ($($call:ident)+) => { &[$((libc::$call, stringify!($call))),+] };
}

/// Those that plugins are known to make, and their like.
const NAMES: &[(i64, &str)] = named! {
    SYS_accept4 SYS_access SYS_arch_prctl SYS_bind SYS_brk SYS_chdir SYS_chmod SYS_chown
    SYS_clock_gettime SYS_clock_nanosleep SYS_clone SYS_clone3 SYS_close SYS_close_range SYS_connect
    SYS_dup SYS_dup2 SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_wait
    SYS_eventfd2 SYS_execve SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fchmod
    SYS_fchmodat SYS_fchown SYS_fcntl SYS_fdatasync SYS_flock SYS_fork SYS_fstat SYS_fstatfs
    SYS_fsync SYS_ftruncate SYS_futex SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
    SYS_getpeername SYS_getpid SYS_getppid SYS_getrandom SYS_getsockname SYS_getsockopt SYS_gettid
    SYS_getuid SYS_ioctl SYS_link SYS_linkat SYS_listen SYS_lseek SYS_lstat SYS_madvise SYS_mincore
    SYS_mkdir SYS_mkdirat SYS_mmap SYS_mount SYS_mprotect SYS_mremap SYS_munmap SYS_nanosleep
    SYS_newfstatat SYS_open SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe
    SYS_pipe2 SYS_poll SYS_ppoll SYS_prctl SYS_pread64 SYS_prlimit64 SYS_pwrite64 SYS_read
    SYS_readlink SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_rename
    SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rmdir SYS_rseq SYS_rt_sigaction
    SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_getaffinity SYS_sched_yield SYS_sendfile
    SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address SYS_setns
    SYS_setsockopt SYS_shutdown SYS_sigaltstack SYS_socket SYS_socketpair SYS_splice SYS_stat
    SYS_statfs SYS_statx SYS_symlink SYS_tgkill SYS_timerfd_create SYS_timerfd_settime SYS_umask
    SYS_umount2 SYS_uname SYS_unlink SYS_unlinkat SYS_unshare SYS_utimensat SYS_vfork SYS_wait4
    SYS_waitid SYS_write SYS_writev
};

/// The kernel's word for a system call.
pub(super) fn name(number: u64) -> String {
    let known = NAMES.iter().find(|(known, _)| u64::try_from(*known) == Ok(number));
    known.map_or_else(|| format!("syscall_{number}"), |(_, name)| name[4..].to_owned())
}

/// Calls that cannot fail, or whose failure nobody can do anything about: memory (a program that gets
/// none is ended, which is the same as a kill), the start of a process and of a thread, the clock,
/// waiting for a thread or for time, who one is, closing, and the end.
const UNFAILING: &[&str] = &[
    "arch_prctl brk madvise mincore mmap mprotect mremap munmap",
    "rseq set_robust_list set_tid_address prlimit64 sigaltstack sched_getaffinity",
    "rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall tgkill",
    "clock_gettime clock_nanosleep nanosleep futex sched_yield",
    "getegid geteuid getgid getpid getppid gettid getuid umask uname",
    "close close_range exit exit_group execve",
];

/// What goes wrong elsewhere, by groups of calls: first what may pass, then what stays. A call in no
/// group fails with what a seccomp filter answers, `EPERM`.
const ERRORS: &[(&str, &[Errno])] = &[
    ("open openat openat2", &[Errno::EMFILE, Errno::EACCES]),
    ("socket socketpair", &[Errno::EMFILE, Errno::ENOBUFS]),
    ("pipe pipe2 dup dup2 dup3 fcntl epoll_create1 eventfd2", &[Errno::EMFILE]),
    ("sendto sendmsg sendmmsg", &[Errno::ENOBUFS, Errno::EPERM]),
    ("recvfrom recvmsg recvmmsg", &[Errno::ENOBUFS, Errno::EAGAIN]),
    ("bind connect setsockopt getsockopt getsockname getpeername", &[Errno::ENOBUFS]),
    ("read readv pread64 getdents64", &[Errno::EIO]),
    ("write writev pwrite64", &[Errno::ENOSPC, Errno::EIO]),
    ("clone clone3 fork vfork", &[Errno::EAGAIN]),
    ("wait4 waitid", &[Errno::ECHILD]),
    ("poll ppoll epoll_ctl", &[Errno::ENOMEM]),
    // Nothing else goes wrong with an epoll instance that is one.
    ("epoll_wait epoll_pwait", &[Errno::EINTR]),
    ("flock", &[Errno::ENOLCK]),
    ("mkdir mkdirat link linkat symlink rename renameat renameat2", &[Errno::ENOSPC, Errno::EROFS]),
    ("unlink unlinkat rmdir", &[Errno::EIO, Errno::EROFS]),
    ("fsync fdatasync ftruncate", &[Errno::EIO]),
    (
        "stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat",
        &[Errno::ENOMEM, Errno::EACCES],
    ),
    ("statfs fstatfs lseek", &[Errno::EIO]),
    ("setns unshare", &[Errno::ENOMEM, Errno::EPERM]),
    ("ioctl", &[Errno::ENOMEM, Errno::EPERM]),
    ("getrandom", &[Errno::ENOSYS]),
];

/// The errors that a call is made to fail with, one after the other; none for some.
pub(super) fn errors(name: &str) -> &'static [Errno] {
    let is_in = |group: &str| group.split(' ').any(|one| one == name);
    if UNFAILING.iter().any(|group| is_in(group)) {
        return &[];
    }
    ERRORS.iter().find(|(group, _)| is_in(group)).map_or(&[Errno::EPERM], |(_, errors)| errors)
}

/// Whether an error says what the machine lacks at the moment, so that trying again helps.
pub(super) fn passes(error: Errno) -> bool {
    [
        Errno::EAGAIN,
        Errno::EINTR,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOLCK,
        Errno::ENOMEM,
        Errno::ENOSPC,
    ]
    .contains(&error)
}

/// Which of the arguments is a path.
pub(super) fn path_argument(name: &str) -> Option<usize> {
    const FIRST: &str = "access chdir chmod chown link lstat mkdir open readlink rename rmdir stat \
                         statfs symlink unlink";
    const SECOND: &str = "faccessat faccessat2 fchmodat linkat mkdirat newfstatat openat openat2 \
                          readlinkat renameat renameat2 statx unlinkat utimensat";
    let is_in = |group: &str| group.split(' ').any(|one| one == name);
    if is_in(FIRST) { Some(0) } else { is_in(SECOND).then_some(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_a_group_is_one_of_a_call() {
        let groups = ERRORS.iter().map(|(group, _)| *group).chain(UNFAILING.iter().copied());
        for one in groups.flat_map(|group| group.split(' ')) {
            assert!(NAMES.iter().any(|(_, name)| name[4..] == *one), "{one}");
        }
        assert_eq!(name(257), "openat");
        assert_eq!((errors("mmap"), errors("mount")), (&[][..], &[Errno::EPERM][..]));
    }
}
