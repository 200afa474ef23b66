"""The one sandbox for code that is not ours: programs that models write, and training loops of entrants.

A Python program runs under bubblewrap (``bwrap``): user, process, network, IPC, host name and cgroup namespaces of its
own, no capabilities, nothing mounted but the interpreter and the system's libraries, read-only.  A seccomp filter
refuses new processes, sockets and whatever reaches into the kernel; limits of the kernel bound memory, time and sizes,
and this process watches the rest from outside and ends the namespace.  Where that cannot be had there is no sandbox:
``available`` says why, and there is no weaker mode.

Where the caller is root the kernel does not bound threads, and nowhere the number of files: both are looked at every
20 ms, and some hundred more may be there by then.  What the program says (stdout, files, exit status) is its own word:
verdicts are made outside.  The kernel itself, its bugs and its timing are not guarded against.
"""

from __future__ import annotations

import functools
import json
import marshal
import os
import platform
import re
import resource
import selectors
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from dream_envs.checks import check
from dream_envs.core import DreamEnvsError

#: ``refused``: it made more threads or files than it may, or what it left is no plain file.
Status = Literal["ok", "error", "timeout", "memory", "output", "refused"]
_WATCH_S = 0.02
_START_S = 10.0  # until the interpreter is there; not counted in ``wall_s``
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DEPTH = 4
_SCRATCH = "/scratch"
#: What torch and psutil ask about the machine.  There is no /proc beside: a program of root's could write to /proc/sys.
_ABOUT = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu")
_DEVICES = ("/dev/null", "/dev/urandom")
_CHUNK = 65_536

#: Ours, and the first that runs: it says that it is there, takes the limits on, and becomes the program.
_BOOT = """
import marshal, os, resource, sys
os.write(1, b"R")
def _take(n):
    data = b""
    while len(data) < n:
        data += os.read(0, n - len(data))
    return data
_source, _files, _limits, _scratch = marshal.loads(_take(int.from_bytes(_take(8), "little")))
if _scratch:
    os.chdir(_scratch)
    sys.path.insert(0, _scratch)
    for _name in ("tmp", "out"):
        os.mkdir(_name)
    for _name, _data in _files.items():
        os.makedirs(os.path.dirname(_name) or ".", exist_ok=True)
        with open(_name, "xb") as _file:
            _file.write(_data)
for _kind, _most, _grace in _limits:
    resource.setrlimit(_kind, (_most, _most + _grace))
sys.argv = ["program"]
exec(compile(_source, "program", "exec"), {"__name__": "__main__"})
"""

