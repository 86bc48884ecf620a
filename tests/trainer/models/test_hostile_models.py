"""Models that were damaged, or made to do harm: refused in words that name them; nothing is run."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.evaluation.encoder_config import EncoderSource, read_encoder
from dreambooth_trainer.evaluation.encoders import TextEncoder
from dreambooth_trainer.models import load_family
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology

CLIP = Path(__file__).parents[3] / "examples" / "tiny-sd" / "clip"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def storage() -> Storage:
    return Storage(StorageSettings())


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What hostile code makes when it is run."""
    return tmp_path / "code-was-run"


@pytest.fixture
def model(random_model: Path, tmp_path: Path) -> Path:
    """A model of one's own, to be damaged."""
    return Path(shutil.copytree(random_model, tmp_path / "model"))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def header(tensors: dict[str, tuple[list[int], list[int]]]) -> bytes:
    return json.dumps(
        {
            name: {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            for name, (shape, offsets) in tensors.items()
        }
    ).encode()


def safetensors(head: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(head) if length is None else length) + head + body


TWICE = header({"a": ([1], [0, 4]), "b": ([1], [4, 8])}).replace(b'"b"', b'"a"')
FILES: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": bytes(7),
    "a text": b"<html>404 Not Found</html>",
    "a header of exabytes": safetensors(b"{}", length=2**62),
    "a header of 100 MB": safetensors(b"{" + b" " * 1000, length=100_000_001),
    "a header that is no JSON": safetensors(b"not JSON at all"),
    "a header of brackets": safetensors(b"[" * 100_000),
    "offsets that overlap": safetensors(
        header({"a": ([2], [0, 8]), "b": ([2], [4, 12])}), bytes(12)
    ),
    "offsets beyond the end": safetensors(header({"a": ([2000], [0, 8000])}), bytes(8)),
    "offsets backwards": safetensors(header({"a": ([1], [4, 0])}), bytes(4)),
    "a name twice": safetensors(TWICE, bytes(8)),
    "a negative shape": safetensors(header({"a": ([-1], [0, 4])}), bytes(4)),
    "a shape beyond 64 bits": safetensors(header({"a": ([2**40, 2**40], [0, 4])}), bytes(4)),
    "bytes of no tensor": safetensors(header({"a": ([1], [0, 4])}), bytes(400)),
}  # fmt: skip


def refused(storage: Storage, source: Path, layout: str = "diffusers") -> str:
    """What is said when it is loaded."""
    model = Model.model_validate({"source": str(source), "layout": layout})
    with pytest.raises(BadModelError) as raised:
        load_family(model, storage, Ranks(Topology()), torch.device("cpu"))
    message = str(raised.value)
    assert message.startswith(f"spec.model.source: {source}") or f" of {source} " in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_single_file_that_is_no_safetensors_file(
    storage: Storage, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    said = refused(storage, path, "single-file")
    assert "cannot be loaded: it is damaged, or no safetensors file (" in said


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_weights_of_a_folder_that_are_no_safetensors_file(
    storage: Storage, model: Path, content: bytes
) -> None:
    (model / "unet" / WEIGHTS).write_bytes(content)
    refused(storage, model)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_single_file_is_not_run(
    storage: Storage, tmp_path: Path, marker: Path, name: str, write: Callable[[Any, Path], object]
) -> None:
    path = tmp_path / name
    write({"state_dict": {"weight": Payload(marker)}}, path)
    assert "it is damaged, or" in refused(storage, path, "single-file")
    assert not marker.exists()


def test_a_checkpoint_file_of_weights_alone_is_unpickled_to_nothing_else(
    marker: Path, tmp_path: Path
) -> None:
    """The payload works: it is the loading that does not let it."""
    path = tmp_path / "model.ckpt"
    torch.save({"weight": Payload(marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_pickles_beside_the_weights_are_not_read(
    storage: Storage, model: Path, marker: Path
) -> None:
    torch.save({"weight": Payload(marker)}, model / "unet" / "diffusion_pytorch_model.bin")
    (model / "unet" / WEIGHTS).unlink()
    refused(storage, model)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("unet", ["evil", "UNet2DConditionModel"]),
        ("unet", ["os", "system"]),
        ("vae", ["diffusers_modules.evil", "Evil"]),
        ("_class_name", ["evil", "StableDiffusionPipeline"]),
        ("_class_name", "FluxPipeline"),
        ("_class_name", {"a": "b"}),
    ],
)
def test_code_that_comes_with_a_model_is_not_run(
    storage: Storage, model: Path, marker: Path, part: str, value: object
) -> None:
    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("evil.py", "None.py", "pipeline.py", "unet/evil.py", "vae/evil.py"):
        (model / name).write_text(code)
    index = model / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), part: value}))
    refused(storage, model)
    with pytest.raises(BadModelError):
        read_model_config(Model(source=str(model)), storage)
    assert not marker.exists()


