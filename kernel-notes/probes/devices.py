# SPDX-License-Identifier: Apache-2.0
# Extra devices: tags, `device=`, sharing in a domain, failures. See ../erofs-over-fscache.md.
import os, struct, subprocess, tempfile
from cachefiles import *

data = noise(10, 300000)
SUPER = 1024


def with_blob(tag=b""):
    """An image whose file data is in an extra device: (bootstrap, blob)."""
    with tempfile.TemporaryDirectory() as work:
        image = bytearray(make_image({"file": data}, "--chunksize=4096", f"--blobdev={work}/blob"))
        with open(f"{work}/blob", "rb") as file:
            blob = file.read()
    count, slot = struct.unpack_from("<HH", image, SUPER + 86)
    assert count == 1
    if tag:
        struct.pack_into("<64s", image, slot * 128, tag)
        # The checksum no longer holds: clear its feature bit.
        compat = struct.unpack_from("<I", image, SUPER + 8)[0]
        struct.pack_into("<I", image, SUPER + 8, compat & ~1)
    return bytes(image), blob


untagged, blob = with_blob()
tag = ("sha256:" + "ab" * 32)[:64]
tagged, _ = with_blob(tag.encode())
s = Session(fresh("devices"), {"n": untagged, "u": untagged, "u2": untagged, "t": tagged, "blob": blob, "other": blob, tag: blob, "x/y": blob, "h": tagged})


def attempt(options, path="/mnt/a"):
    s.log.clear()
    got = s.mount(options, path)
    return got, [m.key if m.opcode == OPEN else (m.opcode, getattr(m, "size", 0)) for m in s.log]


got = attempt("fsid=n")
check("mkfs.erofs leaves the tag empty; without device=: EINVAL", got[0] == "EINVAL", got)
s.serve(lambda: not s.open_fds, 5)
got = attempt("fsid=u,device=blob")
check("device=blob: OPEN u, READ, OPEN blob, all within mount(2)", got == (0, ["u", (READ, 4096), "blob"]), got)
blob_open = s.opens()[-1]
check("... in the primary's volume", blob_open.volume == b"erofs,u\0", blob_open.volume)
check("... and the file is right", s.run(read_file, "/mnt/a/file") == data)
check("READs of file data carry the blob's object_id", any(m.object_id == blob_open.object_id for m in s.reads()))
s.umount("/mnt/a")
got = attempt("fsid=u,device=blob,device=other")
check("two device= for one slot: EINVAL", got[0] == "EINVAL", got)
s.serve(lambda: not s.open_fds, 5)
got = attempt("fsid=u,device=u")
check("a device named like the fsid: EINVAL", got[0] == "EINVAL", got)
s.serve(lambda: not s.open_fds, 5)

got = attempt("fsid=t")
check("a tag names the device; 64 bytes, no NUL needed", got == (0, ["t", (READ, 4096), tag]), got)
check("... and the file is right", s.run(read_file, "/mnt/a/file") == data)
s.umount("/mnt/a")
got = attempt("fsid=h,domain_id=dh,device=x/y")
check("device= goes before the tag, may hold '/' with a domain_id", got[0] == 0 and got[1][-1] == "x/y", got)
s.umount("/mnt/a")

# Shared in a domain: one object for both mounts.
got = attempt("fsid=u,domain_id=dom,device=blob")
check("in a domain: OPEN u, OPEN blob", got[0] == 0 and got[1][-1] == "blob", got)
check("file through mount 1", s.run(read_file, "/mnt/a/file") == data)
s.log.clear()
got = attempt("fsid=u2,domain_id=dom,device=blob", "/mnt/b")
check("second mount with the same device: OPEN u2 only", got[0] == 0 and [m.key for m in s.opens()] == ["u2"], got)
s.log.clear()
check("file through mount 2: right, 0 READs of the blob", s.run(read_file, "/mnt/b/file") == data and len(s.reads()) <= 2, [(m.object_id, m.size) for m in s.reads()])
s.log.clear()
s.umount("/mnt/a")
first = [m.object_id for m in s.log if m.opcode == CLOSE]
s.log.clear()
s.umount("/mnt/b")
second = [m.object_id for m in s.log if m.opcode == CLOSE]
check("the blob's CLOSE comes with the last umount", (len(first), len(second)) == (1, 2), (first, second))

# A failed device OPEN.
del s.images["other"]
got = attempt("fsid=u,domain_id=d3,device=other")
check("a refused device OPEN does not fail the mount", got[0] == 0, got)
got = s.run(read_file, "/mnt/a/file")
check("... its files fail with ENOBUFS or EIO", got in ("ENOBUFS", "EIO"), got)
s.umount("/mnt/a")
s.close()
finish()
