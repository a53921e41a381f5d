# SPDX-License-Identifier: Apache-2.0
# cull, inuse, too little space. See ../cachefiles-space-and-culling.md. Needs a disk of its own.
import os, select, subprocess
from cachefiles import *

image = make_image({"file": noise(12, 4 << 20)})
subprocess.run("truncate -s 64M /tmp/small && mkfs.ext4 -q -m0 -F /tmp/small && mkdir -p /mnt/small && mount $(losetup --show -f /tmp/small) /mnt/small", shell=True, check=True)
root = "/mnt/small/cache"
s = Session(root, {"a": image, "b": image, "c": image}, limits=("brun 40%", "bcull 30%", "bstop 20%"))
check("mounts a", s.mount("fsid=a,domain_id=d", "/mnt/a") == 0)
s.run(read_file, "/mnt/a/file")
s.umount("/mnt/a")
path = next(f"{d}/{n}" for d, _, names in os.walk(f"{root}/cache") for n in names)
fan, name = os.path.split(path)
command = lambda text: outcome(s.command, text)

check("inuse/cull look in the cwd: ENOENT from /", command(f"inuse {name}") == "ENOENT")
check("a name with '/': EINVAL", command(f"cull {fan}/{name}") == "EINVAL")
os.chdir(fan)
check("inuse of an idle file: 0", isinstance(command(f"inuse {name}"), int))
s.mount("fsid=a,domain_id=d", "/mnt/a")
check("inuse of a mounted one: EBUSY", command(f"inuse {name}") == "EBUSY")
check("cull of a mounted one: EBUSY", command(f"cull {name}") == "EBUSY")
s.umount("/mnt/a")
got = command(f"cull {name}")
check("cull of an idle one unlinks it", isinstance(got, int) and not os.path.exists(path), got)
check("cull of nothing: ENOENT", command(f"cull {name}") == "ENOENT")
os.makedirs("/tmp/elsewhere", exist_ok=True)
with open("/tmp/elsewhere/victim", "w"):
    pass
os.chdir("/tmp/elsewhere")
check("cull does not look whether the cwd is in the cache", isinstance(command("cull victim"), int) and not os.path.exists("victim"))
os.chdir("/")

# Below bstop.
check("mounts b", s.mount("fsid=b,domain_id=d", "/mnt/b") == 0)
free = lambda: (lambda v: v.f_bavail * 100 / v.f_blocks)(os.statvfs(root))
with open("/mnt/small/filler", "wb") as file:
    while free() > 15:
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
b = s.opens()[-1].object_id
got = outcome(os.pwrite, s.open_fds[b], aligned(image[:65536]), 1 << 20)
check("below bstop: pwrite ENOBUFS", got == "ENOBUFS", f"{free():.0f}% free, {got}")
check("... while lseek(SEEK_END) still works", isinstance(outcome(os.lseek, s.open_fds[b], 0, os.SEEK_END), int))
poll = select.poll()
poll.register(s.fd, select.POLLIN | select.POLLOUT)
check("EPOLLOUT says that space is low", any(e & select.POLLOUT for _, e in poll.poll(500)))
s.on_read = lambda m: s.complete(m)
got = s.run(read_file, "/mnt/b/file")
check("a READ completed without data: EIO, no hang", got == "EIO", got)
s.on_read = s.answer_read
s.log.clear()
got = s.mount("fsid=c,domain_id=d", "/mnt/c")
check("a new object: mount ENOBUFS, no OPEN", got == "ENOBUFS" and s.opens() == [], (got, len(s.opens())))
os.unlink("/mnt/small/filler")
os.sync()
check("with space again: works", s.run(read_file, "/mnt/b/file") == noise(12, 4 << 20))
s.umount("/mnt/b")
s.close()
umount("/mnt/small", 2)
finish()
