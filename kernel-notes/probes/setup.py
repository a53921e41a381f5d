# SPDX-License-Identifier: Apache-2.0
# Opening the device, commands, limits, bind. See ../cachefiles-setup.md.
import os, subprocess
from cachefiles import *


def command(text):
    return outcome(os.write, fd, text if isinstance(text, bytes) else text.encode())


def session():
    global fd
    fd = open_device()


session()
check("mode 0600", os.stat("/dev/cachefiles").st_mode & 0o777 == 0o600)
check("a second open: EBUSY", outcome(os.open, "/dev/cachefiles", os.O_RDWR) == "EBUSY")
for text, want in [("nonsense", "EOPNOTSUPP"), (" dir /x", "EOPNOTSUPP"), ("\n", "EINVAL"), (b"dir /\0x", "EINVAL")]:
    seen = command(text)
    check(f"command {text!r}: {want}", seen == want, seen)
check("dir without a path: EINVAL", command("dir ") == "EINVAL")
check("bind without dir: EINVAL", command("bind ondemand") == "EINVAL")
check("before bind: copen EOPNOTSUPP", command("copen 0,0") == "EOPNOTSUPP")
check("before bind: restore EOPNOTSUPP", command("restore") == "EOPNOTSUPP")
check("before bind: cull EIO", command("cull x") == "EIO")
check("before bind: read() returns 0", os.read(fd, 1024) == b"")

# stop < cull < run, checked on each command against the values of that moment (7, 5, 1).
check("bcull 10% before brun: EINVAL", command("bcull 10%") == "EINVAL")
check("brun 20%, bcull 10%, bstop 5%", all(isinstance(command(c), int) for c in ("brun 20%", "bcull 10%", "bstop 5%")))
check("then brun 3% first: EINVAL", command("brun 3%") == "EINVAL")
check("bstop 0%, bcull 2%, brun 3%", all(isinstance(command(c), int) for c in ("bstop 0%", "bcull 2%", "brun 3%")))
check("brun 100%: EINVAL", command("brun 100%") == "EINVAL")
check("'frun 9% ' (something after %): EINVAL", command("frun 9% ") == "EINVAL")

# bind
path = fresh("setup")
check("dir PATH is not looked at before bind", isinstance(command("dir /nowhere"), int))
check("dir a second time: EEXIST", command(f"dir {path}") == "EEXIST")
check("tag, then a second tag: EEXIST", isinstance(command("tag a"), int) and command("tag b") == "EEXIST")
check("bind: missing directory ENOENT", command("bind ondemand") == "ENOENT")
os.close(fd)

os.makedirs("/tmp/dir", exist_ok=True)
os.makedirs("/mnt/tree", exist_ok=True)
with open(f"{path}/file", "w"):
    pass
for layer in ("lower", "upper", "work"):
    os.makedirs(f"/mnt/disk/overlay/{layer}", exist_ok=True)
layers = "lowerdir=/mnt/disk/overlay/lower,upperdir=/mnt/disk/overlay/upper,workdir=/mnt/disk/overlay/work"
subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", "/mnt/tree"], check=True)
for directory, what, want in [
    (f"{path}/file", "a file", "ENOTDIR"),
    ("/tmp/dir", "tmpfs", "EOPNOTSUPP"),
    ("/proc", "proc", "EOPNOTSUPP"),
    ("/usr", "the root (hostfs or 9p)", "EOPNOTSUPP"),
    ("/mnt/tree", "overlayfs", "EOPNOTSUPP" if IS_6_1 else 13),
    (path, "ext4", 13),
]:
    session()
    command(f"dir {directory}")
    seen = command("bind ondemand")
    check(f"bind on {what}: {'works' if want == 13 else want}", seen == want, seen)
    if directory != path:
        os.close(fd)
check("bind makes cache and graveyard", {"cache", "graveyard"} <= set(os.listdir(path)))
check("bind twice: EBUSY", command("bind ondemand") == "EBUSY")
check("rmdir of cache while bound: EBUSY", outcome(os.rmdir, f"{path}/cache") == "EBUSY")
check("limits are still taken after bind (and change nothing)", isinstance(command("brun 30%"), int))
check("restore without anything to restore", isinstance(command("restore"), int))
os.close(fd)

session()
command(f"dir {path}")
check("the same directory binds again right after close", command("bind ondemand") == 13)
os.close(fd)

session()
command(f"dir {path}")
check("'bind ondemand ' with a blank: EINVAL", command("bind ondemand ") == "EINVAL")
os.close(fd)
session()
command(f"dir {path}")
check("plain 'bind' makes a classic cache", isinstance(command("bind"), int))
text = os.read(fd, 1024)
check("... whose read() is a text", text.startswith(b"cull="), text)
check("... and copen EOPNOTSUPP", command("copen 0,0") == "EOPNOTSUPP")
os.close(fd)
finish()
