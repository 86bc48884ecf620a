"""Runs a command that does not outlive the process that started it: `pod_init.py COMMAND...`.

On Linux the kernel sends SIGTERM when the parent dies of anything, so the trainer saves and ends.
The setting survives exec, so this process becomes the command. Only the standard library is loaded,
for a quick start.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
