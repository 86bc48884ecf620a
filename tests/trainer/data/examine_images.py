"""Decodes each file of the corpus in a process of its own: prints a line of JSON for each.

Their address space is bounded, so that a file that asks for more fails here and not on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import time

from dreambooth_trainer.data.decode import UnreadableImageError, decode
from tests.trainer.data.nasty_images import corpus

ADDRESS_SPACE = 4 * 1024**3


def main() -> None:
    files = corpus()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for nasty in files:
        data = nasty.data
        if os.fork() == 0:  # what one file took does not hide what the next one takes
            print(json.dumps({"name": nasty.name, **examine(data)}), flush=True)
            os._exit(0)
        os.wait()


def examine(data: bytes) -> dict[str, object]:
    """What became of a file; seconds of the processor, and by how much it raised the peak."""
    before, began = peak(), time.process_time()
    try:
        image = decode(data, smallest=47)
        fate = f"{image.mode} {image.size}"
    except UnreadableImageError as error:
        fate = f"refused: {error}"
    except BaseException as error:
        fate = f"crashed: {type(error).__name__}: {error}"
    seconds = time.process_time() - began
    return {"fate": fate, "seconds": seconds, "grown": peak() - before}


def peak() -> int:
    """Most bytes that this process has had in memory; none that were swapped out."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
