# SPDX-License-Identifier: Apache-2.0
# Which fsid, domain_id and device names reach the daemon, and as what. See ../cachefiles-keys.md.
# Cookie keys of more than 252 bytes are NOT tried: they stop the kernel.
import os, time
from cachefiles import *

image = make_image({"file": noise(7, 5000)})
s = Session(fresh("keys"))
s.on_open = lambda m: s.copen(m, len(image))
s.on_read = lambda m: (s.write(m.object_id, m.offset, image[m.offset : m.offset + m.size]), s.complete(m))


def attempt(options):
    """mount(2)'s outcome and the keys of the OPEN, if one came."""
    s.log.clear()
    got = s.mount(options, "/mnt/a")
    if got == 0:
        s.umount("/mnt/a")
    opens = [(m.volume[:-1].decode(), m.cookie.decode()) for m in s.opens()]
    return got, opens[0] if opens else None


def expect(options, want, keys):
    seen = attempt(options)
    shown = options if len(options) < 90 else f"{options[:60]}... ({len(options.split('=', 1)[1].split(',')[0])} bytes)"
    check(f"{shown}: {want}{'' if keys else ', no OPEN'}", seen == (want, keys), "" if len(options) > 90 else seen)


digest = "sha256:" + "0123456789abcdef" * 4
expect("fsid=X", 0, ("erofs,X", "X"))
expect("fsid=X,domain_id=D", 0, ("erofs,D", "X"))
expect(f"fsid=app@{digest}", 0, (f"erofs,app@{digest}", f"app@{digest}"))
expect("fsid=a/b", "ENOBUFS", None)
expect("fsid=a,domain_id=d/e", "ENOBUFS", None)
name = "localhost:5000/app/web:v1"
expect(f"fsid={name},domain_id=dom", 0, ("erofs,dom", name))
expect(f"fsid=h:5000/web@{digest},domain_id=dom", 0, ("erofs,dom", f"h:5000/web@{digest}"))
for key in ("with space", "tab\there", "üñï", ".", "..", "a%2Fb", "a+b~c"):
    expect(f"fsid={key}", 0, (f"erofs,{key}", key))
expect("fsid=", "EINVAL", None)
expect("fsid=x,domain_id=", "EINVAL", None)

v = lambda n: "v" * n
expect(f"fsid={v(248)}", 0, (f"erofs,{v(248)}", v(248)))
expect(f"fsid={v(249)}", "ENOBUFS", None)
expect(f"fsid={v(250)}", "ENOMEM", None)
expect(f"domain_id={v(248)},fsid=x", 0, (f"erofs,{v(248)}", "x"))
expect(f"domain_id={v(249)},fsid=x", "ENOBUFS", None)
expect(f"domain_id={v(250)},fsid=x", "ENOMEM", None)
expect(f"fsid={v(252)},domain_id=dom", 0, ("erofs,dom", v(252)))
s.close()
finish()
