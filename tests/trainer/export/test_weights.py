"""Exported files of weights."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dreambooth_trainer.export.weights import save_weights

TRIGGERS = {f"ss_tag_{n}": f'a "mug" \\ n\u00e9\u732b\U0001f63a\x7f\n{n}' for n in range(30)}


@pytest.mark.parametrize("metadata", [TRIGGERS, {}])
def test_equal_weights_are_equal_files(tmp_path: Path, metadata: dict[str, str]) -> None:
    weights = {"b": torch.arange(6.0).reshape(2, 3).t(), "a": torch.ones(3, dtype=torch.bfloat16)}
    files = [tmp_path / "first", tmp_path / "second"]
    save_weights(weights, files[0], metadata)
    backwards = (dict(reversed(each.items())) for each in (weights, metadata))
    save_weights(next(backwards), files[1], next(backwards))
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], framework="pt") as file:
        assert (file.metadata() or {}) == metadata
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118
            name: tensor.tolist() for name, tensor in weights.items()
        }
