"""Which messages of libraries reach the log."""

import subprocess
import sys


def test_messages_that_concern_no_user_are_left_out() -> None:
    code = """
import logging
from dreambooth_trainer.process.library_logs import quiet_libraries
logging.basicConfig(level=logging.INFO)
quiet_libraries()
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("no kernel of the hub")
logging.getLogger("httpx").info("each request")
logging.getLogger("httpx").warning("kept")
import diffusers, transformers
print(diffusers.logging.get_verbosity(), transformers.logging.get_verbosity())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "WARNING:httpx:kept\n"
    assert result.stdout == "40 40\n"
