"""The memory estimate, which is made on shapes alone, equals what the stages allocate."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.adapters.trainable import PRECISIONS, make_trainable
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.preflight.memory.meta_device import META, MemoryMeter
from dreambooth_trainer.preflight.memory.stages import measure_stages
from dreambooth_trainer.process.chunks import images_per_pass
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.out_of_memory import GpuStage
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.training.module import DreamBooth
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import SIDE, SUPPORTED, build

CPU = torch.device("cpu")
STORAGE = Storage(StorageSettings())
BATCH = 4
CAPTION = "a b c d " * 1000
"""As long as can be, which is what the estimate assumes."""


LORA, FULL = {"method": "lora", "precision": "bf16"}, {"method": "full", "precision": "fp32"}
# On CPUs, autocast leaves norms in bf16, which CUDA's computes in fp32.
PLAIN_LORA = {"method": "lora", "precision": "fp32"}


CASES = [
    *((name, PLAIN_LORA) for name in ("stable_diffusion", "qwen_image")),
    *((name, FULL) for name in ("stable_diffusion", "flux", "z_image")),
    *((name, LORA) for name in SUPPORTED if name != "qwen_image"),
    ("flux", {**LORA, "quantization": {"denoiser": "nf4", "textEncoders": "int8"}}),
    ("stable_diffusion", {**PLAIN_LORA, "quantization": {"denoiser": "int8"}}),
    ("z_image", {**LORA, "quantization": {"denoiser": "fp8"}}),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize(
    ("name", "training"),
    CASES,
    ids=[
        f"{name}, {'quantized' if 'quantization' in each else each['method']}"
        for name, each in CASES
    ],
)
def test_the_estimate_is_what_a_run_allocates(
    job: MakeJob, random_model: Path, name: str, training: dict[str, Any]
) -> None:
    model = Model(source=str(random_model if name == "stable_diffusion" else build(name)))
    config = read_model_config(model, STORAGE)
    assert config is not None
    settings = {**training, "resolution": SIDE, "flip": False}
    given = {"quantization": each} if (each := settings.pop("quantization", None)) else {}
    spec = DreamBoothJob.model_validate(job(training=settings, prior={"count": BATCH}, model=given))
    resolved = fill_defaults(spec, config.defaults, config.skeleton.flow_shift)
    estimate = measure_stages(resolved, config, local_batch=BATCH, ranks=1)
    model = resolved.spec.model.model_copy(update={"source": model.source})
    family = load_family(model, STORAGE, Ranks(Topology()), CPU, resolved.spec.training)
    allocated = run_stages(family, resolved)
    ratios = {stage: estimate[stage] / size for stage, size in allocated.items()}
    # Masks of padding are most of what tiny text encoders allocate; this caption has none.
    assert 0.65 < ratios.pop("encoding text") < 1.75
    assert ratios == {stage: pytest.approx(1, abs=0.15) for stage in ratios}


def run_stages(family: Family, job: ResolvedJob) -> dict[GpuStage, int]:
    """Largest number of bytes of tensors, by stage, as `measure_stages` estimates it."""
    training, prior = job.spec.training, job.spec.prior
    half = PRECISIONS[training.precision]
    mixed = half is not torch.float32
    peaks: dict[GpuStage, int] = {}

    def forward() -> Any:
        return torch.autocast("cpu", half) if mixed else nullcontext()

    with MemoryMeter(CPU) as meter:

        def note(stage: GpuStage) -> None:
            peaks[stage] = meter.peak
            meter.reset_peak()

        for part in family.parts.values():
            meter.add([*part.parameters(), *part.buffers()])
            # Qwen-Image keeps tables of positions in attributes.
            values = (value for module in part.modules() for value in vars(module).values())
            meter.add(value for value in values if isinstance(value, torch.Tensor))
        note("loading the model")
        family.retire_text_encoders([CAPTION], [CAPTION], META)
        note("encoding text")
        meter.reset_peak()
        with forward():
            generate_images(
                family,
                [ImageRequest(CAPTION, seed) for seed in range(images_per_pass(SIDE))],
                sampler=prior.sampler,
                steps=2,
                guidance_scale=prior.guidance_scale,
                size=SIDE,
                negative_prompt=CAPTION,
            )
        note("generating class images")
        moments = family.encode_images(torch.zeros(1, 3, SIDE, SIDE))
        note("encoding latents")
        cache = TrainingCache(
            moments=moments.repeat(BATCH, *[1] * (moments.dim() - 1)),
            crops=torch.zeros(BATCH, 4, dtype=torch.long),
            caption_of_row=torch.zeros(BATCH, dtype=torch.long),
            captions=[CAPTION],
            tokens={},
            conditioning=family.encode_prompts([CAPTION]),
        )
        trained = make_trainable(family, training)
        module = DreamBooth(family, trained, training, cache, prior)
        optimizer = torch.optim.AdamW(list(trained.all.values()), fused=True)
        for _ in range(2):  # the first step allocates the moments
            with forward():
                loss = module.training_step(batch(family, module), 0)
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
        note("a training step")
    return peaks


def batch(family: Family, module: DreamBooth) -> Any:
    shape = BATCH, *family.latent_shape(SIDE)
    return {
        "row": torch.arange(BATCH),
        "timestep": torch.zeros(BATCH, dtype=module.objective.timestep_dtype),
        "drop_caption": torch.zeros(BATCH, dtype=torch.bool),
        "empty_prompt": torch.zeros(BATCH, dtype=torch.bool),
        "latent_noise": torch.zeros(shape),
        "noise": torch.zeros(shape),
    }
