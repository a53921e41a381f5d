# SPDX-License-Identifier: Apache-2.0
# Message layout, read()==0, small buffers, poll. See ../cachefiles-messages.md.
import os, select, struct, time
from cachefiles import *

image = make_image({"file": noise(1, 20000)})
s = Session(fresh("messages"), {"layout": image})

start = time.monotonic()
check("nothing pending: read() returns 0 at once", os.read(s.fd, 1024) == b"" and time.monotonic() - start < 1)
os.set_blocking(s.fd, False)
check("the same with O_NONBLOCK (not EAGAIN)", outcome(os.read, s.fd, 1024) == b"")
os.set_blocking(s.fd, True)

poll = select.epoll()
poll.register(s.fd, select.EPOLLIN)
check("nothing pending: not readable", poll.poll(0.2) == [])
job = Job(mount, "fsid=layout", "/mnt/a")
check("an OPEN makes it readable", [e for _, e in poll.poll(5)] == [select.EPOLLIN])
check("a buffer too small: EMSGSIZE", outcome(os.read, s.fd, 40) == "EMSGSIZE")
m = s.receive()
check("... and the message stays", m is not None and m.opcode == OPEN)
check("delivered, unanswered: no longer readable", poll.poll(0.2) == [])
check("OPEN: len is the whole message", m.length == len(m.raw) == 32 + m.volume_size + m.cookie_size, m.raw.hex())
check("OPEN: msg_id from 0, object_id from 1", (m.msg_id, m.object_id) == (0, 1), (m.msg_id, m.object_id))
check("OPEN: volume key 'erofs,FSID', its size counts a NUL", m.volume == b"erofs,layout\0", m.volume)
check("OPEN: cookie key 'FSID' without NUL", m.cookie == b"layout", m.cookie)
check("OPEN: flags 0", m.flags == 0, m.flags)
s.answer(m)
while not (r := s.receive()):
    time.sleep(0.01)
check("READ: 32 bytes, u64 off, u64 len", r.opcode == READ and r.length == len(r.raw) == 32, r.raw.hex())
check("READ: object_id is the OPEN's", r.object_id == m.object_id)
check("the first READ of a mount is (0, 4096)", (r.offset, r.size) == (0, 4096), (r.offset, r.size))
s.answer(r)
s.serve(lambda: job.done)
check("mounted", job.value == 0, job.value)
s.run(read_file, "/mnt/a/file")
check("every READ is whole 4 KiB blocks", all(r.offset % 4096 == 0 and r.size % 4096 == 0 for r in s.reads()))
ids = [x.msg_id for x in s.log]
check("msg_ids rise, none is used again soon", ids == sorted(set(ids)), ids)
check("umount(2) does not wait for the CLOSE", Job(umount, "/mnt/a").join(5) is None and s.serve(lambda: not s.open_fds, 5))
c = s.log[-1]
check("CLOSE: a bare header of 16 bytes", c.opcode == CLOSE and c.length == len(c.raw) == 16, c.raw.hex())
check("CLOSE: object_id is the OPEN's", c.object_id == m.object_id)
s.close()
finish()