def test_stray_code_in_a_good_models_folder_is_not_run(
    storage: Storage, model: Path, marker: Path
) -> None:
    for name in ("pipeline.py", "unet/unet.py", "tokenizer/tokenization.py"):
        (model / name).write_text(f"open({str(marker)!r}, 'w')\n")
    (model / "text_encoder" / "config.json").write_text(
        json.dumps(
            {
                **json.loads((model / "text_encoder" / "config.json").read_text()),
                "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
            }
        )
    )
    source = Model(source=str(model))
    load_family(source, storage, Ranks(Topology()), torch.device("cpu"))
    read_model_config(source, storage)
    assert not marker.exists()


CONFIGS: dict[str, tuple[str, object]] = {
    "endless layers": ("unet", {"layers_per_block": 10**9}),
    "endless layers of text": ("text_encoder", {"num_hidden_layers": 10**7}),
    "channels for all memory": ("vae", {"block_out_channels": [10**12, 16, 16]}),
    "a number that is none": ("unet", {"norm_eps": float("nan")}),
    "no sample size": ("unet", {"sample_size": None}),
    "channels as text": ("unet", {"block_out_channels": "many"}),
    "an unknown block": ("unet", {"down_block_types": ["os.system", "exec"]}),
    "groups that divide nothing": ("vae", {"norm_num_groups": 7}),
    "no groups": ("unet", {"norm_num_groups": 0}),
    "a million blocks": ("unet", {"block_out_channels": [8] * 10**6}),
    "heads that divide nothing": ("text_encoder", {"num_attention_heads": 7}),
    "nothing": ("vae", None),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_describes_no_model(storage: Storage, model: Path, case: str) -> None:
    part, changes = CONFIGS[case]
    path = model / part / "config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, **changes} if isinstance(changes, dict) else changes))
    with pytest.raises(BadModelError, match=r"^spec\.model\.source: ") as raised:
        read_model_config(Model(source=str(model)), storage)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b"null", b'"text"'])
@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "tokenizer/tokenizer.json"]
)
def test_json_that_is_none(storage: Storage, model: Path, name: str, content: bytes) -> None:
    if name.startswith("tokenizer"):
        for old in (model / "tokenizer").iterdir():
            old.unlink()
    (model / name).write_bytes(content)
    with pytest.raises(BadModelError, match=r"^spec\.model\.source: "):
        read_model_config(Model(source=str(model)), storage)
    refused(storage, model)


def test_a_prediction_that_has_no_objective(storage: Storage, model: Path) -> None:
    """Consistency models and others predict the image itself."""
    path = model / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    problem = "predicts 'sample'; only epsilon and v_prediction can be trained"
    with pytest.raises(BadModelError, match=problem):
        read_model_config(Model(source=str(model)), storage)
    assert problem in refused(storage, model)


def test_a_scheduler_that_is_no_json_hides_no_other_problem(storage: Storage, model: Path) -> None:
    (model / "scheduler" / "scheduler_config.json").write_bytes(b"{")
    (model / "unet" / "config.json").unlink()
    with pytest.raises(BadModelError) as raised:
        read_model_config(Model(source=str(model)), storage)
    assert f"scheduler/scheduler_config.json of {model} is not JSON" in str(raised.value)
    assert "unet/config.json is missing" in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"null", b"{}", *list(FILES.values())[:6]]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_that_scores_and_is_none(
    storage: Storage, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(CLIP, folder)
    (folder / name).write_bytes(content)
    source = EncoderSource(str(folder), "spec.evaluation.encoders.text", reads_text=True)
    with pytest.raises(BadModelError, match=r"^spec\.evaluation\.encoders\.text: "):
        TextEncoder(folder, read_encoder(source, storage), source, torch.device("cpu"))


@pytest.mark.parametrize(
    ("part", "file"), [("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors")]
)
def test_a_weight_that_is_not_finite_is_named_before_training(
    storage: Storage, model: Path, part: str, file: str
) -> None:
    weights = load_file(model / part / file)
    name = max(weights, key=lambda key: weights[key].numel())
    weights[name].view(-1)[-1] = torch.inf
    save_file(weights, model / part / file, metadata={"format": "pt"})
    assert f"of its {part} holds values that are NaN or infinite" in refused(storage, model)
