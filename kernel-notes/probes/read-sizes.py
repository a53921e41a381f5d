# SPDX-License-Identifier: Apache-2.0
# How long READs are. See ../cachefiles-reads.md.
import os, subprocess
from collections import Counter
from cachefiles import *

size = 4 << 20
files = {name: noise(i, size) for i, name in enumerate(("cat", "dd4k", "dd1m", "random", "will", "big"))}
files |= {f"d/{i:04}-{'x' * 80}": b"x" for i in range(300)}
image = make_image(files)
s = Session(fresh("sizes"), {"z": image})
check("mounts", s.mount("fsid=z", "/mnt/a") == 0)
check("mount: one READ (0, 4096)", [(m.offset, m.size) for m in s.reads()] == [(0, 4096)])


def sizes(call, *args):
    s.log.clear()
    s.run(call, *args)
    return [m.size for m in s.reads()]


def command(*words):
    # Everything it needs is on the root filesystem: never run a program of the mount from here.
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def preads(path):
    fd = os.open(path, os.O_RDONLY)
    for offset in (1 << 20, 3 << 20, 2 << 20):
        os.pread(fd, 4096, offset)
    os.close(fd)


def willneed(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    os.close(fd)


got = sizes(command, "ls", "-lR", "/mnt/a")
check("ls -lR: metadata page by page", set(got) == {4096}, f"{len(got)} READs for {len(files)} files")
got = sizes(command, "cat", "/mnt/a/cat")
check("cat: 262144 each", Counter(got).most_common(1)[0][0] == 262144, got)
got = sizes(command, "dd", "if=/mnt/a/dd4k", "of=/dev/null", "bs=4k")
check("dd bs=4k: a ramp, then 131072", got[0] < 131072 and Counter(got).most_common(1)[0][0] == 131072, got[:6])
got = sizes(command, "dd", "if=/mnt/a/dd1m", "of=/dev/null", "bs=1M")
check("dd bs=1M: 131072", Counter(got).most_common(1)[0][0] == 131072, got[:6])
got = sizes(preads, "/mnt/a/random")
check("random pread(4096): 4096", got == [4096] * 3, got)
got = sizes(willneed, "/mnt/a/will")
check("FADV_WILLNEED of 4 MiB: only one READ of 131072", got == [131072], got)
bdi = f"/sys/class/bdi/{os.major(os.stat('/mnt/a').st_dev)}:{os.minor(os.stat('/mnt/a').st_dev)}"
bdi = bdi if os.path.exists(bdi) else next(f"/sys/class/bdi/{n}" for n in os.listdir("/sys/class/bdi") if n.startswith("erofs"))
with open(f"{bdi}/read_ahead_kb", "r+") as file:
    default = file.read().strip()
    file.write("16384")
check("default read_ahead_kb is 128", default == "128", f"{bdi}: {default}")
got = sizes(command, "cat", "/mnt/a/big")
check("read_ahead_kb 16384: the whole 4 MiB file in one READ or two", max(got) > 1 << 20, got)
s.umount("/mnt/a")
s.close()
finish()
