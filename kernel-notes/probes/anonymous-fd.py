# SPDX-License-Identifier: Apache-2.0
# The anonymous fd: flags, what may be written when and how. See ../cachefiles-anonymous-fd.md.
import ctypes, fcntl, os, time
from cachefiles import *

image = make_image({"file": noise(2, 1 << 20)})
s = Session(fresh("anonymous"), {"anon": image})
found = {}


def on_open(m):
    fd = m.fd
    check("no FD_CLOEXEC", fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC == 0)
    check("O_WRONLY", fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY)
    check("link text", os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[cachefiles]")
    page = aligned(image[:4096])
    check("before copen: pwrite ENOBUFS", outcome(os.pwrite, fd, page, 0) == "ENOBUFS")
    check("before copen: lseek ENOBUFS", outcome(os.lseek, fd, 0, os.SEEK_END) == "ENOBUFS")
    s.copen(m, len(image))
    start, tries = time.monotonic(), []
    while (seen := outcome(os.pwrite, fd, page, 0)) == "ENOBUFS" and time.monotonic() - start < 5:
        tries.append(seen)
        time.sleep(0.0005)
    took = (time.monotonic() - start) * 1000
    check("after copen: ENOBUFS for some ms, then it writes", seen == 4096, f"{len(tries)} times ENOBUFS, {took:.1f} ms, then {seen}")
    found["message"] = m


s.on_open = on_open
check("mounts", s.mount("fsid=anon", "/mnt/a") == 0)
m = found["message"]
fd = m.fd
check("fstat says size 0", os.fstat(fd).st_size == 0)
check("SEEK_DATA from the first hole: ENXIO", outcome(os.lseek, fd, 4096, os.SEEK_DATA) == "ENXIO")
s.write(m.object_id, 65536, noise(9, 8192))
exact = [os.lseek(fd, 4096, os.SEEK_DATA), os.lseek(fd, 65536, os.SEEK_HOLE)]
check("SEEK_DATA and SEEK_HOLE are exact right after pwrite", exact == [65536, 73728], exact)

# Misaligned writes. The backing file shows what arrived; it has a name after the first CLOSE.
s.on_open = s.answer_open
s.umount("/mnt/a")
check("mounts again", s.mount("fsid=anon", "/mnt/a") == 0)
backing = next(f"{d}/{n}" for d, _, names in os.walk("/mnt/disk/anonymous/cache") for n in names)
m = s.opens()[-1]
fd = m.fd
mark = aligned(b"M" * 4096)
got = outcome(os.pwrite, fd, mark, 262144 + 512)
with open(backing, "rb") as file:
    file.seek(262144)
    head = file.read(4096)
if IS_6_1:
    check("6.1: pwrite at offset%4096=512 succeeds, data lands at the block's start", got == 4096 and head == bytes(mark), got)
else:
    check("6.12: pwrite at offset%4096=512 is ENOBUFS, nothing is stored", got == "ENOBUFS" and b"M" not in head, got)
check("length not a multiple of 512: EINVAL", outcome(os.pwrite, fd, memoryview(mark)[:1000], 266240) == "EINVAL")
check("length 512 at an aligned offset: stored", outcome(os.pwrite, fd, memoryview(mark)[:512], 270336) == 512)
extent = [os.lseek(fd, 270336, os.SEEK_DATA), os.lseek(fd, 270336, os.SEEK_HOLE)]
check("... and the whole 4 KiB then count as data", extent == [270336, 274432], extent)
odd = memoryview(mmap.mmap(-1, 8192))[16 : 16 + 4096]
check("buffer at address%512=16: EINVAL", outcome(os.pwrite, fd, odd, 274432) == "EINVAL")
check("zero bytes: 0", os.pwrite(fd, b"", 0) == 0)
check("beyond the copen size: stored", outcome(os.pwrite, fd, mark, 8 << 20) == 4096)
check("ftruncate EINVAL", outcome(os.ftruncate, fd, 0) == "EINVAL")
check("fsync EINVAL", outcome(os.fsync, fd) == "EINVAL")
check("fallocate ENODEV", outcome(os.posix_fallocate, fd, 0, 4096) == "ENODEV")
check("read EBADF", outcome(os.read, fd, 1) == "EBADF")
check("splice/sendfile EINVAL", outcome(os.sendfile, fd, os.open("/proc/self/exe", os.O_RDONLY), 0, 4096) == "EINVAL")
epoll = select.epoll()
check("epoll_ctl EPERM", outcome(epoll.register, fd, select.EPOLLOUT) == "EPERM")
check("unknown ioctl EINVAL", outcome(fcntl.ioctl, fd, READ_COMPLETE + 1, 0) == "EINVAL")

# lseek moves the backing file's position; write() uses the anonymous fd's own.
os.lseek(fd, 131072, os.SEEK_SET)
os.write(fd, mark)
with open(backing, "rb") as file:
    at_zero = file.read(4096)
check("lseek(131072) then write(): overwrites offset 0", at_zero == bytes(mark))
s.write(m.object_id, 0, image[:4096])

umount("/mnt/a")
while not (c := s.receive()):
    time.sleep(0.01)
time.sleep(0.2)
check("after CLOSE: pwrite ENOBUFS", outcome(os.pwrite, fd, mark, 0) == "ENOBUFS")
check("after CLOSE: lseek ENOBUFS", outcome(os.lseek, fd, 0, os.SEEK_END) == "ENOBUFS")
check("after CLOSE: READ_COMPLETE EINVAL", outcome(fcntl.ioctl, fd, READ_COMPLETE, 1) == "EINVAL")
job = Job(mount, "fsid=anon", "/mnt/a")
check("fd kept after CLOSE: the next mount of the key hangs, no OPEN comes", not s.serve(lambda: job.done, 2) and len(s.opens()) == 2)
s.answer(c)
check("... and goes on when the fd is closed", s.serve(lambda: job.done, 10) and job.value == 0, job.value)
s.umount("/mnt/a")
s.close()
finish()
