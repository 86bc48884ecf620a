"""tiny-sd's training from the first stage to the export, with few pictures and few steps."""

import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

TINY_SD = Path(__file__).resolve().parents[2] / "examples" / "tiny-sd"
sys.path.insert(0, str(TINY_SD))

from diffusers import StableDiffusionPipeline  # noqa: E402

from dreambooth_trainer.captioning.models.local import LocalModel  # noqa: E402
from tinysd import clip, dataset, diffusion, fitting, stages  # noqa: E402

TRAIN = runpy.run_path(str(TINY_SD / "train.py"))
EXPORTED = ("model", "clip", "dino", "captioner", "classifier.safetensors")
STEPS = 1


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pictures and steps, and no processes to draw, whose start takes longer than drawing."""
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", ThreadPoolExecutor)
    for name in ("LOOSE_PICTURES", "STEADY_PICTURES", "AUTOENCODER_PICTURES"):
        monkeypatch.setattr(stages, name, 40)
    monkeypatch.setattr(stages, "ITEMS", 120)
    for name in ("GROUP", "READING_GROUP"):  # so few hold no more look-alikes
        monkeypatch.setattr(clip, name, 1)

    def fit(name: str, modules: Any, loss: Any, recipe: fitting.Recipe, *others: Any) -> None:
        fitting.fit(name, modules, loss, replace(recipe, steps=STEPS), *others)

    trainers = [
        module
        for name, module in sys.modules.items()
        if name.startswith("tinysd.") and getattr(module, "fit", None) is fitting.fit
    ]
    for module in trainers:
        if module is not fitting:
            monkeypatch.setattr(module, "fit", fit)
    for name in ("LOOSE", "STEADY"):  # read by processes of its own
        recipe = replace(getattr(diffusion, name), steps=STEPS)
        monkeypatch.setattr(diffusion, name, recipe)


def files(folder: Path) -> set[Path]:
    found = chain.from_iterable([folder / name, *(folder / name).rglob("*")] for name in EXPORTED)
    return {path.relative_to(folder) for path in found if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("short")
def test_all_stages_in_their_order_export_what_is_committed(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    for stage in chain(TRAIN["FIRST"], *TRAIN["CHAINS"]):
        stages.run(stage, work)
    stages.export(work, out)
    assert files(out) == files(TINY_SD)
    LocalModel(out / "captioner", "captioner", torch.device("cpu"))
    StableDiffusionPipeline.from_pretrained(out / "model")


def test_each_chain_has_what_it_needs_without_the_other() -> None:
    first, chains = TRAIN["FIRST"], TRAIN["CHAINS"]
    assert sorted([*first, *chain(*chains)]) == sorted(stages.STAGES)
    for names in chains:
        order = [*first, *names]
        for number, name in enumerate(order):
            assert set(stages.NEEDS.get(name, ())) <= set(order[:number]), name


def test_a_stage_that_comes_too_early_names_the_others(tmp_path: Path) -> None:
    with pytest.raises(stages.StageOrderError, match="caption: run --stage draw classify first"):
        stages.run("caption", tmp_path)
    with pytest.raises(stages.StageOrderError, match=r"export: run --stage draw .*caption.* first"):
        stages.export(tmp_path, tmp_path)
