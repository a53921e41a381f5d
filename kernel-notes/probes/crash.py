# SPDX-License-Identifier: Apache-2.0
# The daemon dies: alone, and with the device fd held by another. See ../cachefiles-crash-and-restore.md.
import os, time
from cachefiles import *

data = noise(11, 1 << 20)
image = make_image({"file": data})
images = {"a": image, "b": image}


def pread(path, offset):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 4096, offset)
    finally:
        os.close(fd)


def start_daemon(fd=None, deaf_to=()):
    """A daemon in a process of its own, that reads the messages of offsets in `deaf_to` and sleeps on them."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        s = Session(directory, images, fd=fd)
        s.on_read = lambda m: None if m.offset >= 524288 and deaf_to else s.answer_read(m)
        os.write(tell, b"x")
        s.serve(lambda: False, 60)
        os._exit(0)
    os.read(ready, 1)
    return pid


def kill(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)


# (a) Nobody else holds the device.
directory = fresh("crash-a")
daemon = start_daemon(deaf_to=True)
check("mounts", Job(mount, "fsid=a", "/mnt/a").join(10) is None and os.path.ismount("/mnt/a"))
check("reads", pread("/mnt/a/file", 0) == data[:4096])
waiting = Job(pread, "/mnt/a/file", 786432)
time.sleep(0.5)
began = time.monotonic()
kill(daemon)
waiting.join(10)
check("alone and killed: a waiting reader fails at once", waiting.done and waiting.value in ("EIO", "ENOBUFS"), f"{waiting.value}, {time.monotonic() - began:.2f} s")
drop_caches()
got = outcome(pread, "/mnt/a/file", 0)
check("cached data can no longer be read", got in ("EIO", "ENOBUFS"), got)
daemon = start_daemon()
got = outcome(pread, "/mnt/a/file", 262144)
check("a new daemon binds at once, but the old mount stays dead", got in ("EIO", "ENOBUFS"), got)
umount("/mnt/a")
job = Job(mount, "fsid=a", "/mnt/a")
job.join(10)
check("umount and mount restores it", job.value == 0 and pread("/mnt/a/file", 0) == data[:4096])
umount("/mnt/a")
kill(daemon)

# (b) This process keeps the device fd. (Only this one: the child's copy is inherited.)
directory = fresh("crash-b")
device = open_device()
for command in (f"dir {directory}", "tag probe", "bind ondemand"):
    os.write(device, command.encode())
daemon = start_daemon(device, deaf_to=True)
Job(mount, "fsid=b", "/mnt/b").join(10)
check("device fd held by another: reads", pread("/mnt/b/file", 0) == data[:4096])
waiting = Job(pread, "/mnt/b/file", 786432)
time.sleep(0.5)
kill(daemon)
drop_caches()
got = outcome(pread, "/mnt/b/file", 0)
check("daemon killed: cached data is still served", got == data[:4096], got if isinstance(got, str) else "")
check("... the waiting reader goes on waiting", not waiting.done)

s = Session(directory, images, fd=device)
check("without restore the delivered READ does not come again", not s.serve(lambda: waiting.done, 1.5) and s.reads() == [], [(m.opcode, m.msg_id) for m in s.log])
check("restore", isinstance(s.command("restore"), int))
check("after restore it does, after a re-OPEN", s.serve(lambda: waiting.done, 10) and waiting.value == data[786432 : 786432 + 4096])
check("... in that order", [m.opcode for m in s.log][:2] == [OPEN, READ], [(m.opcode, m.msg_id, m.object_id) for m in s.log])
reopened = s.opens()[0].object_id

# A live object's fd is closed: the next READ re-OPENs.
s.log.clear()
s.close_object(reopened)
got = s.run(pread, "/mnt/b/file", 0)
check("fd closed while mounted: cached data needs nothing", got == data[:4096] and s.log == [])
got = s.run(pread, "/mnt/b/file", 393216)
check("... the next uncached READ comes after a re-OPEN with a new object_id", got == data[393216 : 393216 + 4096] and [m.opcode for m in s.log][:2] == [OPEN, READ] and s.opens()[0].object_id != reopened)

# A refused re-OPEN is sent again for as long as a READ waits.
s.close_object(s.opens()[0].object_id)
s.log.clear()


def refuse_twice(m):
    if len(s.opens()) < 3:
        s.copen(m, -5)
    else:
        s.on_open = s.answer_open
        s.answer(m)


s.on_open = refuse_twice
got = s.run(pread, "/mnt/b/file", 131072)
check("a refused re-OPEN comes again at once", got == data[131072 : 131072 + 4096] and len(s.opens()) == 3, len(s.opens()))
s.umount("/mnt/b")

# `restore` while an OPEN is unanswered and its fd still lives (here: in this process).
s.log.clear()
held = []
s.on_open = held.append
job = Job(mount, "fsid=b", "/mnt/b")
s.serve(lambda: held, 10)
s.command("restore")
got = outcome(s.receive)
check("restore with an unanswered OPEN whose fd lives: read() EEXIST", got == "EEXIST", got)
s.serve(lambda: job.done, 5)
check("... and that OPEN is failed", job.value in ("EIO", "ENOBUFS"), job.value)
check("... its fd must still be closed; late copen: EINVAL", outcome(s.command, f"copen {held[0].msg_id},4096") == "EINVAL")
os.close(held[0].fd)
s.on_open = s.answer_open
check("the next mount works", s.mount("fsid=b", "/mnt/b") == 0)
s.umount("/mnt/b")
s.close()
finish()
