# SPDX-License-Identifier: Apache-2.0
# Answers to READ. See ../cachefiles-reads.md.
import fcntl, os, signal, time
from cachefiles import *

data = noise(6, 1 << 20)
image = make_image({"file": data})
s = Session(fresh("reads"), {"r": image, "ahead": image})
check("mounts", s.mount("fsid=r", "/mnt/a") == 0)
object_id = s.opens()[0].object_id
s.run(os.stat, "/mnt/a/file")


def pread(size, offset, path="/mnt/a/file"):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


# No error reply: completed without data, the kernel asks again and gives up.
fail = lambda m: s.complete(m)
for size, offset in ((4096, 0), (4096, 512 * 1024), (131072, 655360)):
    s.log.clear()
    s.on_read = fail
    start = time.monotonic()
    got = s.run(pread, size, offset)
    took = time.monotonic() - start
    sizes = [m.size for m in s.reads()]
    check(f"READ_COMPLETE without data, pread({size}): EIO", got == "EIO", f"{got}, READs {sizes}, {took * 1000:.0f} ms")
    if size == 4096:
        check("... after 2 READs", len(sizes) == 2, sizes)
s.on_read = s.answer_read
got = s.run(pread, 4096, 0)
check("a later read asks again and gets the data", got == data[:4096])

# Wrong answers.
seen = []


def meddle(m):
    fd = s.open_fds[m.object_id]
    s.answer_read(m)
    seen.append(outcome(fcntl.ioctl, fd, READ_COMPLETE, m.msg_id))
    seen.append(outcome(fcntl.ioctl, fd, READ_COMPLETE, 999999))


s.on_read = meddle
s.run(pread, 4096, 262144)
check("READ_COMPLETE twice, or with an unknown id: EINVAL", set(seen) == {"EINVAL"}, seen)

# Partial answers.
def first_block(m):
    image = s.images["r"]
    s.write(m.object_id, m.offset, image[m.offset : m.offset + 4096])
    s.complete(m)


s.log.clear()
s.on_read = first_block
got = s.run(pread, 32768, 786432)
check("only the first block written: the rest is asked for again", got == data[786432 : 786432 + 32768] and len(s.reads()) > 1, [m.size for m in s.reads()])

# A waiting reader can be killed.
held = []
s.on_read = held.append
pid = os.fork()
if pid == 0:
    outcome(pread, 4096, 917504)
    os._exit(0)
s.serve(lambda: held, 10)
with open(f"/proc/{pid}/stat") as file:
    state = file.read().rsplit(")", 1)[1].split()[0]
start = time.monotonic()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
check("a reader waiting for its READ is in D, but SIGKILL ends it", state == "D" and time.monotonic() - start < 2, f"{time.monotonic() - start:.3f} s")
seen = outcome(s.complete, held[0])
check("the late READ_COMPLETE: EINVAL", seen == "EINVAL", seen)
s.on_read = s.answer_read
check("the range is asked for again by the next reader", s.run(pread, 4096, 917504) == data[917504 : 917504 + 4096])
check("O_DIRECT on the mount: EINVAL", outcome(os.open, "/mnt/a/file", os.O_RDONLY | os.O_DIRECT) == "EINVAL")
s.umount("/mnt/a")

# What is written unasked is used without a READ.
s.log.clear()


def whole(m):
    s.copen(m, len(image))
    s.write(m.object_id, 0, image)


s.on_open = whole
check("mounts", s.mount("fsid=ahead", "/mnt/a") == 0)
check("whole image written right after copen: right content", s.run(read_file, "/mnt/a/file") == data)
asked = [(m.offset, m.size) for m in s.reads()]
check("... and at most the first READ is asked", asked in ([], [(0, 4096)]), asked)
s.umount("/mnt/a")
s.close()
finish()
