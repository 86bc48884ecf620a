"""LoRAs that people have: which are read, with which scale, and what is said of the others."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dreambooth_api.models.model import StartAdapter
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import KOHYA_FILE, LORA_FILE, export_lora
from dreambooth_trainer.models.adapters import start
from dreambooth_trainer.models.adapters.start import load_adapter, merge_adapters, read_adapter
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.trainer.export.test_adapters import adapt, predict, train
from tests.trainer.export.test_export import ABOUT
from tests.trainer.models.hub_server import serve

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

STORAGE, ALONE = Storage(StorageSettings()), Ranks(Topology())
FIELD = "spec.model.adapter"


@pytest.fixture
def exported(random_pipeline: Any, tmp_path: Path) -> Path:
    """A LoRA of linear layers and convolutions, of UNet and text encoder, with several ranks."""
    train(adapt(random_pipeline, "lora"))
    folder = tmp_path / "lora"
    export_lora(StableDiffusion(random_pipeline, ""), folder, ABOUT)
    return folder


@pytest.fixture
def family(random_model: Path) -> StableDiffusion:
    pipeline = StableDiffusionPipeline.from_pretrained(random_model, safety_checker=None)
    return StableDiffusion(pipeline, "base")


def scales(family: StableDiffusion, source: Path) -> set[float]:
    loaded = load_adapter(StartAdapter(source=str(source)), STORAGE, ALONE, family, FIELD)
    return {round(each.scale, 4) for each in loaded.layers}


@pytest.mark.parametrize("file", [LORA_FILE, KOHYA_FILE])
def test_convolutions_and_text_encoders_are_merged(
    random_pipeline: Any, exported: Path, family: StableDiffusion, file: str
) -> None:
    before = predict(family.pipeline())
    merge_adapters(family, [StartAdapter(source=str(exported / file))], STORAGE, ALONE)
    assert not torch.allclose(before, predict(family.pipeline()), atol=1e-2)
    torch.testing.assert_close(
        predict(family.pipeline()), predict(random_pipeline), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_lycoris_is_merged(
    random_pipeline: Any, family: StableDiffusion, tmp_path: Path, kind: str
) -> None:
    train(adapt(random_pipeline, kind))
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    given = StartAdapter(source=str(tmp_path / KOHYA_FILE))
    assert read_adapter(given, STORAGE, family, FIELD).lycoris
    before = predict(family.pipeline())
    merge_adapters(family, [given], STORAGE, ALONE)
    assert not torch.allclose(before, predict(family.pipeline()), atol=1e-2)
    expected = predict(random_pipeline)
    torch.testing.assert_close(predict(family.pipeline()), expected, rtol=1e-3, atol=1e-3)


def test_alphas_are_found_wherever_a_tool_keeps_them(
    exported: Path, family: StableDiffusion, tmp_path: Path
) -> None:
    assert len(scales(family, exported / KOHYA_FILE)) > 1  # an alpha for each layer
    assert scales(family, exported / LORA_FILE) == {1.0}
    tensors = {n: t for n, t in load_file(exported / LORA_FILE).items() if ".to_q.lora" in n}
    config = {"unet.r": 4, "unet.lora_alpha": 2, "unet.use_rslora": True}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    assert scales(family, tmp_path / "a.safetensors") == {1.0}  # 2 / sqrt(4)

    peft = tmp_path / "peft"
    peft.mkdir()
    named = {f"base_model.model.{n.removeprefix('unet.')}": t for n, t in tensors.items()}
    save_file(named, peft / "adapter_model.safetensors")
    hashes = set()
    for alpha in (2, 8):
        (peft / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        assert scales(family, peft) == {alpha / 4}
        given = StartAdapter(source=str(peft))
        hashes.add(load_adapter(given, STORAGE, ALONE, family, FIELD).sha256)
    assert len(hashes) == 2  # class images that are shared depend on the alpha
    (peft / "adapter_config.json").unlink()
    with pytest.raises(BadModelError, match=r"adapter_config.json of .* is missing"):
        scales(family, peft)


def problem(family: StableDiffusion, source: Path | str) -> str:
    given = StartAdapter(source=str(source))
    with pytest.raises(BadModelError) as seen:
        read_adapter(given, STORAGE, family, FIELD)
    with pytest.raises(BadModelError) as caught:
        load_adapter(given, STORAGE, ALONE, family, FIELD)
    assert str(seen.value) == str(caught.value)
    return str(caught.value).removeprefix(f"{FIELD}: ").replace(str(source), "FILE")


def test_a_lora_of_another_model_is_refused_by_name(
    exported: Path, family: StableDiffusion, tmp_path: Path
) -> None:
    file = tmp_path / "other.safetensors"
    matrices = {"lora_down.weight": torch.ones(4, 2048), "lora_up.weight": torch.ones(64, 4)}
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{stem}.{end}": tensor for end, tensor in matrices.items()}, file)
    assert problem(family, file) == (
        "FILE is a LoRA for Stable Diffusion XL, and the base model is of Stable Diffusion 1.x and"
        " 2.x (it has unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k); name a LoRA"
        " of the base model"
    )
    stem = "transformer.single_transformer_blocks.0.attn.to_q"
    save_file({f"{stem}.{end}": tensor for end, tensor in matrices.items()}, file)
    assert problem(family, file).startswith("FILE is a LoRA for FLUX, and the base model is of")
    save_file(
        {f"{stem}.{end}": tensor for end, tensor in matrices.items()},
        file,
        {"modelspec.architecture": "chroma/lora"},
    )
    assert problem(family, file).startswith("FILE is a LoRA for chroma/lora, and the base")


def test_what_is_no_lora_is_refused(
    random_pipeline: Any, family: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.safetensors"
    save_file({"lora_unet_mid_block.dora_scale": torch.ones(2, 2)}, file)
    assert problem(family, file) == "FILE is a DoRA; only LoRAs, LoHas and LoKrs can be read"
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{stem}.lokr_w1": torch.ones(2, 2), f"{stem}.lokr_w2": torch.ones(2, 2)}, file)
    assert problem(family, file).startswith("FILE is a LoRA for another model, and the base model")
    save_file({"model.diffusion_model.out.weight": torch.ones(2, 2)}, file)
    assert problem(family, file) == "FILE holds no LoRA; name a LoRA's .safetensors file"
    file.write_bytes(b"PK\x03\x04 not safetensors")
    with pytest.raises(BadModelError, match="is damaged, or no safetensors file; copy it again"):
        read_adapter(StartAdapter(source=str(file)), STORAGE, family, FIELD)
    assert problem(family, tmp_path / "no.safetensors") == (
        "there is no file FILE; correct it, or copy the model"
    )
    assert problem(family, "/no.safetensors").startswith("there is no file FILE; correct it")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    assert problem(family, tmp_path) == (
        "FILE holds 2 .safetensors files; name one of them, such as FILE/b.safetensors"
    )
    monkeypatch.setattr(start, "MAX_BYTES", 10)
    assert problem(family, tmp_path / "b.safetensors").startswith("FILE has 68 bytes, which is no")


def test_values_that_are_not_finite_are_refused(
    exported: Path, family: StableDiffusion, tmp_path: Path
) -> None:
    tensors = load_file(exported / LORA_FILE)
    name = next(iter(tensors))
    tensors[name][0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    given = StartAdapter(source=str(tmp_path / "nan.safetensors"))
    with pytest.raises(BadModelError, match="holds values that are NaN or infinite"):
        load_adapter(given, STORAGE, ALONE, family, FIELD)


def test_one_is_fetched_from_the_hub(
    exported: Path, family: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAMBOOTH_CACHE_DIR", str(tmp_path / "cache"))
    with serve("owner/style", exported) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        for source in ("hf://owner/style", f"hf://owner/style/{KOHYA_FILE}"):
            given = StartAdapter(source=source, revision="main")
            assert read_adapter(given, STORAGE, family, FIELD).layers
            file = KOHYA_FILE if source.endswith(KOHYA_FILE) else LORA_FILE
            local = StartAdapter(source=str(exported / file))
            remote = load_adapter(given, STORAGE, ALONE, family, FIELD)
            assert remote.sha256 == load_adapter(local, STORAGE, ALONE, family, FIELD).sha256


@pytest.mark.parametrize(
    ("changed", "config", "message"),
    [
        ({"alpha": torch.tensor(torch.nan)}, {}, "has the alpha nan"),
        ({"alpha": torch.tensor(torch.inf)}, {}, "has the alpha inf"),
        ({"alpha": torch.ones(2)}, {}, "alpha has 2 values"),
        (
            {"lora_down.weight": torch.ones(0, 16), "lora_up.weight": torch.ones(16, 0)},
            {},
            "has the rank 0",
        ),
        ({}, {"unet.lora_alpha": torch.inf}, "has the alpha inf"),
        ({"lora_down.weight": torch.ones(2, 16).to(torch.float8_e4m3fn)}, {}, "float8_e4m3fn"),
        ({"lora_down.weight": torch.ones(2, 16).to(torch.int8)}, {}, "int8"),
    ],
)
def test_a_file_that_would_break_the_training_is_refused(
    family: StableDiffusion,
    tmp_path: Path,
    changed: dict[str, Any],
    config: dict[str, Any],
    message: str,
) -> None:
    file = tmp_path / "file.safetensors"
    plain = {"lora_down.weight": torch.ones(2, 16), "lora_up.weight": torch.ones(16, 2)}
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.{end}": tensor for end, tensor in (plain | changed).items()}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(config)})
    given = StartAdapter(source=str(file))
    with pytest.raises(BadModelError, match=message):
        load_adapter(given, STORAGE, ALONE, family, FIELD)


@pytest.mark.parametrize("metadata", ['"x"', "[]", '{"lora_adapter_metadata": 5}', "null"])
def test_a_header_with_odd_metadata_is_refused_or_read(
    family: StableDiffusion, tmp_path: Path, metadata: str
) -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    entries = [
        f'"{stem}.{end}": {{"dtype": "F32", "shape": {shape}, "data_offsets": [{start}, {stop}]}}'
        for end, shape, start, stop in (
            ("lora_down.weight", [2, 16], 0, 128),
            ("lora_up.weight", [16, 2], 128, 256),
        )
    ]
    header = f'{{"__metadata__": {metadata}, {", ".join(entries)}}}'.encode()
    file = tmp_path / "file.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(256))
    with contextlib.suppress(BadModelError):
        read_adapter(StartAdapter(source=str(file)), STORAGE, family, FIELD)
