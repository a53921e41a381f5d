# SPDX-License-Identifier: Apache-2.0
"""What the probes share: the raw cachefiles on-demand protocol, images, and `check`.

A probe is one process: the main thread answers the kernel (Session.serve), blocking system
calls run as a Job in a thread. Run it in a guest, as root, with a writable /mnt/disk.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

OPEN, CLOSE, READ = 0, 1, 2
READ_COMPLETE = 0x40049801
BLOCK = 4096
KERNEL = ".".join(platform.release().split(".")[:2])
IS_6_1 = KERNEL == "6.1"

libc = ctypes.CDLL(None, use_errno=True)
differs = 0


def check(claim, holds, seen=""):
    global differs
    differs += not holds
    print(f"{'ok     ' if holds else 'differs'} {claim}" + (f" [{seen}]" if seen != "" else ""), flush=True)


def finish():
    # Not sys.exit: a thread in a system call that does not end must not keep the probe.
    sys.stdout.flush()
    os._exit(1 if differs else 0)


def name_of(number):
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


def outcome(call, *args):
    """0 or a positive result, or the errno's name."""
    try:
        return call(*args)
    except OSError as error:
        return name_of(error.errno)


class Job(threading.Thread):
    def __init__(self, call, *args):
        super().__init__(daemon=True)
        self.call, self.args, self.value = call, args, None
        self.start()

    def run(self):
        self.value = outcome(self.call, *self.args)

    @property
    def done(self):
        return not self.is_alive()


def mount(options, target):
    os.makedirs(target, exist_ok=True)
    if libc.mount(b"none", os.fsencode(target), b"erofs", 1, os.fsencode(options)) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return 0


def umount(target, flags=0):
    if libc.umount2(os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "umount2")
    return 0


def aligned(data):
    """A page-aligned buffer holding `data`, zero-padded to whole blocks."""
    buffer = mmap.mmap(-1, max(BLOCK, -(-len(data) // BLOCK) * BLOCK))
    buffer[: len(data)] = data
    return buffer


class Message:
    def __init__(self, raw):
        self.raw = raw
        self.msg_id, self.opcode, self.length, self.object_id = struct.unpack_from("=IIII", raw)
        if self.opcode == OPEN:
            self.volume_size, self.cookie_size, self.fd, self.flags = struct.unpack_from("=IIiI", raw, 16)
            self.volume = raw[32 : 32 + self.volume_size]
            self.cookie = raw[32 + self.volume_size : 32 + self.volume_size + self.cookie_size]
            self.key = os.fsdecode(self.cookie)
        elif self.opcode == READ:
            self.offset, self.size = struct.unpack_from("=QQ", raw, 16)


class Session:
    """A bound device. `images` maps cookie keys to bytes; handlers may be replaced."""

    def __init__(self, directory, images=None, limits=(), bind=True, fd=None):
        self.directory = directory
        self.images = images or {}
        self.open_fds, self.keys, self.log = {}, {}, []
        self.on_open, self.on_read = self.answer_open, self.answer_read
        self.fd = open_device() if fd is None else fd
        if bind and fd is None:
            os.makedirs(directory, exist_ok=True)
            for command in (*limits, f"dir {directory}", "tag probe", "bind ondemand"):
                self.command(command)

    def command(self, text):
        return os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def receive(self):
        raw = os.read(self.fd, 1024)
        if not raw:
            return None
        message = Message(raw)
        self.log.append(message)
        return message

    def serve(self, until=lambda: False, seconds=30):
        """Answers messages until `until()` holds and nothing is pending; False when time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (message := self.receive()) is not None:
                self.answer(message)
            elif until():
                return True
            else:
                select.select([self.fd], [], [], 0.02)
        return False

    def answer(self, message):
        if message.opcode == OPEN:
            self.on_open(message)
        elif message.opcode == READ:
            self.on_read(message)
        elif message.object_id in self.open_fds:
            self.close_object(message.object_id)

    def answer_open(self, message):
        image = self.images.get(message.key)
        self.copen(message, len(image) if image is not None else -errno.ENOENT)

    def copen(self, message, result):
        if result < 0:
            self.command(f"copen {message.msg_id},{result}")
            os.close(message.fd)
            return
        self.open_fds[message.object_id] = message.fd
        self.keys[message.object_id] = message.key
        self.command(f"copen {message.msg_id},{result}")

    def answer_read(self, message):
        image = self.images[self.keys[message.object_id]]
        self.write(message.object_id, message.offset, image[message.offset : message.offset + message.size])
        self.complete(message)

    def write(self, object_id, offset, data):
        for _ in range(200):
            buffer = aligned(data)
            try:
                return os.pwrite(self.open_fds[object_id], buffer, offset)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                time.sleep(0.005)
        raise OSError(errno.ENOBUFS, "never ready")

    def complete(self, message):
        return fcntl.ioctl(self.open_fds[message.object_id], READ_COMPLETE, message.msg_id)

    def close_object(self, object_id):
        self.keys.pop(object_id)
        os.close(self.open_fds.pop(object_id))

    def run(self, call, *args, seconds=30):
        """Runs a blocking call while serving; its outcome, or "blocked"."""
        job = Job(call, *args)
        return job.value if self.serve(lambda: job.done, seconds) else "blocked"

    def mount(self, options, target, seconds=30):
        return self.run(mount, options, target, seconds=seconds)

    def umount(self, target):
        """Unmounts and waits for the CLOSEs, so that the next mount starts afresh."""
        result = outcome(umount, target)
        end = time.monotonic() + 0.3
        self.serve(lambda: not self.open_fds or time.monotonic() > end, 5)
        return result

    def reads(self):
        return [m for m in self.log if m.opcode == READ]

    def opens(self):
        return [m for m in self.log if m.opcode == OPEN]

    def close(self):
        for object_id in list(self.open_fds):
            self.close_object(object_id)
        os.close(self.fd)


def open_device(seconds=10):
    """Opens the device, waiting for the last session's teardown."""
    end = time.monotonic() + seconds
    while True:
        try:
            return os.open("/dev/cachefiles", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.05)


def fresh(name):
    path = f"/mnt/disk/{name}"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def make_image(files, *options):
    """An EROFS image of the given files (path -> bytes), as bytes."""
    with tempfile.TemporaryDirectory() as work:
        for path, data in files.items():
            full = f"{work}/tree/{path}"
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as file:
                file.write(data)
        uuid = "00000000-0000-4000-8000-000000000000"
        command = ["mkfs.erofs", "-T0", f"-U{uuid}", *options, f"{work}/image", f"{work}/tree"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            sys.exit(f"{' '.join(command)}: {made.stderr}")
        with open(f"{work}/image", "rb") as file:
            return file.read()


def read_file(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
