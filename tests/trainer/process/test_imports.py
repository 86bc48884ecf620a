"""What a run imports: only what it uses."""

import subprocess
import sys

import pytest

from dreambooth_trainer.models.registry import FAMILIES

UNUSED = (
    "dreambooth_storage.s3",  # no URI is s3://
    "dreambooth_trainer.run.evaluate",  # no --protocol
    "tensorboard",  # spec.tracking names no tracker
    "wandb",
    "openai",  # no spec.captioning.endpoint
    "pandas",
    "torchvision",
)
FAMILY = "StableDiffusionPipeline"


def test_a_run_imports_one_family_and_no_tracker() -> None:
    # As `python -m dreambooth_trainer` does before it reads the model; then it loads its family.
    code = f"""
import sys

import pytest
import dreambooth_trainer.__main__
import dreambooth_trainer.run.train
from dreambooth_trainer.models.registry import FAMILIES
FAMILIES[{FAMILY!r}]
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = set(result.stdout.split())
    assert "dreambooth_trainer.run.train" in imported, result.stderr
    assert not imported.intersection(UNUSED)
    others = {family.__module__ for name, family in FAMILIES.items() if name != FAMILY}
    assert not imported & others


@pytest.mark.parametrize("program", ["", ".serving", ".export.merge"])
def test_programs_tell_libraries_to_be_quiet_before_they_import_them(program: str) -> None:
    # They say what they lack when they are imported, and read their settings then.
    name = f"dreambooth_trainer{program}"
    module = name if program == ".export.merge" else f"{name}.__main__"
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    imported = set(result.stdout.split())
    assert module in imported, result.stderr
    assert not imported & {"bitsandbytes", "diffusers", "peft", "transformers"}
