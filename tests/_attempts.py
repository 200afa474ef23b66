"""Escapes from the sandbox, one small program each: it prints ESCAPED where it got what it wanted.

A refusal may be an exception or the program's end.  ``{...}`` is filled in by the test: a file that must stay secret,
a folder outside, the tests' own process.
"""

from __future__ import annotations

#: Goes before every attempt.
HEAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(*numbers):
    found = libc.syscall(*(ctypes.c_long(n) for n in numbers))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
def escaped(*what):
    print("ESCAPED", *what, flush=True)
"""

NETWORK = {
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {port}), 1); escaped()",
    "tcp listening": "import socket; socket.create_server(('127.0.0.1', 0)); escaped()",
    "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9)); escaped()",
    "ipv6": "import socket; socket.socket(socket.AF_INET6); escaped()",
    "unix": "import socket; socket.socket(socket.AF_UNIX).connect({unix!r}); escaped()",
    "abstract unix": "import socket; socket.socket(socket.AF_UNIX).bind('\\0x'); escaped()",
    "raw": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); escaped()",
    "packet": "import socket; socket.socket(17, socket.SOCK_RAW); escaped()",
    "netlink": "import socket; socket.socket(16, socket.SOCK_RAW, 0); escaped()",
    "vsock": "import socket; socket.socket(40, socket.SOCK_STREAM); escaped()",
    "dns": "import socket; socket.gethostbyname('example.org'); escaped()",
}
WRITING = {
    "root": "open('/x', 'w'); escaped()",
    "usr": "open('/usr/lib/x', 'w'); escaped()",
    "etc": "os.mkdir('/etc'); escaped()",
    "interpreter": "open(os.__file__, 'a'); escaped()",
    "interpreter removed": "os.remove(os.__file__); escaped()",
    "outside": "open({outside!r} + '/x', 'w'); escaped()",
    "read-only mount": "open('/given/note', 'a'); escaped()",
    "read-only mount truncated": "os.truncate('/given/note', 0); escaped()",
    "read-only mount renamed": "os.rename('/given/note', '/given/other'); escaped()",
    "remount": "import ctypes as c\nif libc.mount(None, b'/given', None, 32 | 4096, None) == 0: escaped()",
    "shared memory": "open('/dev/shm/x', 'w'); escaped()",
    "device made": "os.mknod('/scratch/d', 0o600 | 0o20000, os.makedev(1, 1)); escaped()",
    "core pattern": "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); escaped()",
    "sysrq": "os.open('/proc/sysrq-trigger', os.O_WRONLY); escaped()",
    "oom score": "open('/proc/self/oom_score_adj', 'w').write('-1000'); escaped()",
    "processors": "os.open('/sys/devices/system/cpu/cpu1/online', os.O_WRONLY); escaped()",
    "xattr": "os.setxattr('/dev/null', 'user.x', b'x'); escaped()",
    "lease": "import fcntl; fcntl.fcntl(os.open(os.__file__, 0), 1024, fcntl.F_RDLCK); escaped()",
}
READING = {
    "home": "os.listdir({home!r}) and escaped()",
    "shadow": "open('/etc/shadow'); escaped()",
    "passwd": "open('/etc/passwd'); escaped()",
    "repository": "open({repository!r}); escaped()",
    "answer key": "open({secret!r}); escaped()",
    "answer key by ..": "open('../' * 20 + {secret!r}); escaped()",
    "parent's memory": "open('/proc/{parent}/mem', 'rb'); escaped()",
    "parent's environment": "open('/proc/{parent}/environ', 'rb'); escaped()",
    "environment of the first": "b'{token}' in open('/proc/1/environ', 'rb').read() and escaped()",
    "environment": "'{token}' in repr(os.environ) and escaped()",
    "command line": "open('/proc/1/cmdline'); escaped()",
    "mounts": "open('/proc/self/mountinfo'); escaped()",
    "root of the first": "os.listdir('/proc/1/root'); escaped()",
    "kernel's keys": "open('/proc/keys'); escaped()",
    "host name": "import socket; os.uname().nodename != 'sandbox' and escaped()",
    "file of the parent's": "os.pread({fd}, 9, 0); escaped()",
    "any open file": "[os.fstat(n) for n in range(3, 64) if not os.system('') or 1]; escaped()",
    "chroot": "os.chroot('/usr'); escaped()",
    "by handle": "call({open_by_handle_at}, -100, 0, 0); escaped()",
    "memory of the machine": "open('/dev/mem', 'rb'); escaped()",
    "log of the kernel": "open('/dev/kmsg', 'rb'); escaped()",
    "disk": "[open('/dev/' + n, 'rb') for n in ('vda', 'sda', 'nvme0n1')]; escaped()",
    "terminal": "open('/dev/tty'); escaped()",
}
PROCESSES = {
    "fork": "os.fork(); escaped()",
    "fork bomb": "while True: os.fork() and escaped()",
    "vfork": "call({vfork}); escaped()",
    "clone": "call({clone}, 17, 0, 0, 0, 0); escaped()",
    "clone in a new namespace": "call({clone}, 17 | 0x10000000, 0, 0, 0, 0); escaped()",
    "clone with shared memory": "call({clone}, 17 | 0x100, 0, 0, 0, 0); escaped()",
    "clone3": "b = ctypes.create_string_buffer(88); call(435, ctypes.addressof(b), 88); escaped()",
    "spawn": "os.posix_spawn(sys.executable, ['x', '-c', ''], {{}}); escaped()",
    "subprocess": "import subprocess; subprocess.run([sys.executable, '-c', '']); escaped()",
    "system": "os.system('true') == 0 and escaped()",
    "multiprocessing": "import multiprocessing as m; m.get_context('fork').Process(target=escaped).start(); escaped()",
    "terminal of its own": "os.forkpty(); escaped()",
    "daemon": "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); escaped()",
    "again without the filter": "os.execv(sys.executable, ['x', '-c', 'import os; os.fork(); print(\"ESCAPED\")'])",
    "signal to the parent": "os.kill({parent}, 0); escaped()",
    "signal to all": "os.kill(-1, 9); escaped()",
    "to outlive us": "libc.prctl(1, 0) == 0 and escaped()",
    "ptrace": "libc.ptrace(0, 0, 0, 0) == 0 and escaped()",
    "higher priority": "os.nice(-5); escaped()",
    "real-time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); escaped()",
    "more memory": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1)); escaped()",
    "more time": "import resource as r; r.setrlimit(r.RLIMIT_CPU, (999, 999)); escaped()",
    "limits of the parent": "import resource as r; r.prlimit({parent}, r.RLIMIT_CPU); escaped()",
}
#: Calls with arguments that the kernel would take from somebody who may, or turn away with another error.
KERNEL = {
    "unshare": (272, 97, 0x10000000),
    "unshare nothing": (272, 97, 0),
    "setns": (308, 268, 0, 0),
    "mount": (165, 40, 0, 0, 0, 0, 0),
    "umount": (166, 39, 0, 0),
    "pivot_root": (155, 41, 0, 0),
    "keyctl": (250, 219, 0, -3, 0),
    "add_key": (248, 217, 0, 0, 0, 0, -3),
    "bpf": (321, 280, 0, 0, 0),
    "perf_event_open": (298, 241, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 282, 1),
    "memfd_create": (319, 279, 0, 0),
    "shmget": (29, 194, 0, 4096, 0o1600),
    "msgget": (68, 186, 0, 0o1600),
    "semget": (64, 190, 0, 1, 0o1600),
    "process_vm_readv": (310, 270, 1, 0, 0, 0, 0, 0),
    "kexec_load": (246, 104, 0, 0, 0, 0),
    "init_module": (175, 105, 0, 0, 0),
    "reboot": (169, 142, 0, 0, 0, 0),
    "swapon": (167, 224, 0, 0),
    "syslog": (103, 116, 10, 0, 0),
    "settimeofday": (164, 170, 0, 0),
    "sethostname": (170, 161, 0, 0),
    "personality": (135, 92, 0),
    "fanotify_init": (300, 262, 0, 0),
    "io_setup": (206, 0, 0, 0),
    "io_uring_setup": (425, 425, 1, 0),
    "pidfd_open": (434, 434, 1, 0),
    "pidfd_getfd": (438, 438, 0, 0, 0),
    "open_tree": (428, 428, -100, 0, 0),
    "fsopen": (430, 430, 0, 0),
    "memfd_secret": (447, 447, 0),
    "x32 getpid": (0x40000000 + 39, 0x40000000 + 172),
    "x32 fork": (0x40000000 + 57, 0x40000000 + 57),
}
NUMBERS = {"vfork": (58, 220), "clone": (56, 220), "open_by_handle_at": (304, 265)}

#: Programs that end badly, and how: the status, and what they may not say.
ENDINGS = {
    "processor": ("while True: pass", "timeout"),
    "processor, deaf": ("import signal\nfor n in range(1, 30):\n try: signal.signal(n, 1)\n except OSError: pass\n"
                        "while True: pass", "timeout"),
    "sleep": ("import time; time.sleep(99)", "timeout"),
    "pause": ("import signal; signal.pause()", "timeout"),
    "silent sleep": ("import os, time; os.closerange(0, 3); time.sleep(99)", "timeout"),
    "no reader": ("import os, sys\nos.close(0)\nwhile True: pass", "timeout"),
    "regular expression": ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", "timeout"),
    "huge number": ("len(str(3 ** 10 ** 8))", "timeout memory"),
    "huge power": ("9 ** 9 ** 9 ** 9", "timeout memory"),
    "bytes": ("x = bytes(2 ** 40)", "memory"),
    "list": ("x = [0]\nwhile True: x += x", "memory"),
    "shared mapping": ("import mmap; x = mmap.mmap(-1, 2 ** 31)\nfor i in range(2 ** 31): x[i] = 1", "error memory"),
    "recursion": ("import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): repr(f())\nf()", "error memory timeout"),
    "nested data": ("x = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)", "error memory timeout"),
    "nested source": ("eval('(' * 10 ** 4)", "error memory"),
    "no memory at an address": ("import ctypes; ctypes.string_at(8)", "error"),
    "abort": ("import os; os.abort()", "error"),
    "stdout": ("import os\nwhile True: os.write(1, b'x' * 65536)", "output"),
    "stderr": ("import os\nwhile True: os.write(2, b'x' * 65536)", "output"),
    "a verdict of its own": ("print('{\"status\": \"ok\", \"value\": 1.0}'); raise SystemExit(3)", "error"),
    "the sign of life again": ("import os; os.write(1, b'R' * 9); os._exit(1)", "error"),
}  # fmt: skip
#: What lies in the scratch folder at the end.
LEAVING = {
    "link": "os.symlink('/etc/passwd', 'out/x')",
    "link to a folder": "os.symlink('/usr', 'out/x')",
    "another name": "open('a', 'w'); os.link('a', 'out/x')",
    "two names": "open('out/a', 'w'); os.link('out/a', 'out/b')",
    "pipe": "os.mkfifo('out/x')",
    "name with a line": "open('out/a\\nb', 'w')",
    "name with a colour": "open('out/\\x1b[31m', 'w')",
    "hidden": "open('out/.bashrc', 'w')",
    "option": "open('out/-rf', 'w')",
    "blank": "open('out/a b', 'w')",
    "letters of others": "open('out/\\u0430', 'w')",
    "no letters": "open(b'out/\\xff', 'w')",
    "long": "open('out/' + 'a' * 200, 'w')",
    "deep": "os.makedirs('out/a/b/c/d/e/f'); open('out/a/b/c/d/e/f/x', 'w')",
    "many": "[open(f'out/{i}', 'w') for i in range(20)]",
    "holes": "[os.truncate(os.open(f'out/{i}', 65), 2 ** 20) for i in range(6)]",
    "out is a link": "os.remove('out/fine'); os.rmdir('out'); os.symlink('/usr/lib', 'out')",
    "out is away": "os.remove('out/fine'); os.rmdir('out')",
    "out is a file": "os.remove('out/fine'); os.rmdir('out'); open('out', 'w')",
    "files without end": "i = 0\nwhile True: i += 1; os.close(os.open(f'tmp/{i}', 65))",
}
