"""Keeps a server only for as long as the process that asked for it lives; a script with the standard library alone.

    python keeper.py FOLDER SECONDS COMMAND…

The asking process holds standard input open. When it is closed, also by a kill, or at SIGTERM, the server is ended, by
force after SECONDS, and FOLDER is removed.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys


def main(folder: str, patience: float, command: list[str]) -> int:
    """Run the command until it ends, standard input is closed or SIGTERM comes; return its exit status."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    # A group of its own: a server has processes too, and all of them must go.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while server.poll() is None and not asked and not select.select([0], [], [], 0.2)[0]:
        pass
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
