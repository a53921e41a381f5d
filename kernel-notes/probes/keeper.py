# SPDX-License-Identifier: Apache-2.0
# The keeper with a real kernel: the daemon dies, nobody waits for ever, the next one goes on.
# See ../cachefiles-crash-and-restore.md and native/keeper/.
import os, socket, subprocess, time
from cachefiles import *

KEEPER = os.path.join(os.path.dirname(__file__), "../../native/build/Release/erofsd-keeper")
SOCKET = "/run/keeper.sock"
GRACE_SECONDS = 2

data = noise(21, 1 << 20)
image = make_image({"file": data})
images = {"a": image, "b": image}


def pread(path, offset):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 4096, offset)
    finally:
        os.close(fd)


def start_keeper(device):
    command = [KEEPER, "--socket", SOCKET, "--device-fd", str(device), "--grace-seconds", str(GRACE_SECONDS)]
    keeper = subprocess.Popen(command, pass_fds=[device], stdout=subprocess.PIPE)
    assert keeper.stdout.readline() == b"ready\n"
    return keeper


def tell(text):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(SOCKET)
    peer.sendall(text)
    return peer


def take():
    _, fds, _, _ = socket.recv_fds(tell(b"take\n"), 16, 1)
    return fds[0]


def start_daemon(device):
    """A daemon that leaves READs of the second half unanswered. It tells how many objects it has."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        link = tell(b"watch\n")
        s = Session(directory, images, fd=device)
        s.on_read = lambda m: None if m.offset >= 524288 else s.answer_read(m)

        def on_open(m):
            s.answer_open(m)
            link.sendall(b"objects %d\n" % len(s.open_fds))

        s.on_open = on_open
        os.write(say, b"x")
        s.serve(lambda: False, 60)
        os._exit(0)
    os.read(ready, 1)
    return pid


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


directory = fresh("keeper")
device = open_device()
for command in (f"dir {directory}", "tag probe", "bind ondemand"):
    os.write(device, command.encode())
keeper = start_keeper(device)
daemon = start_daemon(device)
os.close(device)
check("mounts", Job(mount, "fsid=a", "/mnt/a").join(10) is None and os.path.ismount("/mnt/a"))
check("reads", pread("/mnt/a/file", 0) == data[:4096])
waiting = [Job(pread, "/mnt/a/file", offset) for offset in (786432, 917504)]
time.sleep(0.5)
os.kill(daemon, 9)
os.waitpid(daemon, 0)
time.sleep(0.5)
check("within the grace period the readers wait", not any(job.done for job in waiting))
began = time.monotonic()
for job in waiting:
    job.join(10)
check("after it they get EIO", [job.value for job in waiting] == ["EIO", "EIO"], ([job.value for job in waiting], f"{time.monotonic() - began:.1f} s"))
got = Job(pread, "/mnt/a/file", 262144)
got.join(10)
check("a later reader of uncached data does too", got.value == "EIO", got.value)
drop_caches()
got = outcome(pread, "/mnt/a/file", 0)
check("cached data is served", got == data[:4096])
fresh_mount = Job(mount, "fsid=b", "/mnt/b")
fresh_mount.join(10)
check("a fresh mount fails", fresh_mount.done and isinstance(fresh_mount.value, str), fresh_mount.value)
used = cpu_seconds(keeper.pid)
time.sleep(2)
check("it is not busy", cpu_seconds(keeper.pid) - used < 0.3 and used < 1, (used, cpu_seconds(keeper.pid)))
rss = [line.split()[1] for line in open(f"/proc/{keeper.pid}/status") if line.startswith("VmRSS")]
check("it takes at most 2 MB", int(rss[0]) <= 2048, f"{rss[0]} kB")

# The next daemon.
device = take()
link = tell(b"watch\nobjects 1\n")
s = Session(directory, images, fd=device)
s.command("restore")
check("a new daemon reads the same places right", s.run(pread, "/mnt/a/file", 786432) == data[786432:790528])
check("... and others", s.run(pread, "/mnt/a/file", 393216) == data[393216:397312])
check("... and mounts", s.mount("fsid=b", "/mnt/b") == 0 and s.run(pread, "/mnt/b/file", 0) == data[:4096])
s.umount("/mnt/b")
check("the keeper goes on", keeper.poll() is None)

# It dies with a mount that is idle; its unmounting is the end of the keeper.
s.close()
link.close()
time.sleep(GRACE_SECONDS + 0.5)
check("with a mount the keeper stays", keeper.poll() is None)
umount("/mnt/a")
try:
    keeper.wait(10)
except subprocess.TimeoutExpired:
    pass
check("without one it ends and removes its socket", keeper.poll() == 0 and not os.path.exists(SOCKET), open("/proc/fs/fscache/caches").read())
os.close(open_device())
finish()
