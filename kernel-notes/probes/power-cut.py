# SPDX-License-Identifier: Apache-2.0
# What a power cut leaves of an object's file. See ../cachefiles-disk-names.md.
# The cut: the disk below the cache is copied while in use, and the copy is mounted.
import os, shutil, subprocess
from cachefiles import *

image = make_image({"file": noise(13, 1 << 20)})
disk, copy, root = "/tmp/disk", "/tmp/copy", "/mnt/cut/cache"


def shell(text):
    subprocess.run(text, shell=True, check=True, stdout=subprocess.DEVNULL)


def after_cut():
    """Files (and their data bytes) that a machine would find after losing power now."""
    shell("sync -f /mnt/cut")
    shutil.copyfile(disk, copy)
    shell(f"mkdir -p /mnt/copy && mount $(losetup --show -f {copy}) /mnt/copy")
    found = {n: os.stat(f"{d}/{n}").st_blocks * 512 for d, _, names in os.walk("/mnt/copy/cache/cache") for n in names}
    shell("loop=$(findmnt -no SOURCE /mnt/copy); umount /mnt/copy; losetup -d $loop")
    return found


shell(f"truncate -s 64M {disk} && mkfs.ext4 -q -F {disk} && mkdir -p /mnt/cut && mount $(losetup --show -f {disk}) /mnt/cut")
s = Session(root, {"a": image})
check("first mount", s.mount("fsid=a", "/mnt/a") == 0 and len(s.run(read_file, "/mnt/a/file")) == 1 << 20)
got = after_cut()
check("power cut during an object's first mount: nothing of it is left, even after syncfs", got == {}, got)
s.umount("/mnt/a")
got = after_cut()
check("after its first CLOSE (and syncfs): all there", got.get("Da", 0) >= 1 << 20, got)
s.mount("fsid=a", "/mnt/a")
got = after_cut()
check("during the second mount: all there", got.get("Da", 0) >= 1 << 20, got)
s.umount("/mnt/a")

# The same file made empty while idle: what a seeded sparse file with name, size and xattr is.
path = next(f"{d}/{n}" for d, _, names in os.walk(f"{root}/cache") for n in names)
os.truncate(path, 0)
os.truncate(path, len(image))
check("a sparse file in place before the OPEN", s.mount("fsid=a", "/mnt/a") == 0 and len(s.run(read_file, "/mnt/a/file")) == 1 << 20)
got = after_cut()
check("... keeps its name and data in a power cut during that mount", got.get("Da", 0) >= 1 << 20, got)
s.umount("/mnt/a")
s.close()
umount("/mnt/cut", 2)
finish()
