"""Every block of Python on a page runs as it stands, on the model of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from tests.docs.pages import BLOCKS, ROOT, Block
from tests.trainer.export.test_export import ABOUT, adapt

TINY_SD = ROOT / "examples" / "tiny-sd" / "model"
PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a LoRA job exports."""
    pipeline = StableDiffusionPipeline.from_pretrained(TINY_SD)
    adapt(pipeline.unet, ["to_q", "to_v"], seed=1)
    folder = tmp_path_factory.mktemp("export")
    export_lora(StableDiffusion(pipeline, ""), folder, ABOUT)
    return folder


@pytest.fixture
def folder(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the paths that blocks name."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name, target in {
        "examples": ROOT / "examples",
        "path/to/base-model": TINY_SD,
        "path/to/export": export,
    }.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# diffusers 0.42 has not adapted to numpy 2's __array__.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_makes_an_image(block: Block, folder: Path) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
    (written,) = folder.glob("*.png")
    with Image.open(written) as image:
        assert image.size == (64, 64)
        assert image.getextrema() != ((0, 0),) * 3


def test_blocks_of_python_are_found() -> None:
    assert [block.page for block in PYTHON] == [
        "README.md",
        "examples/tiny-flow/README.md",
        "examples/tiny-sd/README.md",
    ]
