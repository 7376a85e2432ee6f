#!/usr/bin/env python3
"""Runs a command in a real terminal: terminal.py WIDTH HEIGHT COMMAND...

Lines of JSON on stdin: {"type": TEXT} or {"resize": [WIDTH, HEIGHT]}. What the terminal shows comes on stdout as it is.
"""
import fcntl, json, os, pty, select, struct, sys, termios


def resize(width, height):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


pid, master = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", int(sys.argv[2]), int(sys.argv[1]), 0, 0))
    os.execvp(sys.argv[3], sys.argv[3:])
pending = b""
watched = [0, master]
while master in watched:
    for fd in select.select(watched, [], [])[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the terminal any more
            data = b""
        if not data:
            watched.remove(fd)
        elif fd == master:
            os.write(1, data)
        else:
            *lines, pending = (pending + data).split(b"\n")
            for line in map(json.loads, lines):
                if "resize" in line:
                    resize(*line["resize"])
                else:
                    os.write(master, line["type"].encode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