#: Refused calls, by their numbers on x86_64 and aarch64 (-1: there is none).
_REFUSED: dict[str, tuple[int, int]] = {
    "fork": (57, -1), "vfork": (58, -1), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "socket": (41, 198), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "memfd_create": (319, 279),
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "quotactl": (179, 60), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "iopl": (172, -1),
    "ioperm": (173, -1), "modify_ldt": (154, -1), "personality": (135, 92), "vhangup": (153, 58),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "io_setup": (206, 0), "io_submit": (209, 2),
    "mknod": (133, -1), "mknodat": (259, 33), "lookup_dcookie": (212, 18), "uselib": (134, -1),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
#: Calls that succeed and do nothing: root's program owns /dev/null, and copying a file changes modes and times.
_IDLE: dict[str, tuple[int, int]] = {
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, -1), "fchown": (93, 55),
    "lchown": (94, -1), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1),
    "utimensat": (280, 88),
}  # fmt: skip
#: From here on numbers are the same everywhere: pidfds, io_uring, the new mount calls, clone3; libc does without.
_FIRST_NEW = 424
_CLONE, _CLONE_THREAD, _SOCKETPAIR = (56, 220), 0x10000, (53, 199)
#: Calls of which some values of one argument are refused: numbers, the argument's place, the values.
_PARTLY: tuple[tuple[tuple[int, int], int, tuple[int, ...]], ...] = (
    ((157, 167), 0, (1,)),  # prctl, PR_SET_PDEATHSIG: to live on without us
    ((16, 29), 1, (0x5412, 0x541C)),  # ioctl, TIOCSTI and TIOCLINUX: to type into a terminal
    ((72, 25), 1, (1024,)),  # fcntl, F_SETLEASE: to hold up who writes to a file of root's
)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_ALLOW, _IDLE_0, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050000, 0x00050001, 0x00050026, 0x80000000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to; the status is this process's finding and never the program's word.

    But for one thing: whether a failed program ran out of memory is read from its last line, and sets ``memory`` apart
    from ``error``.  ``returncode``: 128 and the number of the signal that ended it.  ``files``: what lay in ``out/``.
    """

    status: Status
    returncode: int
    stdout: bytes
    stderr: bytes
    cpu_s: float
    wall_s: float
    files: dict[str, bytes] = {}
    detail: str = ""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a run.

    Args:
        memory_mb: address space; files in the scratch folder come on top.
        cpu_s: processor seconds of all threads, in whole seconds; who ignores the signal has one more.
        wall_s: seconds from the program's start.
        scratch_mb: a folder in memory to write to, the working directory; 0: nothing can be written anywhere.
        output_kb: of stdout and of stderr; a program that writes more is ended.
        files: the most that it may leave in ``out/``, each a plain file with a plain name.
        threads: for 1 no thread can be made; for more, four times as many and 16 are the limit.
        read_only: ``{path here: path inside}``.
        python_path: folders inside from which modules are imported; without any there is the standard library alone.
        environment: variables beyond the few that every run has.
    """

    memory_mb: int = 256
    cpu_s: int = 2
    wall_s: float = 5.0
    scratch_mb: int = 0
    output_kb: int = 64
    files: int = 64
    threads: int = 1
    read_only: Mapping[str, str] = {}
    python_path: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        for name, low, high in (("memory_mb", 64, 2**20), ("cpu_s", 1, 10**7), ("scratch_mb", 0, 2**18)):
            check(name, getattr(self, name), low, high, whole=True)
        for name, low, high in (("output_kb", 1, 2**16), ("files", 0, 10_000), ("threads", 1, 256)):
            check(name, getattr(self, name), low, high, whole=True)
        check("wall_s", self.wall_s, 0.1, 10**7)
        for host, inside in self.read_only.items():
            if not Path(host).exists():
                raise DreamEnvsError(f"read_only={host!r}: no such file or folder")
            if not inside.startswith("/") or ".." in inside.split("/"):
                raise DreamEnvsError(f"read_only={inside!r}: an absolute path inside of the sandbox")

    def run(
        self,
        source: str,
        *,
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        channel: tuple[int, ...] = (),
    ) -> Result:
        """Run a Python program with ``files`` in its scratch folder.

        ``channel``: open files that it inherits by their numbers, to talk with somebody while it runs.

        Raises:
            DreamEnvsError: where there is no sandbox, or for a file name that is none.
        """
        if reason := available():
            raise DreamEnvsError(reason)
        for name in files or {}:
            if not self.scratch_mb or not all(map(_NAME.fullmatch, name.split("/"))) or name.count("/") >= _DEPTH:
                raise DreamEnvsError(f"files={name!r:.80}: letters, digits, . _ - and a scratch_mb of 1 or more")
        return _Run(self, _which()).result(source, stdin, dict(files or {}), channel)


