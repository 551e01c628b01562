/**
 * Writes deploy/seccomp/virtio-user.json: the system calls of the agent and of the IPAM plugins that it runs, as strace
 * counts them while an agent starts on a real OVS-DPDK, attaches and detaches pods, loses its switch, is asked by every
 * command and stops; together with a list of what other kernels, glibc's other paths and errors need.
 * `seccomp-profile.ts` prints what was seen and writes the profile; needs root, strace, the packages of the tests.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { Cleanup } from '../test/support/cleanup.ts';
import { Netns } from '../test/support/netns.ts';
import { Ovs } from '../test/support/ovs.ts';
import { Daemon, run, until } from '../test/support/process.ts';
import { hostLocal, newContainerId, Runtime } from '../test/support/runtime.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const target = join(root, 'deploy/seccomp/virtio-user.json');

/** Between runc's filter and our first instruction: what runc itself still calls. */
const runc =
  'execve execveat close close_range fcntl fstat fstatfs newfstatat futex getdents64 getpid getppid openat prctl read write capget capset setgid setgroups setuid exit_group';
/** Signals, threads, memory, time: whatever a libc may choose, whatever an error path needs. */
const everyProgram =
  'arch_prctl brk clock_getres clock_gettime clock_nanosleep clone clone3 exit futex_waitv getcpu getegid geteuid getgid getgroups getpgrp getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid kill madvise membarrier mincore mmap mprotect mremap munmap nanosleep pause pipe pipe2 prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getparam sched_getscheduler sched_yield set_robust_list get_robust_list set_tid_address setitimer sigaltstack sysinfo tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times tkill umask uname wait4 waitid getcwd chdir';
/** Files and events as libuv, glibc and the Go runtime may spell them. */
const files =
  'access chmod copy_file_range dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 faccessat faccessat2 fadvise64 fallocate fchmod fchmodat fchmodat2 fchown fchownat fdatasync flock fsync ftruncate getdents getxattr inotify_add_watch inotify_init1 inotify_rm_watch ioctl lgetxattr link linkat lseek lstat memfd_create mkdir mkdirat open openat2 pidfd_open poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 readlink readlinkat readv rename renameat renameat2 rmdir select sendfile stat statfs statx symlink symlinkat sync_file_range timerfd_create timerfd_gettime timerfd_settime truncate unlink unlinkat utimensat writev';
const sockets =
  'accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt shutdown socketpair';
/**
 * What is particular to this agent: it enters network namespaces, starts IPAM plugins in sessions of their own, gives
 * pods their frames by Linux AIO, asks for short turns on a shared core, and keeps off cores that are polled.
 */
const particular =
  'setns setsid vfork fork pidfd_send_signal setpgid io_setup io_submit io_getevents io_destroy sched_getattr sched_setattr sched_setaffinity';
const base = [runc, everyProgram, files, sockets, particular].join(' ').split(' ');

/** Tried by libuv, which does without; a large surface that runtimes' default profiles refuse too. */
const refused = ['io_uring_setup', 'io_uring_enter', 'io_uring_register'];

/** Allowed by family only. AF_UNIX 1: runtime, switch, backends. AF_INET 2, AF_INET6 10: API server, metrics. AF_NETLINK 16. */
const socketFamilies = [1, 2, 10, 16];

