"""Ties a process to its parent: `parent_death_signal.py PARENT SIGNAL COMMAND...`.

On Linux the kernel sends SIGNAL, a number, when the parent dies, however it dies (prctl(2),
PR_SET_PDEATHSIG). The setting survives exec, so this process becomes the command. PARENT is the
parent's process ID: it may have died before this process is up. Only the standard library is
imported, so that the command starts without delay.
"""

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def with_parent_death_signal(
    command: Sequence[str], number: signal.Signals = signal.SIGTERM
) -> list[str]:
    """The command line that runs `command` and sends it a signal when this process dies.

    Start it from the main thread: to the kernel, the parent is the thread that forked. On SIGTERM
    the trainer saves its state before it exits. Systems other than Linux send no signal.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(number.value), *command]


def main() -> None:
    """Request the signal, then become the command (exec).

    Raises:
        OSError: The command cannot be run.
    """
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
        # The parent died before the request, which then concerns its successor.
        if os.getppid() != int(parent):
            sys.exit(128 + int(number))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
