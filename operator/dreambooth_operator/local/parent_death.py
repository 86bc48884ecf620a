"""Runs a command that does not outlive its parent: `leash.py PARENT SIGNAL COMMAND...`.

On Linux the kernel sends SIGNAL, a number, when the parent dies of anything. The setting survives
exec, so this process becomes the command. PARENT is the parent's process id: it may have died
before this process is up. Only the standard library is loaded, for a quick start.
"""

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str], number: signal.Signals = signal.SIGTERM) -> list[str]:
    """The command line by which this process runs `command`, which gets the signal when it dies.

    Start it on the main thread: to the kernel, the parent is the thread that started it. With
    SIGTERM the trainer saves before it ends.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(number.value), *command]


def main() -> None:
    """Become the command."""
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != int(parent):
            sys.exit(128 + int(number))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