async function observed(): Promise<Set<string>> {
  const cleanup = new Cleanup();
  const directory = mkdtempSync('/run/vu-seccomp-');
  cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
  try {
    const ovs = await Ovs.start(join(directory, 'ovs'), { tso: true }, cleanup);
    const bridge = 'br-vu-seccomp';
    await ovs.addBridge(bridge);
    const counts = join(directory, 'counts');
    const socket = join(directory, 'run/agent.sock');
    const stateDir = join(directory, 'state');
    const main = join(root, 'dist/main.js');
    const health = '127.0.0.1:20973';
    const agent = new Daemon(
      'agent',
      'strace',
      [
        ...['-f', '-c', '-S', 'name', '-o', counts, process.execPath, main, 'agent', '--kubernetes=off'],
        ...[`--socket=${socket}`, `--state-dir=${stateDir}`, `--run-dir=${join(directory, 'run')}`],
        ...['--cni-bin-dir=/usr/lib/cni', `--metrics-address=${health}`, '--node-name=seccomp'],
        ...[`--ovsdb=${ovs.databaseRemote}`, '--vhost-group=0', '--hold-ms=100'],
      ],
      join(directory, 'agent.log'),
    );
    cleanup.add('agent', () => agent.stop('SIGTERM', 30_000));
    const get = async (path: string): Promise<boolean> =>
      fetch(`http://${health}${path}`).then(
        async (response) => (await response.text()) !== '' && response.ok,
        () => false,
      );
    await until('the agent to be ready', () => get('/readyz'), 60_000);
    const runtime = new Runtime({ VIRTIO_USER_AGENT_SOCKET: socket, VIRTIO_USER_STATE_DIR: stateDir });
    const netconf = {
      cniVersion: '1.0.0',
      name: 'seccomp-net',
      type: 'virtio-user',
      ovs: { bridge },
      device: { queues: 2 },
      ipam: hostLocal(directory, ['10.77.0.0/24', 'fd77::/64']),
    };
    const pods = [];
    for (const index of [1, 2]) {
      const netns = await Netns.create(`vu-seccomp-${index}`, cleanup);
      const call = { containerId: newContainerId(), netnsPath: netns.path };
      const result = await runtime.add(netconf, call);
      pods.push({ netns, call, result });
    }
    const [one, two] = pods;
    const address = two?.result.ips?.[0]?.address.split('/')[0] ?? '';
    const ping = async (): Promise<boolean> => (await one?.netns.runAny('ping', ['-c1', '-W1', address]))?.code === 0;
    await until('a ping', ping, 30_000);
    for (const { call, result } of pods) await runtime.check(netconf, call, result);
    await runtime.call('STATUS', netconf, null);
    await runtime.call('GC', netconf, null, {
      'cni.dev/valid-attachments': pods.map(({ call }) => ({ containerID: call.containerId, ifname: 'eth0' })),
    });
    const cli = (...args: string[]): Promise<string> =>
      run(process.execPath, [main, ...args, `--run-dir=${join(directory, 'run')}`]);
    await cli('attachments', 'list');
    await cli('gc');
    await get('/metrics');
    await ovs.killSwitch();
    await ovs.startSwitch();
    await until('a ping after the restart', ping, 60_000);
    for (const { call, result } of pods) await runtime.del(netconf, call, result);
    for (const { call } of pods) await runtime.del(netconf, { ...call, netnsPath: '' });
    // strace, told to end, would let go and count nothing: the agent itself is told.
    const traced = readFileSync(`/proc/${agent.pid}/task/${agent.pid}/children`, 'utf8').trim();
    process.kill(Number(traced), 'SIGTERM');
    await until('the agent to stop', () => !agent.alive, 30_000);
    const names = readFileSync(counts, 'utf8')
      .split('\n')
      .map((line) => /^\s*[\d.]+\s+[\d.]+\s+\d+\s+\d+\s+(?:\d+\s+)?([a-z0-9_]+)$/.exec(line)?.[1])
      .filter((name) => name !== undefined && name !== 'total');
    return new Set(names as string[]);
  } finally {
    await cleanup.run();
  }
}

const seen = await observed();
// The filter on its first argument is below.
for (const name of ['socket', ...refused]) seen.delete(name);
const names = [...new Set([...base, ...seen])].sort();
const profile = {
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrnoRet: 1,
  architectures: ['SCMP_ARCH_X86_64'],
  syscalls: [
    { names, action: 'SCMP_ACT_ALLOW' },
    ...socketFamilies.map((value) => ({
      names: ['socket'],
      action: 'SCMP_ACT_ALLOW',
      args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }],
    })),
  ],
};
writeFileSync(target, await format(JSON.stringify(profile), { ...(await resolveConfig(target)), filepath: target }));
const added = [...seen].filter((name) => !base.includes(name)).sort();
process.stdout.write(
  `${seen.size} system calls seen, ${added.length} of them not in the base list: ${added.join(' ')}\n` +
    `${names.length} allowed, and sockets of ${socketFamilies.length} families\n`,
);
