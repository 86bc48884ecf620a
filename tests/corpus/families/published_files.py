"""The published repository of a family on disk: every file at its published size, weights as holes.

Configurations are those published, and headers describe all tensors; only their bytes are absent,
so that 200 GB take no space.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn

from tests.corpus.families.parts import Part, build_model, write_json
from tests.corpus.families.registry import FamilyModule

TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
LIMITS = ("10GB", "5GB", "4GB")
"""Of a file: diffusers', transformers' and that of some publishers."""
SLACK = 0.001
"""Of a size: other versions of the libraries name tensors otherwise in the header."""

Shard = Mapping[str, Tensor]


def write_published(folder: Path, family: FamilyModule) -> None:
    """Write the family's repository as it is published, with the tokenizers of its tiny model."""
    family.build(folder)
    write_json(folder / "model_index.json", dict(family.INDEX))
    for name, part in family.PARTS.items():
        for path in (folder / name).glob("*.safetensors*"):
            path.unlink()
        write_json(folder / name / "config.json", part.config)
        files = [file for file in family.FACTS.files if file.startswith(f"{name}/")]
        shards = find_shards(part, [family.FACTS.files[file] for file in files])
        for file, shard in zip(files, shards, strict=True):
            write_hollow(folder / file, shard, family.FACTS.files[file])
        if len(files) > 1:
            stem = Path(files[0]).name.partition("-0")[0]
            places = {
                weight: Path(file).name
                for file, shard in zip(files, shards, strict=True)
                for weight in shard
            }
            index = folder / name / f"{stem}.safetensors.index.json"
            write_json(index, {"metadata": {}, "weight_map": places})
    for file, size in family.FACTS.others.items():
        if not (folder / file).exists():  # as that of the tiny model's tokenizer
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            with (folder / file).open("wb") as stream:
                stream.truncate(size or 1)


def find_shards(part: Part, sizes: list[int | None]) -> list[Shard]:
    """The tensors of each file, in the precision and the split that give the published sizes.

    Raises:
        AssertionError: The published configuration does not have these sizes.
    """
    with torch.device("meta"):
        model = build_model(part, part.config)
    found = []
    for shards in _candidates(model):
        lengths = [_size(shard) for shard in shards]
        found.append(lengths)
        if len(shards) == len(sizes) and all(
            size is None or abs(length - size) <= SLACK * size
            for length, size in zip(lengths, sizes, strict=True)
        ):
            return shards
    raise AssertionError(f"{part.class_name}: {sizes} are published, and computed {found}")


def _candidates(model: nn.Module) -> Iterator[list[Shard]]:
    # A weight that two names share is saved under the first, as among the parameters.
    kept = dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    state = {name: value for name, value in model.state_dict().items() if name in kept}
    for dtype in (torch.bfloat16, torch.float32):
        typed = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in state.items()
        }
        yield [typed]
        for limit in LIMITS:
            split = split_torch_state_dict_into_shards(typed, max_shard_size=limit)
            yield [
                {name: typed[name] for name in names}
                for _, names in sorted(split.filename_to_tensors.items())
            ]


def _size(shard: Shard) -> int:
    return 8 + len(_header(shard)) + sum(value.nbytes for value in shard.values())


def _header(shard: Shard) -> bytes:
    """In the order of the safetensors library: wide types first, then by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, value in sorted(shard.items(), key=lambda each: (-each[1].itemsize, each[0])):
        end = start + value.nbytes
        header[name] = {
            "dtype": TYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def write_hollow(path: Path, shard: Shard, size: int | None) -> None:
    """Write a safetensors file of `size` bytes with the header of these tensors, and holes."""
    header = _header(shard)
    data = sum(value.nbytes for value in shard.values())
    if size is not None and 8 + len(header) + data > size:
        # Names of other versions were shorter.
        header = _header({str(number): value for number, value in enumerate(shard.values())})
    if size is not None:
        header = header.ljust(size - data - 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + data)
