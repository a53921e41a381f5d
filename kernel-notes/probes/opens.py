# SPDX-License-Identifier: Apache-2.0
# Answers to OPEN. See ../cachefiles-opens-and-closes.md.
import os, time
from cachefiles import *

image = make_image({"file": noise(3, 9000)})
s = Session(fresh("opens"), {k: image for k in ("a", "b", "c", "d", "e", "f", "g", "dup", "yy", "one", "two", "big", "small")})


def next_open(options, target):
    """Starts a mount and returns its job and its unanswered OPEN."""
    got = []
    s.on_open = got.append
    job = Job(mount, options, target)
    s.serve(lambda: got, 10)
    s.on_open = s.answer_open
    return job, got[0]


def copen(text):
    return outcome(s.command, text)


def end(job):
    s.serve(lambda: job.done, 20)
    return job.value if job.done else "blocked"


failed = ("ENOBUFS", "EIO")
seen = []
for number in (1, 2, 5, 12, 13, 22, 28, 110, 4095):
    job, m = next_open("fsid=a", "/mnt/a")
    copen(f"copen {m.msg_id},{-number}")
    os.close(m.fd)
    seen.append(end(job))
check("copen -1..-4095: mount(2) is ENOBUFS or EIO, never that errno", all(x in failed for x in seen), seen)
check("no CLOSE follows a refused OPEN", all(m.opcode != CLOSE for m in s.log))

job, m = next_open("fsid=a", "/mnt/a")
check("copen -4096: EINVAL", copen(f"copen {m.msg_id},-4096") == "EINVAL")
os.close(m.fd)
check("... and the OPEN is failed", end(job) in failed)

for text in ("12 ", " 12", "12,3", "x", "", "99999999999999999999"):
    job, m = next_open("fsid=a", "/mnt/a")
    got = copen(f"copen {m.msg_id},{text}")
    os.close(m.fd)
    ended = end(job)
    check(f"copen size {text!r}: {got}, and the OPEN is failed", got in ("EINVAL", "ERANGE") and ended in failed, ended)

job, m = next_open("fsid=a", "/mnt/a")
harmless = [copen(x) for x in ("copen 4000000,4096", "copen x,4096", f"copen {m.msg_id}", "copen")]
check("unknown id, bad id, no size: EINVAL", harmless == ["EINVAL"] * 4, harmless)
check("... harmless: the OPEN still waits", not job.done)
s.open_fds[m.object_id], s.keys[m.object_id] = m.fd, m.key
check("copen with a trailing newline and hex", isinstance(copen(f"copen {m.msg_id},{len(image):#x}\n"), int))
check("... mounts", end(job) == 0)
check("answered a second time: EINVAL", copen(f"copen {m.msg_id},4096") == "EINVAL")
s.umount("/mnt/a")

for key, size in (("small", 4096), ("big", 1 << 40)):
    job, m = next_open(f"fsid={key}", "/mnt/a")
    s.copen(m, size)
    mounted = end(job)
    same = s.run(read_file, "/mnt/a/file") == noise(3, 9000)
    check(f"copen size {size} for an image of {len(image)}: mounts and reads right", mounted == 0 and same, mounted)
    s.umount("/mnt/a")

job, m = next_open("fsid=b", "/mnt/b")
os.close(m.fd)
check("fd closed before copen: copen is taken, the OPEN fails", isinstance(copen(f"copen {m.msg_id},4096"), int) and end(job) in failed)

job, m = next_open("fsid=c", "/mnt/c")
copen(f"copen {m.msg_id},-2")
end(job)
again = Job(mount, "fsid=c", "/mnt/c")
check("fd kept after a refusal: the next mount of the key hangs", not s.serve(lambda: again.done, 2))
os.close(m.fd)
check("... until it is closed", end(again) == 0, again.value)
s.umount("/mnt/c")

job, m = next_open("fsid=d", "/mnt/d")
pid = os.fork()
if pid == 0:
    # A process of its own, to be killed while it waits for its OPEN.
    outcome(mount, "fsid=e", "/mnt/e")
    os._exit(0)
got = []
s.on_open = got.append
s.serve(lambda: got, 10)
os.kill(pid, 9)
time.sleep(1)
with open(f"/proc/{pid}/stat") as file:
    state = file.read().rsplit(")", 1)[1].split()[0]
check("OPEN unanswered: the mounter is in D, SIGKILL has no effect", state == "D", state)
s.on_open = s.answer_open
s.answer(got[0])
s.answer(m)
gone = lambda: os.waitpid(pid, os.WNOHANG)[0] != 0
check("... and dies when the OPEN is answered", s.serve(gone, 10))
check("a late answer (after >1 s) still mounts", end(job) == 0)
s.umount("/mnt/d")

os.makedirs("/mnt/2", exist_ok=True)
check("fsid=dup", s.mount("fsid=dup", "/mnt/1") == 0)
got = s.mount("fsid=dup", "/mnt/2")
check("the same fsid again, no domain: EBUSY", got == "EBUSY", got)
check("fsid=one,domain_id=D1", s.mount("fsid=one,domain_id=D1", "/mnt/3") == 0)
got = s.mount("fsid=one,domain_id=D1", "/mnt/2")
check("the same fsid in the same domain: EEXIST", got == "EEXIST", got)
check("the same fsid in another domain: works", s.mount("fsid=one,domain_id=D2", "/mnt/4") == 0)
got = s.mount("fsid=D1", "/mnt/2")
check("fsid=D1 while domain_id=D1 lives: EBUSY", got == "EBUSY", got)
for n in "134":
    s.umount(f"/mnt/{n}")
s.umount("/mnt/1")
s.close()
finish()
