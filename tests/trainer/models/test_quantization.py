"""Frozen weights in few bits: what is stored, where, and what it stands for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins.environments import LightningEnvironment
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dreambooth_api.models.model import Model, Quantization, WeightFormat
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.prior.class_image_cache import ClassImageRecipe
from dreambooth_trainer.export.lora import export_lora, load_adapters
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.load import reload_denoiser
from dreambooth_trainer.models.quantization.formats import dequantize, quantize
from dreambooth_trainer.models.quantization.linear import QuantizedLinear
from dreambooth_trainer.preflight.memory.meta_device import META, MemoryMeter
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.fit import _Distributed
from tests.trainer.export.test_export import ABOUT
from tests.trainer.resolved import resolve_job, resolve_training

CPU = torch.device("cpu")
TINY_FLOW = Path(__file__).parents[3] / "examples" / "tiny-flow" / "model"
STORAGE = Storage(StorageSettings())
ERRORS: dict[WeightFormat, float] = {"nf4": 0.1, "fp8": 0.03, "int8": 0.01}
"""Of normally distributed weights, relative to their deviation."""
BITS: dict[WeightFormat, float] = {"nf4": 4.5, "fp8": 8.25, "int8": 8.25}


def round_trip(weight: Tensor, format: WeightFormat) -> Tensor:
    return dequantize(*quantize(weight, format), format, weight.shape, weight.dtype)


@pytest.mark.parametrize("format", ERRORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_rounded_a_little(format: WeightFormat, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(96, 128) * torch.logspace(-3, 1, 96)[:, None]).to(dtype)
    codes, scales = quantize(weight, format)
    bits = 8 * (codes.nbytes + scales.nbytes) / weight.numel()
    assert bits == BITS[format]
    found = dequantize(codes, scales, format, weight.shape, dtype)
    assert found.dtype == dtype
    errors = (found - weight).float().norm(dim=1) / weight.float().norm(dim=1)
    assert errors.max() < 1.2 * ERRORS[format]


@pytest.mark.parametrize("format", ERRORS)
def test_odd_and_empty_weights_are_kept(format: WeightFormat) -> None:
    weight = torch.zeros(3, 5)
    assert round_trip(weight, format).equal(weight)
    weight[1, 2] = -3.5
    torch.testing.assert_close(round_trip(weight, format), weight)


@pytest.mark.parametrize("format", ERRORS)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_computes_and_differentiates_as_its_weight_does(
    format: WeightFormat, autocast: bool
) -> None:
    torch.manual_seed(0)
    source = nn.Linear(48, 32)
    layer = QuantizedLinear(source, format)
    plain = nn.Linear(48, 32)
    plain.load_state_dict({"weight": layer.weight, "bias": source.bias})
    results = []
    for each in (layer, plain.requires_grad_(False)):
        torch.manual_seed(1)
        values = torch.randn(2, 5, 48, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = each(values)
        output.float().square().sum().backward()
        results += [(output, values.grad)]
    assert results[0][0].equal(results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_weight_is_not_kept_for_the_backward_pass() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    layer = QuantizedLinear(nn.Linear(48, 32), "int8")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        functional.relu(layer(torch.randn(2, 48, requires_grad=True)))
    assert [each.shape for each in saved] == [(2, 32)]


def load(
    folder: Path, device: torch.device, precision: str = "bf16", **quantization: Any
) -> Family:
    model = Model(source=str(folder), quantization=Quantization(**quantization))
    training = resolve_training({"method": "lora", "precision": precision})
    return load_family(model, STORAGE, Ranks(Topology()), device, training)


def test_no_more_than_one_layer_is_on_the_device_in_full_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Weights on the meta device have no values to check.
    monkeypatch.setattr("dreambooth_trainer.models.load.check_finite", lambda *_: None)
    with MemoryMeter() as meter:
        family = load(TINY_FLOW, META, denoiser="nf4", text_encoders="fp8")
    modules = [module for part in family.parts.values() for module in part.modules()]
    kept = {
        each.untyped_storage()._cdata: each.untyped_storage().nbytes()
        for module in modules
        for each in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    quantized = [module for module in modules if isinstance(module, QuantizedLinear)]
    assert {each.format for each in quantized} == {"nf4", "int8", "fp8"}
    assert sum(each.out_features * each.in_features for each in quantized) > 20 * max(
        each.out_features * each.in_features for each in quantized
    )
    # Of a layer that is quantized: in bf16, in fp32, and copies of that meanwhile.
    largest = max(each.out_features * each.in_features for each in quantized)
    size = sum(kept.values())
    assert size <= meter.peak < size + 16 * largest


def test_nothing_is_quantized_without_training(random_model: Path) -> None:
    model = Model(source=str(random_model), quantization=Quantization())
    family = load_family(model, STORAGE, Ranks(Topology()), CPU)
    assert not any(isinstance(module, QuantizedLinear) for module in family.denoiser.modules())


@pytest.mark.parametrize("format", ERRORS)
def test_weights_that_are_not_finite_are_refused(
    random_model: Path, tmp_path: Path, format: WeightFormat
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_model, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weights[name][0, 0] = torch.nan
    save_file(weights, file)
    with pytest.raises(BadModelError, match=f"the weight {name} of its unet holds values"):
        load(folder, CPU, denoiser=format)


def test_adapters_are_merged_into_weights_that_were_not_rounded(
    random_model: Path, tmp_path: Path
) -> None:
    training = {"method": "lora", "precision": "bf16", "textEncoder": {"method": "full"}}
    family = load(random_model, CPU, denoiser="nf4")
    source = load_file(random_model / "unet" / "diffusion_pytorch_model.safetensors")
    make_trainable(family, resolve_training(training))
    base = reload_denoiser(
        Model(source=str(random_model), quantization=Quantization()), STORAGE, family.model_hash
    )
    export_pipeline(family, tmp_path, ABOUT, base=base)
    exported = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    # Adapters start without effect: nothing has changed yet.
    assert exported.keys() == source.keys()
    assert [n for n, value in exported.items() if not torch.equal(value, source[n].half())] == []


def test_class_images_of_a_rounded_model_are_kept_apart() -> None:
    job = resolve_job({"method": "lora"})
    quantized = job.model_copy(deep=True)
    quantized.spec.model.quantization = Quantization()
    keys = {ClassImageRecipe.of(each, "a mug", "hash").key() for each in (job, quantized)}
    assert len(keys) == 2


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rslora": True, "alpha": 8},
    "pissa": {"init": "pissa"},
    "lokr": {"type": "lokr"},
    "loha": {"type": "loha"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_every_type_begin_at_the_rounded_model_and_load_into_it(
    random_model: Path, tmp_path: Path, name: str
) -> None:
    training = {"method": "lora", "precision": "fp32", "lora": {"rank": 4, **ADAPTERS[name]}}
    plain, family = (load(random_model, CPU, "fp32", denoiser="int8") for _ in range(2))
    torch.manual_seed(2)
    values, conditioning = torch.randn(1, 4, 16, 16), {"hidden_states": torch.randn(1, 77, 16)}

    def predict(family: Family) -> Tensor:
        return family.predict(values, torch.tensor([500]), conditioning)

    expected = predict(plain)
    trained = make_trainable(family, resolve_training(training)).all
    torch.testing.assert_close(predict(family), expected, rtol=1e-3, atol=1e-3)
    predict(family).square().sum().backward()
    with torch.no_grad():
        for parameter in trained.values():
            assert parameter.grad is not None
            parameter += 0.3 * torch.randn(parameter.shape)
    changed = predict(family).detach()
    assert (changed - expected).norm() > 0.01 * expected.norm()
    export_lora(family, tmp_path, ABOUT)
    load_adapters(plain.pipeline(), tmp_path)
    difference = (predict(plain) - changed).norm() / (changed - expected).norm()
    assert difference < 0.01


def test_codes_are_not_sent_to_other_ranks_with_each_pass() -> None:
    quantized = QuantizedLinear(nn.Linear(64, 64), "int8")
    strategy: Any = _Distributed(
        CPUAccelerator(), parallel_devices=[CPU], cluster_environment=LightningEnvironment()
    )
    strategy.model = pl.LightningModule()
    strategy.model.layers = nn.Sequential(quantized, nn.Linear(64, 1))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        strategy.configure_ddp()
        assert strategy.model.modules_buffers
        assert not strategy.model.will_sync_module_buffers()
    finally:
        dist.destroy_process_group()
