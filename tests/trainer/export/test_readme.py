"""README's snippet runs as it stands on an export, whatever precision the base model names."""

import re
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from tests.trainer.export.test_export import ABOUT, adapt, load

ROOT = Path(__file__).parents[3]
TINY_SD = ROOT / "examples" / "tiny-sd" / "model"


def python_blocks(markdown: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA of tiny-sd, whose text encoder's config says float16 and whose UNet's says nothing."""
    pipeline = load(TINY_SD)
    adapt(pipeline.unet, ["to_q"], 1)
    export_lora(StableDiffusion(pipeline, ""), tmp_path / "export", ABOUT)
    return tmp_path / "export"


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a block in `folder`, with two sampling steps."""
    monkeypatch.chdir(folder)
    call = StableDiffusionPipeline.__call__
    quick = lambda self, *prompt, **arguments: call(  # noqa: E731
        self, *prompt, **{**arguments, "num_inference_steps": 2}
    )
    monkeypatch.setattr(StableDiffusionPipeline, "__call__", quick)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_snippet_for_a_lora(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (b for b in python_blocks((ROOT / "README.md").read_text()) if "load_lora" in b)
    code = code.replace("path/to/base-model", str(TINY_SD)).replace("path/to/export", str(lora))
    run(code, tmp_path, monkeypatch)
    assert (tmp_path / "moon.png").is_file()


def test_the_snippet_of_a_model_card(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = python_blocks((lora / "README.md").read_text())
    code = code.replace("path/to/the/base/model", str(TINY_SD))
    assert run(code, lora, monkeypatch)["image"].size == (64, 64)
