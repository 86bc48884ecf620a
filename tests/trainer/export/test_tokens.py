"""Learned words survive the export: in diffusers, under web UIs' names, in this trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.load import add_exported, list_export
from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.export.tokens import read_word
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.families.sdxl import StableDiffusionXL
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.tokens.learn import add_words, learned_rows, token_rows
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.process.errors import BadModelError
from tests.trainer.export.test_export import ABOUT
from tests.trainer.export.test_readme import python_blocks
from tests.trainer.families.conftest import build, load, load_plain

PROMPTS = ["a photo of <my-mug> cup, sks", "a mug"]
WORDS = (LearnedWord("<my-mug>", "cup", 3), LearnedWord("sks", "cup"))


def learned(family: Family, words: tuple[LearnedWord, ...] = WORDS) -> Family:
    """The family with words that pretend to be trained."""
    add_words(family, words)
    seeded = torch.Generator().manual_seed(5)
    for rows in token_rows(family).values():
        rows.data = torch.randn(rows.shape, generator=seeded)
    return family


@pytest.fixture(params=["sd", "sdxl"])
def fresh(request: pytest.FixtureRequest) -> Callable[[], Family]:
    """Loads a model that has learned nothing."""
    if request.param == "sdxl":
        return lambda: load(build("sdxl"))
    model = request.getfixturevalue("random_model")
    return lambda: load(model)


def test_another_process_draws_the_same_with_the_exported_words(
    fresh: Callable[[], Family], tmp_path: Path
) -> None:
    family = learned(fresh())
    expected = family.encode_prompts(PROMPTS)
    export_lora(family, tmp_path, ABOUT)
    again = fresh()
    storage = Storage(StorageSettings())
    names = list_export(storage, f"file://{tmp_path}") - {"README.md"}
    add_exported(again, storage, f"file://{tmp_path}", names)
    assert {word.tokens[-1] for word in again.words} == {"<my-mug>_2", "sks"}
    found = again.encode_prompts(PROMPTS)
    assert all(found[name].equal(part) for name, part in expected.items())


def test_the_code_of_the_card_draws_the_same_in_plain_diffusers(
    fresh: Callable[[], Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = learned(fresh())
    expected = family.encode_prompts(PROMPTS)
    export_lora(family, tmp_path, ABOUT)
    [code] = python_blocks((tmp_path / "README.md").read_text())
    loading = code[code.index("\n)\n") + 3 : code.index("pipe.to(")]
    monkeypatch.chdir(tmp_path)
    pipe = fresh().pipeline()
    exec(compile(loading, "README.md", "exec"), {"pipe": pipe, "load_file": load_file})
    arguments = {"device": "cpu", "num_images_per_prompt": 1}
    states, *others = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, **arguments)
    torch.testing.assert_close(states, expected["hidden_states"])
    if "pooled" in expected:
        torch.testing.assert_close(others[1], expected["pooled"])


def test_web_uis_find_the_names_that_they_read(fresh: Callable[[], Family], tmp_path: Path) -> None:
    """Of A1111's textual_inversion.py, ComfyUI's sd1_clip.py and sd-scripts' train_network.py."""
    family = learned(fresh())
    export_lora(family, tmp_path, ABOUT)
    files = {path.stem: load_file(path) for path in (tmp_path / "embeddings").iterdir()}
    assert files.keys() == {"my-mug", "sks"}
    keys = {"clip_l", "clip_g"} if isinstance(family, StableDiffusionXL) else {"emb_params"}
    assert all(file.keys() == keys for file in files.values())
    for word, rows in learned_rows(family).items():
        [file] = [file for name, file in files.items() if name in word.text]
        assert [len(each) for each in file.values()] == [word.vectors] * len(keys)
        assert all(any(own.equal(each) for each in file.values()) for own in rows.values())


