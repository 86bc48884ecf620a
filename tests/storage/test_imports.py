"""What storage imports: boto3 only for s3://."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("boto3", "botocore", "torch")


@pytest.mark.parametrize("module", ["dreambooth_storage", "dreambooth_storage.upload.worker"])
def test_files_are_written_without_boto3(module: str, tmp_path: Path) -> None:
    code = f"""
import sys
import {module}
from dreambooth_storage import Storage, StorageSettings
with Storage(StorageSettings(None, None, "auto")) as storage:
    storage.write("file://{tmp_path}/object", b"content")
print([name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
    assert (tmp_path / "object").read_bytes() == b"content"