def available() -> str | None:
    """None where programs can be run; else the reason and the way out, in one line."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"sandbox: no sandbox on {sys.platform} {platform.machine()}: use Linux on x86_64 or aarch64"
    if not (path := _which()):
        return "sandbox: bubblewrap is not installed: apt install bubblewrap"
    return _tried(path)


def _which() -> str:
    return shutil.which("bwrap") or ""


@functools.cache
def _tried(path: str) -> str | None:
    try:
        found = _Run(Sandbox(wall_s=_START_S), path).result("print(1)", b"", {})
        why = "" if found.stdout == b"1\n" else found.detail or found.status
    except DreamEnvsError as error:
        why = str(error).removeprefix("sandbox: ")
    return f"sandbox: {why}: bubblewrap needs unprivileged user namespaces, allow them here" if why else None


def seccomp(machine: str, threads: bool) -> bytes:
    """The filter as classic BPF: ``struct sock_filter`` in a row."""
    column, arch = _MACHINES[machine]
    load, equal, at_least, has, end = 0x20, 0x15, 0x35, 0x45, 0x06
    lines: list[tuple[int, int, int, int]] = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, _KILL)]
    # x32 has numbers from 2**30 on, and so it is among the new ones
    lines += [(load, 0, 0, 0), (at_least, 0, 1, _FIRST_NEW), (end, 0, 0, _ENOSYS)]
    refused = {**_REFUSED, "socketpair": (-1, -1) if threads else _SOCKETPAIR}
    for table, answer in ((refused, _EPERM), (_IDLE, _IDLE_0)):
        for number in sorted({numbers[column] for numbers in table.values()} - {-1}):
            lines += [(equal, 0, 1, number), (end, 0, 0, answer)]
    # a new process is a clone that is no thread
    lines += [(equal, 0, 4, _CLONE[column]), (load, 0, 0, 16), (has, 0, 1, _CLONE_THREAD)]
    lines += [(end, 0, 0, _ALLOW if threads else _EPERM), (end, 0, 0, _EPERM)]
    for numbers, place, values in _PARTLY:
        lines += [(equal, 0, 2 + 2 * len(values), numbers[column]), (load, 0, 0, 16 + 8 * place)]
        for value in values:
            lines += [(equal, 0, 1, value), (end, 0, 0, _EPERM)]
        lines += [(end, 0, 0, _ALLOW)]
    lines += [(end, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


@functools.cache
def _interpreter() -> tuple[str, tuple[str, ...]]:
    """The interpreter inside, and the mounts that it needs."""
    mounts: list[str] = []
    for name in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        if os.path.islink(name):
            mounts += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            mounts += ["--ro-bind", name, name]
    base = Path(sys.base_prefix).resolve()
    python = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    if base == Path("/usr"):  # its library is mounted already
        return str(python), (*mounts, "--ro-bind", str(python), str(python))
    return f"/python/{python.relative_to(base)}", (*mounts, "--ro-bind", str(base), "/python")


class _Run:
    """One run: the child, its pipes, and what they said."""

    def __init__(self, limits: Sandbox, bwrap: str) -> None:
        self.limits, self.bwrap = limits, bwrap
        self.said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.status: Status | None = None
        self.detail = ""
        self.child = self.scratch = -1
        self.pid = 0
        self.started = time.monotonic()
        self.deadline = self.started + _START_S

    def command(self, seccomp_fd: int, info_fd: int) -> list[str]:
        """The command line of bubblewrap."""
        limits = self.limits
        python, mounts = _interpreter()
        words = [self.bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
        words += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--clearenv", *mounts]
        for name in _ABOUT if limits.threads > 1 else ():
            words += ["--ro-bind-try", name, name]
        for name in _DEVICES if limits.threads > 1 else ():
            words += ["--dev-bind", name, name]
        for host, inside in limits.read_only.items():
            words += ["--ro-bind", os.path.realpath(host), inside]
        if limits.scratch_mb:
            words += ["--size", str(limits.scratch_mb * 2**20), "--tmpfs", _SCRATCH]
            words += ["--symlink", f"{_SCRATCH}/tmp", "/tmp"]
        here = _SCRATCH if limits.scratch_mb else "/"
        variables = {"HOME": here, "USER": "nobody", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/python/lib"}
        variables |= {"OMP_NUM_THREADS": str(limits.threads), "MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0"}
        variables |= {"PYTHONPATH": ":".join(limits.python_path), **limits.environment}
        for name, value in variables.items():
            words += ["--setenv", name, value] if value else []
        words += ["--remount-ro", "/", "--seccomp", str(seccomp_fd), "--info-fd", str(info_fd), "--"]
        return [*words, python, "-PsSBu", "-c", _BOOT]  # isolated but for our own variables

    def result(self, source: str, stdin: bytes, files: dict[str, bytes], channel: tuple[int, ...] = ()) -> Result:
        """Start it, talk to it until it is dead, and look at what it left."""
        filter_fd = os.memfd_create("seccomp")
        info, info_end = os.pipe()
        try:
            os.write(filter_fd, seccomp(platform.machine(), self.limits.threads > 1))
            os.lseek(filter_fd, 0, os.SEEK_SET)
            child = subprocess.Popen(
                self.command(filter_fd, info_end), stdin=-1, stdout=-1, stderr=-1, env={}, bufsize=0,
                pass_fds=(filter_fd, info_end, *channel),
            )  # fmt: skip
            os.close(info_end)
            info_end = -1
            with child:
                try:
                    used = self._talk(child, info, self._header(source, files) + stdin)
                finally:
                    self._kill(child)
            files_out = self._collected() if self.limits.scratch_mb and self.status is None else {}
        finally:
            for fd in (filter_fd, info, info_end, self.child, self.scratch):
                if fd >= 0:
                    os.close(fd)
        return self._judged(child, used, files_out)

    def _header(self, source: str, files: dict[str, bytes]) -> bytes:
        limits, size = self.limits, max(1, self.limits.scratch_mb) * 2**20
        # a second behind its time it is killed, whatever it does with the signal that it gets before
        bounds = [(resource.RLIMIT_CPU, limits.cpu_s, 1), (resource.RLIMIT_AS, limits.memory_mb * 2**20, 0)]
        bounds += [(resource.RLIMIT_FSIZE, size, 0), (resource.RLIMIT_NOFILE, 256 if limits.threads > 1 else 32, 0)]
        bounds += [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_MEMLOCK, 0, 0), (resource.RLIMIT_MSGQUEUE, 0, 0)]
        bounds += [(resource.RLIMIT_NPROC, self._most_threads(), 0)]
        data = marshal.dumps((source, files, bounds, _SCRATCH if limits.scratch_mb else ""))
        return len(data).to_bytes(8, "little") + data

    def _most_threads(self) -> int:
        return 1 if self.limits.threads == 1 else 4 * self.limits.threads + 16

    def _talk(self, child: subprocess.Popen[bytes], info: int, feed: bytes) -> resource.struct_rusage:
        """Read and write until the child is dead; what it used."""
        assert child.stdin and child.stdout and child.stderr
        exits = os.pidfd_open(child.pid)
        pending = memoryview(feed)
        try:
            with selectors.DefaultSelector() as waiting:
                for pipe, name in ((child.stdout, "stdout"), (child.stderr, "stderr")):
                    os.set_blocking(pipe.fileno(), False)
                    waiting.register(pipe, selectors.EVENT_READ, name)
                waiting.register(exits, selectors.EVENT_READ, "exit")
                os.set_blocking(child.stdin.fileno(), False)
                while True:
                    ready = {key.data for key, _ in waiting.select(self._patience())}
                    for name in ("stdout", "stderr"):
                        if name in ready and not self._read(name, pipe := getattr(child, name)):
                            waiting.unregister(pipe)
                    if self.child < 0 and self.said["stdout"]:
                        self._has_started(info)
                        waiting.register(child.stdin, selectors.EVENT_WRITE, "stdin")
                    if "stdin" in ready and not (pending := self._feed(child.stdin, pending)):
                        waiting.unregister(child.stdin)
                        child.stdin.close()
                    if "exit" in ready:
                        break
                    self._watch()
                    if self.status:
                        self._kill(child)
                _, status, used = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
                for name in ("stdout", "stderr"):  # the child is dead: what is in the pipes is all there is
                    while self._read(name, getattr(child, name)):
                        pass
        finally:
            os.close(exits)
        return used

    def _patience(self) -> float:
        if self.status:
            return 1.0
        left = max(0.0, self.deadline - time.monotonic())
        return min(left, _WATCH_S) if self.limits.threads > 1 or self.limits.scratch_mb else left

    def _read(self, name: str, pipe: Any) -> bool:
        """Take what is there, up to the limit; False at the end."""
        said, most = self.said[name], self.limits.output_kb * 1024
        try:
            data = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        said += data[: max(0, most + 1 - len(said))]
        if len(said) > most and not self.status:
            self.status, self.detail = "output", f"more than {self.limits.output_kb} KiB on {name}"
        return bool(data)

    def _feed(self, pipe: Any, pending: memoryview) -> memoryview:
        try:
            return pending[os.write(pipe.fileno(), pending[:_CHUNK]) :]
        except BlockingIOError:
            return pending
        except BrokenPipeError:
            return pending[:0]

    def _has_started(self, info: int) -> None:
        """Nothing of the program has run yet: our own first lines wait for it."""
        del self.said["stdout"][:1]
        self.pid = json.loads(os.read(info, 4096))["child-pid"]
        self.child = os.pidfd_open(self.pid)
        if self.limits.scratch_mb:  # outlives the namespace, so that it is read when nothing in there moves any more
            self.scratch = os.open(f"/proc/{self.pid}/root{_SCRATCH}", os.O_PATH | os.O_DIRECTORY)
        self.started = time.monotonic()
        self.deadline = self.started + self.limits.wall_s

    def _watch(self) -> None:
        """What the kernel does not bound by itself."""
        if self.status:
            return
        if time.monotonic() >= self.deadline:
            self.status, self.detail = "timeout", f"more than {self.limits.wall_s:g} s"
        elif self.child >= 0 and self.scratch >= 0 and self._inodes() > 10 * self.limits.files + 1000:
            self.status, self.detail = "refused", "too many files"
        elif self.child >= 0 and self.limits.threads > 1 and self._threads() > self._most_threads():
            self.status, self.detail = "refused", f"more than {self._most_threads()} threads"

    def _inodes(self) -> int:
        found = os.fstatvfs(self.scratch)
        return found.f_files - found.f_ffree

    def _threads(self) -> int:
        try:
            return os.stat(f"/proc/{self.pid}/task").st_nlink - 2
        except FileNotFoundError:
            return 0

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """The first process of a namespace takes all of it along."""
        if child.returncode is not None:
            return
        try:
            if self.child >= 0:
                signal.pidfd_send_signal(self.child, signal.SIGKILL)
            else:
                child.kill()
        except ProcessLookupError:
            pass

    def _collected(self) -> dict[str, bytes]:
        """The plain files in ``out``, unless something else lies there."""
        files: dict[str, bytes] = {}
        left = self.limits.scratch_mb * 2**20
        try:
            for name, data in _plain_files(self.scratch, "out", "", left):
                files[name] = data
                left -= len(data)
                if len(files) > self.limits.files or left < 0:
                    raise _Odd(f"more than {self.limits.files} files or {self.limits.scratch_mb} MiB in out")
        except (_Odd, OSError) as odd:
            self.status, self.detail = "refused", str(odd)
            return {}
        return files

    def _judged(
        self, child: subprocess.Popen[bytes], used: resource.struct_rusage, files_out: dict[str, bytes]
    ) -> Result:
        stderr = bytes(self.said["stderr"])
        if self.child < 0:
            first = stderr.decode("utf-8", "replace").strip().partition("\n")[0] or "the interpreter did not start"
            raise DreamEnvsError(f"sandbox: {first[:200]}")
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        status, cpu_s = self.status, used.ru_utime + used.ru_stime
        if status is None and code == 0:
            status = "ok"
        elif status is None and (
            code == 128 + signal.SIGXCPU or (code == 128 + signal.SIGKILL and cpu_s >= self.limits.cpu_s)
        ):
            status, self.detail = "timeout", f"more than {self.limits.cpu_s} s of processor time"
        elif status is None:
            status = "memory" if code == 128 + signal.SIGKILL or _OUT_OF_MEMORY.search(stderr[-2000:]) else "error"
        most = self.limits.output_kb * 1024
        return Result(
            status=status, returncode=code, stdout=bytes(self.said["stdout"][:most]), stderr=stderr[:most],
            cpu_s=cpu_s, wall_s=time.monotonic() - self.started, files=files_out, detail=self.detail,
        )  # fmt: skip


_OUT_OF_MEMORY = re.compile(rb"MemoryError|[Cc]an't allocate memory|Cannot allocate memory")


class _Odd(Exception):
    """What lies in ``out`` is not what may lie there."""


def _plain_files(above: int, folder: str, prefix: str, most: int) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, by names that are checked and without following anything."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        for name in sorted(os.listdir(here)):
            path = prefix + name
            if not _NAME.fullmatch(name) or path.count("/") >= _DEPTH:
                raise _Odd(f"{path!a:.120} is no name of a file that may come out")
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield from _plain_files(here, name, path + "/", most)
            elif not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise _Odd(f"{path} is no plain file with one name")
            elif found.st_size > most:  # a file with holes is longer than what it takes
                raise _Odd(f"{path} is longer than the scratch folder")
            else:
                with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), "rb") as file:
                    yield path, file.read(found.st_size)
    finally:
        os.close(here)