def test_one_word_loads_from_the_folder_alone(random_model: Path, tmp_path: Path) -> None:
    family = learned(load(random_model), (LearnedWord("sks", "cup", 2),))
    expected = family.encode_prompts(["a sks mug"])["hidden_states"]
    export_lora(family, tmp_path, ABOUT)
    pipe = load_plain(random_model)
    pipe.load_textual_inversion(tmp_path)
    states, _ = pipe.encode_prompt(["a sks mug"], "cpu", 1, False)
    torch.testing.assert_close(states, expected)


def test_the_card_says_what_it_is_and_where_it_goes(random_model: Path, tmp_path: Path) -> None:
    family = learned(load(random_model), (LearnedWord("<my-mug>", "cup"),))
    export_lora(family, tmp_path, ABOUT)
    card = (tmp_path / "README.md").read_text()
    assert "\n- textual_inversion\n" in card
    assert "A learned token for" in card
    assert "lora" not in card
    assert "`embeddings/my-mug.safetensors` to `models/embeddings` of ComfyUI" in card
    assert "`embedding:my-mug`" in card


def test_the_pooled_text_of_sdxl_is_that_of_the_end() -> None:
    """The published configuration takes it from the largest id, which a new token has."""
    family = load(build("sdxl"))
    assert family.text_encoders["text_encoder_2"].config.eos_token_id == 2
    expected = family.encode_prompts(["a a", "a a a"])["pooled"]
    add_words(family, (LearnedWord("sks", "a", 2), LearnedWord("<one>", "a")))
    found = family.encode_prompts(["a <one>", "a sks"])["pooled"]
    torch.testing.assert_close(found, expected)


ROWS = torch.arange(32.0).reshape(2, 16)
A1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": ROWS.clone().requires_grad_()},
    "name": "mug-500",
    "step": 499,
    "sd_checkpoint": None,
    "sd_checkpoint_name": None,
}
"""What `Embedding.save` of A1111 writes."""


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("mug.pt", A1111, "mug"),
        ("mug.safetensors", {"emb_params": ROWS}, "mug"),
        ("mug.safetensors", {"<thing>": ROWS}, "<thing>"),
        ("learned_embeds.bin", {"<thing>": ROWS}, "<thing>"),
    ],
)
def test_files_of_other_tools_are_read(
    tmp_path: Path, file: str, content: dict[str, Any], word: str
) -> None:
    write = save_file if file.endswith(".safetensors") else torch.save
    write(content, tmp_path / file)
    found, rows = read_word(StableDiffusion, tmp_path / file, file)
    assert found == LearnedWord(word, word, 2)
    assert rows["text_encoder"].equal(ROWS)
    assert not rows["text_encoder"].requires_grad


class RunsCode:
    """What a hostile file may hold: a call of any function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"string_to_param": {"*": ROWS}, "name": RunsCode()}, "holds more than tensors"),
        ({"name": "mug"}, "holds no learned token"),
        ([1], "holds no learned token"),
        ({"mug": ROWS.new_full((2, 16), float("nan"))}, "other things than vectors of finite"),
        ({"mug": ROWS.reshape(2, 2, 8)}, "other things than vectors of finite"),
    ],
)
def test_what_is_no_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "mug.pt")
    with pytest.raises(BadModelError, match=f"^mug.pt .*{reason}"):
        read_word(StableDiffusion, tmp_path / "mug.pt", "mug.pt")
    assert not Path("ran").exists()


def test_tokens_of_sdxl_have_rows_for_both_text_encoders(tmp_path: Path) -> None:
    rows = torch.randn(2, 16)
    save_file({"clip_l": rows, "clip_g": rows.clone()}, tmp_path / "xl.safetensors")
    with pytest.raises(BadModelError, match="it holds clip_g, clip_l in place of one tensor"):
        read_word(StableDiffusion, tmp_path / "xl.safetensors", "xl")
    assert [*read_word(StableDiffusionXL, tmp_path / "xl.safetensors", "xl")[1]] == [
        "text_encoder",
        "text_encoder_2",
    ]
