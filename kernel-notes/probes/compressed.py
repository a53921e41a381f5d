# SPDX-License-Identifier: Apache-2.0
# Compressed images over fscache. See ../erofs-over-fscache.md.
import os
from cachefiles import *

data = b"".join(f"line {i} of a compressible file\n".encode() for i in range(20000))
image = make_image({"file": data, "small": b"tiny"}, "-zlz4")
s = Session(fresh("compressed"), {"z": image})
check("an lz4 image mounts", s.mount("fsid=z", "/mnt/a") == 0)
got = s.run(read_file, "/mnt/a/file")
if IS_6_1:
    check("6.1: reading a compressed file: EOPNOTSUPP", got == "EOPNOTSUPP", got if isinstance(got, str) else len(got))
    got = s.run(os.stat, "/mnt/a/file")
    check("... and so is stat of it", got == "EOPNOTSUPP", got)
else:
    check("6.12: a compressed file reads right", got == data, [m.size for m in s.reads()])
check("an uncompressed file of the same image reads right", s.run(read_file, "/mnt/a/small") == b"tiny")
s.umount("/mnt/a")
s.close()
finish()
