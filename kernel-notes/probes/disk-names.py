# SPDX-License-Identifier: Apache-2.0
# Where the kernel keeps an object's file. See ../cachefiles-disk-names.md.
import os, struct
from cachefiles import *

image = make_image({"file": noise(8, 5000)})
root = fresh("names")
s = Session(root)
s.on_open = lambda m: s.copen(m, len(image))
s.on_read = lambda m: (s.write(m.object_id, m.offset, image[m.offset : m.offset + m.size]), s.complete(m))

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
GOLDEN = 0x61C88647


def kernel_hash(salt, data):
    x, y = 0, salt
    data += b"\0" * (-len(data) % 4)
    for (a,) in struct.iter_unpack("<I", data):
        x ^= a
        y ^= x
        x = (x << 7 | x >> 25) & 0xFFFFFFFF
        x = (x + y) & 0xFFFFFFFF
        y = (y << 20 | y >> 12) & 0xFFFFFFFF
        y = y * 9 & 0xFFFFFFFF
    return (y ^ x * GOLDEN & 0xFFFFFFFF) * GOLDEN & 0xFFFFFFFF


def cooked(key):
    """fs/cachefiles/key.c: cachefiles_cook_key()."""
    if all(33 <= c <= 127 and c != 47 for c in key):
        return "D" + key.decode()
    padded = key + b"\0" * (-len(key) % 4)
    be = [x for (x,) in struct.iter_unpack(">I", padded)]
    le = [x for (x,) in struct.iter_unpack("<I", padded)]
    digits = lambda words: sum(1 + len(f"{w:x}") if w else 1 for w in words)
    groups = -(-len(key) // 3)
    encoded_length = 2 + 4 * groups
    if min(digits(be), digits(le)) < encoded_length:
        mark, words = ("S", be) if digits(be) <= digits(le) else ("T", le)
        return mark + ",".join(f"{w:x}" if w else "" for w in words)
    name = f"E{groups * 3 - len(key)}"
    for i in range(0, len(key), 3):
        word = int.from_bytes(key[i : i + 3], "little")
        name += "".join(ALPHABET[word >> shift & 63] for shift in (0, 6, 12, 18))
    return name[: len(name) % 256]


def path_of(volume, cookie):
    volume_hash = kernel_hash(0, bytes([len(volume)]) + volume + b"\0")
    fan = kernel_hash(volume_hash, cookie) & 0xFF
    return f"{root}/cache/I{volume.decode()}/@{fan:02x}/{cooked(cookie)}"


def files():
    return {f"{d}/{n}" for d, _, names in os.walk(f"{root}/cache") for n in names}


digest = "sha256:" + "0123456789abcdef" * 4
for cookie in (digest, "plain", "host:5000/app:v1", "with space", "ü", "\t", " x", "a b ", "x" * 252, "/" + "y" * 188):
    before = files()
    mounted = s.mount(f"fsid={cookie},domain_id=dom", "/mnt/a")
    if cookie == digest:
        check("first mount: the file has no name yet (O_TMPFILE)", mounted == 0 and files() == before, files() - before)
    s.umount("/mnt/a")
    want = path_of(b"erofs,dom", os.fsencode(cookie))
    check(f"after CLOSE: {cookie[:40]!r}", files() - before == {want}, os.path.relpath(next(iter(files() - before), root), f"{root}/cache")[:90])
fans = [n for n in os.listdir(f"{root}/cache/Ierofs,dom")]
check("a volume has 256 fan directories", len(fans) == 256, len(fans))

before = files()
s.mount("fsid=/" + "z" * 189 + ",domain_id=dom", "/mnt/a")
s.umount("/mnt/a")
got = {os.path.basename(f) for f in files() - before}
check("190 bytes with a '/': the name is cut, two such keys can share a file", got == {"E2"}, got)
s.close()
finish()
