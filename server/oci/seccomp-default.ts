import type { SeccompProfile, SeccompRule } from './spec.ts';

/** What any program may need, grouped as in the kernel's own directories. Names of 64-bit architectures; those that a machine does not have are left out by libseccomp. */
const ALLOWED = {
  files: `
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir fchmod
    fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr file_setattr flistxattr flock fremovexattr fsetxattr fstat
    fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat ioctl lchown lgetxattr link linkat listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat
    renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs
    tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev`,
  events: `
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pipe pipe2 poll ppoll pselect6 select
    signalfd signalfd4`,
  memory: `
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect mremap mseal
    msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages`,
  processes: `
    arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups
    getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill
    modify_ldt pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
    setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill times tkill uretprobe
    vfork wait4 waitid`,
  security: `
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr seccomp`,
  synchronization: `
    futex futex_requeue futex_wait futex_waitv futex_wake mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl
    msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget`,
  sockets: `
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt
    shutdown socketpair`,
  system: `
    getrandom restart_syscall sysinfo uname`,
  time: `
    adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause setitimer time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime`,
  architectures: `
    riscv_flush_icache riscv_hwprobe s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr swapcontext switch_endian sys_debug_setcontext`,
} as const;

/** Allowed to who holds the capability that the kernel asks for anyway; without it they are a larger target for nothing. */
const ALLOWED_WITH: Readonly<Record<string, string>> = {
  CAP_SYS_ADMIN: `
    bpf clone3 fanotify_init fsconfig fsmount fsopen fspick listmount listns mount mount_setattr move_mount open_tree open_tree_attr
    perf_event_open quotactl quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare`,
  CAP_BPF: 'bpf',
  CAP_PERFMON: 'perf_event_open',
  CAP_DAC_READ_SEARCH: 'open_by_handle_at',
  CAP_SYS_BOOT: 'reboot',
  CAP_SYS_CHROOT: 'chroot',
  CAP_SYS_MODULE: 'delete_module finit_module init_module',
  CAP_SYS_NICE: 'get_mempolicy mbind set_mempolicy set_mempolicy_home_node',
  CAP_SYS_PACCT: 'acct',
  CAP_SYS_PTRACE: 'kcmp pidfd_getfd process_madvise',
  CAP_SYS_RAWIO: 'ioperm iopl',
  CAP_SYS_TIME: 'clock_settime settimeofday',
  CAP_SYS_TTY_CONFIG: 'vhangup',
  CAP_SYSLOG: 'syslog',
};

/** Known and never allowed: keys and io_uring pass namespaces by, userfaultfd and the page movers help exploits, the rest is the host's or history. */
const REFUSED = `
  add_key io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lookup_dcookie migrate_pages move_pages
  nfsservctl pivot_root request_key swapoff swapon sysfs uselib userfaultfd ustat`;

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. Source: linux/sched.h. */
const CLONE_NEW_FLAGS = 0x7e02_0000;

/** Source: linux/socket.h. A guest's socket to its hypervisor belongs to no network namespace. */
const AF_VSOCK = 40;

/** PER_LINUX, PER_LINUX32, both with UNAME26, and "tell me". Source: linux/personality.h. */
const PERSONALITIES = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/**
 * The built-in profile for RuntimeDefault: a list of what is allowed, cut to the container's capabilities.
 *
 * What no list names answers ENOSYS, not EPERM: a C library that tries a new system call (fchmodat2, clone3) falls
 * back on ENOSYS alone. What is known and refused answers EPERM, which says why.
 *
 * Only the machine's own architecture is listed, since libseccomp compiles the list once more for each: crun's create
 * takes 2 ms longer with one and 13 ms longer with the three of x86 (7.3 ms without a filter, measured with crun 1.8).
 * A 32-bit program is killed under it; it needs a profile of its own or Unconfined.
 */
export function defaultSeccompProfile(architecture: string, capabilities: readonly string[]): SeccompProfile {
  const conditional = Object.entries(ALLOWED_WITH);
  const granted = new Set(conditional.flatMap(([capability, names]) => (capabilities.includes(capability) ? words(names) : [])));
  // clone3 hides its flags in memory where a filter cannot look: it must seem not to be there, then clone is used.
  const refused = [...words(REFUSED), ...conditional.flatMap(([, names]) => words(names))].filter((name) => !granted.has(name) && name !== 'clone3');
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: ENOSYS,
    architectures: architecture === '' ? [] : [architecture],
    syscalls: [
      { names: [...Object.values(ALLOWED).flatMap(words), ...granted], action: 'SCMP_ACT_ALLOW' },
      { names: [...new Set(refused)], action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
      cloneRule(architecture, capabilities.includes('CAP_SYS_ADMIN')),
      { names: ['socket'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value: AF_VSOCK, op: 'SCMP_CMP_NE' }] },
      { names: ['socket'], action: 'SCMP_ACT_ERRNO', errnoRet: EAFNOSUPPORT, args: [{ index: 0, value: AF_VSOCK, op: 'SCMP_CMP_EQ' }] },
      ...PERSONALITIES.map((value): SeccompRule => ({ names: ['personality'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }] })),
    ],
  };
}

/** New namespaces, a user namespace above all, open most of the kernel to who is nobody outside. */
function cloneRule(architecture: string, mayUnshare: boolean): SeccompRule {
  const rule = { names: ['clone'], action: 'SCMP_ACT_ALLOW' };
  if (mayUnshare) return rule;
  // s390 alone has the flags second. Source: clone(2).
  const index = architecture === 'SCMP_ARCH_S390X' ? 1 : 0;
  return { ...rule, args: [{ index, value: CLONE_NEW_FLAGS, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }] };
}

function words(text: string): string[] {
  return text.trim().split(/\s+/);
}
