# SPDX-License-Identifier: Apache-2.0
# What makes the kernel trust or drop a cached file. See ../cachefiles-coherency.md.
import os, struct
from cachefiles import *

size = 50000
old, new = make_image({"file": noise(4, size)}), make_image({"file": noise(5, size)})
assert len(old) == len(new) and old != new
s = Session(fresh("coherency"), {"key": old})


def cycle(image, copen_size=None):
    """One mount: (errno or 0, READs, whose content the file has)."""
    s.images["key"] = image
    s.log.clear()
    s.on_open = lambda m: s.copen(m, len(image) if copen_size is None else copen_size)
    mounted = s.mount("fsid=key", "/mnt/a")
    content = s.run(read_file, "/mnt/a/file") if mounted == 0 else None
    whose = {noise(4, size): "old", noise(5, size): "new"}.get(content, content)
    reads = len(s.reads())
    s.umount("/mnt/a")
    return mounted, reads, whose


def backing():
    return next(f"{d}/{n}" for d, _, names in os.walk("/mnt/disk/coherency/cache") for n in names)


first = cycle(old)
check("first mount asks", first[1] > 0 and first[2] == "old", first)
xattr = os.getxattr(backing(), "user.CacheFiles.cache")
check("xattr: be64 size, be64 0, type 1, content", xattr[:17] == struct.pack(">QQB", len(old), 0, 1), xattr.hex())
check("the file's mode is " + ("0" if IS_6_1 else "0600"), os.stat(backing()).st_mode & 0o777 == (0 if IS_6_1 else 0o600))
again = cycle(old)
check("same size: 0 READs", again == (0, 0, "old"), again)
wrong = cycle(new)
check("same size, other content: the cached (wrong) data is served, 0 READs", wrong == (0, 0, "old"), wrong)
right = cycle(new, len(new) + 4096)
check("another size: the file is dropped and fetched anew", right[1] > 0 and right[2] == "new", right)
kept = cycle(new, len(new) + 4096)
check("... and trusted from then on", kept == (0, 0, "new"), kept)
back = cycle(old, len(old))
check("back to the first size: fetched anew, not the oldest file", back[1] > 0 and back[2] == "old", back)

# Files written or changed by somebody else while idle.
file = backing()
with open(file, "r+b") as f:
    f.truncate(8192)
cut = cycle(old)
check("truncated while idle: only what is missing is asked", 0 < cut[1] and cut[2] == "old", cut)
os.setxattr(backing(), "user.CacheFiles.cache", struct.pack(">QQBB", len(old), 0, 1, 4))
dirty = cycle(old)
check("content byte 4 (dirty): replaced", dirty[1] > 0 and dirty[2] == "old", dirty)
os.setxattr(backing(), "user.CacheFiles.cache", b"short")
short = cycle(old)
check("xattr of another length: replaced", short[1] > 0 and short[2] == "old", short)
os.removexattr(backing(), "user.CacheFiles.cache")
missing = [cycle(old)[0] for _ in range(2)]
check("xattr missing: every mount fails", all(m in ("ENOBUFS", "EIO") for m in missing), missing)
os.unlink(backing())
check("... until the file is deleted", cycle(old)[::2] == (0, "old"))

# Seeding: a file put in place before the OPEN is used.
name = backing()
with open(name, "r+b") as f:
    f.write(new)
seeded = cycle(new)
check("a file filled by us while idle: 0 READs", seeded == (0, 0, "new"), seeded)

# The volume's directory has an attribute of its own.
volume = os.path.dirname(os.path.dirname(name))
xattr = os.getxattr(volume, "user.CacheFiles.cache")
check("a volume's xattr: be32 0, as EROFS has no coherency data", xattr == bytes(4), xattr.hex())
os.removexattr(volume, "user.CacheFiles.cache")
missing = cycle(new)[0]
check("... missing: no mount of the volume succeeds", missing in ("ENOBUFS", "EIO"), missing)
os.setxattr(volume, "user.CacheFiles.cache", bytes(4))
mended = cycle(new)
check("... put back: all that was cached is used", mended == (0, 0, "new"), mended)
os.setxattr(volume, "user.CacheFiles.cache", bytes(3))
other = cycle(new)
check("... of another length: the volume is buried, and begun anew", other[1] > 0 and other[2] == "new", other)
s.close()
finish()
