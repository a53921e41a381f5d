# SPDX-License-Identifier: Apache-2.0
"""What fanotify's pre-content events do, on this very kernel: python3 fanotify.py, as root, with
mkfs.erofs, in a temporary directory on ext4, xfs or btrfs. No code of erofsd."""

import ctypes, errno, fcntl, os, select, signal, struct, subprocess, sys, tempfile, time

libc = ctypes.CDLL(None, use_errno=True)
PRE_CONTENT, NONBLOCK, CLOEXEC, UNLIMITED_QUEUE = 0x8, 0x2, 0x1, 0x10
PRE_ACCESS, OVERFLOW = 0x100000, 0x4000
ALLOW, DENY = 1, 2
QUEUE = "/proc/sys/fs/fanotify/max_queued_events"
failed = 0


def say(claim, holds, seen=""):
    global failed
    failed += not holds
    print(f"{'ok     ' if holds else 'differs'} {claim} [{seen}]", flush=True)


def group(flags=UNLIMITED_QUEUE, event_files=os.O_RDONLY):
    fd = libc.fanotify_init(PRE_CONTENT | NONBLOCK | CLOEXEC | flags, event_files | os.O_CLOEXEC)
    if fd < 0: sys.exit(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
    return fd


def mark(g, fd, flags=1):
    if libc.fanotify_mark(g, flags, ctypes.c_uint64(PRE_ACCESS), fd, None) != 0:
        sys.exit(f"fanotify_mark: {os.strerror(ctypes.get_errno())}")


def events(g, seconds=0.3, first=0.3):
    """Of all that come within that time of the one before: mask, fd, offset, count."""
    got = []
    while select.select([g], [], [], seconds if got else first)[0]:
        data = os.read(g, 4096)
        while data:
            length, _, _, _, mask, fd, _ = struct.unpack_from("=IBBHQii", data)
            offset, count = struct.unpack_from("=QQ", data, 32) if length >= 48 else (None, None)
            got.append((mask, fd, offset, count))
            data = data[length:]
    return got


def answer(g, fd, response=ALLOW):
    try: os.write(g, struct.pack("=iI", fd, response & 0xFFFFFFFF))
    except OSError as error: return errno.errorcode[error.errno]
    finally: os.close(fd)
    return "ok"


def reader(path, offset, count):
    code = f"import os; f = os.open({path!r}, 0); print(os.pread(f, {count}, {offset})[:4].hex())"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def serve(g, command):
    """Runs it, letting everything through; its events."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    got = []
    while child.poll() is None or select.select([g], [], [], 0)[0]:
        for event in events(g, 0.05, 0.05):
            got.append(event)
            answer(g, event[1])
    return got


def ranges(home):
    path = os.path.join(home, "file")
    with open(path, "wb") as file: file.truncate(1 << 20)
    before = os.open(path, os.O_RDWR)
    g = group()
    mark(g, before)
    child = reader(path, 5000, 1)
    got = events(g, first=10)
    say("an event tells whole pages around what is read", got and got[0][2:] == (4096, 4096), got)
    answer(g, got[0][1])
    child.wait()
    os.pread(before, 10, 0), os.pwrite(before, b"x", 0)
    say("an fd that was opened before the mark raises none", events(g) == [])
    child = reader(path, 8192, 4096)
    (_, fd, _, _), = events(g, first=10)
    said = answer(g, fd, DENY | (errno.ENOSPC << 24))
    say("a refusal carries its errno", "No space left" in child.communicate()[1], said)
    child = reader(path, 8192, 4096)
    (_, fd, _, _), = events(g, first=10)
    child.kill()
    start = time.time()
    child.wait()
    say("a reader that waits can be killed", time.time() - start < 1, f"{time.time() - start:.2f} s")
    said = answer(g, fd)
    say("its event is still to be answered, which does no harm", said == "ok", said)
    child = reader(path, 8192, 4096)
    (_, fd, _, _), = events(g, first=10)
    os.close(g)
    say("whoever waits is let through when the group is closed", child.communicate()[0].strip() == "00000000")
    os.close(fd), os.close(before)


def overflow(home):
    path = os.path.join(home, "full")
    with open(path, "wb") as file: file.truncate(1 << 20)
    fd = os.open(path, os.O_RDWR)
    old = open(QUEUE).read()
    try:
        open(QUEUE, "w").write("2")
        g = group(flags=0)
    finally:
        open(QUEUE, "w").write(old)
    mark(g, fd)
    children = []
    for n in range(4):
        children.append(reader(path, 4096 * n, 4096))
        time.sleep(1.5)
    through = [child.poll() for child in children].count(0)
    got = events(g)
    say("a full queue lets readers through, unasked", through == 2, f"{through} of 4")
    say("and tells of it with an event without an fd", any(m & OVERFLOW and f == -1 for m, f, _, _ in got))
    for _, event_fd, _, _ in got:
        if event_fd >= 0: answer(g, event_fd)
    for child in children: child.wait()
    os.close(g), os.close(fd)


def erofs(home):
    tree, image, target = (os.path.join(home, name) for name in ("tree", "image", "mnt"))
    os.makedirs(os.path.join(tree, "sub")), os.mkdir(target)
    for n in range(200): open(os.path.join(tree, "sub", f"file-{n}-{'x' * 100}"), "w").write("tiny")
    with open(os.path.join(tree, "data"), "wb") as file: file.write(os.urandom(1 << 20))
    subprocess.run(["mkfs.erofs", "--quiet", image, tree], check=True)
    fd = os.open(image, os.O_RDWR)
    g = group()
    mark(g, fd)
    in_use = lambda: lease(fd)
    say("a write lease is had on a file that nobody else has open", in_use() == "ok", in_use())
    if libc.mount(image.encode(), target.encode(), b"erofs", 1, None) != 0:
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    try:
        say("but not while it is mounted", in_use() == "EAGAIN", in_use())
        say("mounting raises no event", events(g) == [])
        got = serve(g, ["ls", "-lR", target])
        say("walking the tree raises one for a directory with blocks of its own, none for inodes", len(got) == 1, got)
        got = serve(g, ["cat", os.path.join(target, "sub", "file-1-" + "x" * 100)])
        say("reading what lies with its inode raises none", got == [], f"{len(got)} events")
        got = serve(g, ["cat", os.path.join(target, "data")])
        say("reading data does", len(got) > 0, f"{len(got)} events, counts {sorted({e[3] for e in got})}")
        mark(g, fd, flags=2)
        subprocess.run(["umount", target], check=True)
        libc.mount(image.encode(), target.encode(), b"erofs", 1, None)
        got = serve(g, ["cat", os.path.join(target, "data")])
        say("and none without the mark", got == [], f"{len(got)} events")
    finally:
        subprocess.run(["umount", target], check=True)
    say("and it is had again after umount", in_use() == "ok", in_use())


def takeover(home):
    path = os.path.join(home, "left")
    with open(path, "wb") as file: file.truncate(1 << 20)
    before = os.open(path, os.O_RDWR)
    g = group(event_files=os.O_RDWR)
    mark(g, before)
    child = reader(path, 8192, 4096)
    # Another process takes the event, and dies; we have the group still.
    out, into = os.pipe()
    taker = os.fork()
    if taker == 0:
        os.write(into, struct.pack("=i", events(g, first=10)[0][1]))
        os.kill(os.getpid(), signal.SIGKILL)
    number, = struct.unpack("=i", os.read(out, 4))
    os.waitpid(taker, 0)
    say("an event that was read is not given again", events(g) == [] and child.poll() is None)
    os.pwrite(before, b"left", 8192)
    os.write(g, struct.pack("=iI", number, ALLOW))
    got = child.communicate(timeout=10)[0].strip()
    say("it is answered by the number its fd had in the process that is gone", got == b"left".hex(), got)
    try: said = os.write(g, struct.pack("=iI", number, ALLOW))
    except OSError as error: said = errno.errorcode[error.errno]
    say("a second answer is ENOENT", said == "ENOENT", said)
    child = reader(path, 0, 4096)
    (_, fd, _, _), = events(g, first=10)
    os.write(g, struct.pack("=iI", fd, ALLOW))
    child.wait()
    os.pwrite(fd, b"through", 16384)
    seen = os.pread(before, 7, 16384)
    say("an event's fd writes without raising events", seen == b"through" and events(g) == [], seen)
    for one in (fd, g, before, out, into): os.close(one)


def lease(fd):
    fcntl.fcntl(fd, fcntl.F_SETSIG if hasattr(fcntl, "F_SETSIG") else 10, signal.SIGURG)
    try: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error: return errno.errorcode[error.errno]
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return "ok"


with tempfile.TemporaryDirectory() as home:
    for probe in (ranges, overflow, erofs, takeover): probe(home)
sys.exit(failed > 0)
