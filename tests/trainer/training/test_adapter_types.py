"""Every type of adapter is trained the same on any number of ranks, and after any interruption."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreambooth_api.models.model import Model
from dreambooth_api.models.prior import Prior
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.batches import BatchPlan, BatchStream
from dreambooth_trainer.data.cache import TrainingCache
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.models.adapters.inject import principal_components
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.model_config import ModelConfig, read_model_config
from dreambooth_trainer.preflight.memory.stages import checkpoint_bytes, measure_stages
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.training.module import DreamBooth, ResumeState
from tests.trainer.export.test_adapters import TYPES
from tests.trainer.resolved import resolve_job, resolve_training

PRIOR = Prior(weight=0.6, target="prediction", empty_prompt_fraction=0.0)
CAPTIONS = ["", "a photo of sks mug", "a photo of a mug"]
PATTERNS = {"rankPattern": {"to_k": 3}, "alphaPattern": {"to_q": 5}}


class Run:
    """Trains adapters of a random model towards its own predictions of the class."""

    def __init__(
        self, pipeline: Any, name: str, resume: ResumeState | None = None, **changes: Any
    ) -> None:
        lora = {"rank": 4, "alpha": 2, "targetPreset": "convolutions", **PATTERNS, **TYPES[name]}
        spec = {"method": "lora", "precision": "fp32", "learningRate": 1e-2, "lora": lora}
        training = resolve_training({**spec, "steps": 4, **changes})
        family = StableDiffusion(copy.deepcopy(pipeline), "hash")
        torch.manual_seed(1)
        moments = torch.cat([torch.randn(8, 4, 8, 8), torch.full((8, 4, 8, 8), -2.0)], dim=1)
        tokens = family.tokenize(CAPTIONS)
        with torch.no_grad():
            conditioning = family.encode_tokens(tokens)
        rows = torch.tensor([1] * 4 + [2] * 4)
        cache = TrainingCache(moments, torch.zeros(8, 4), rows, CAPTIONS, tokens, conditioning)
        trained = make_trainable(family, training)
        self.module = DreamBooth(family, trained, training, cache, PRIOR, resume)
        trainer: Any = SimpleNamespace(precision_plugin=None, global_step=0)
        self.module.trainer = trainer
        self._optimizer = self.module.configure_optimizers()["optimizer"]
        self.module.on_fit_start()

    def train(self, start: int, stop: int, *, ranks: int = 1) -> list[float]:
        """The loss of every step; the ranks' shares are gone through one after the other."""
        sampler = TrainingSampler(
            seed=4, subjects=[ImagePool(0, 4)], priors=[ImagePool(4, 4)], weights=[1.0],
            objective=self.module.objective, latent_shape=(4, 8, 8), global_batch=2,
        )  # fmt: skip
        plans = [BatchPlan(start, stop, 1, 2 // ranks, rank, ranks) for rank in range(ranks)]
        losses = []
        for shares in zip(*(BatchStream(sampler, plan) for plan in plans), strict=True):
            self._optimizer.zero_grad()
            loss = torch.stack([self.module.training_step(share, 0) for share in shares]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(float(loss.detach()))
        return losses


def test_a_pissa_start_is_no_stall(random_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[None] = []
    monkeypatch.setattr(heartbeat, "send", lambda: sent.append(None))
    trained = Run(random_pipeline, "pissa").module.trained.all
    assert len(sent) == sum("lora_A" in name for name in trained) > 1


@pytest.mark.parametrize("name", TYPES)
def test_ranks_and_interruptions_change_nothing(random_pipeline: Any, name: str) -> None:
    steady = Run(random_pipeline, name)
    losses = steady.train(0, 4)
    assert losses[3] != losses[0]
    # At the start, adapters have no effect: the class is predicted as by the base model.
    shared = Run(random_pipeline, name)
    assert shared.train(0, 4, ranks=2) == pytest.approx(losses, rel=1e-4)

    stopped = Run(random_pipeline, name)
    assert stopped.train(0, 2) == losses[:2]
    state = {key: tensor.clone() for key, tensor in stopped.module.state().items()}
    resumed = Run(random_pipeline, name, ResumeState(2, state))
    assert resumed.train(2, 4) == losses[2:]
    expected = steady.module.state()
    assert resumed.module.state().keys() == expected.keys()
    assert all(tensor.equal(expected[key]) for key, tensor in resumed.module.state().items())


@pytest.mark.parametrize("name", TYPES)
def test_the_class_is_pulled_to_the_base_model(random_pipeline: Any, name: str) -> None:
    run = Run(random_pipeline, name)
    weights = {key: tensor.clone() for key, tensor in run.module.denoiser.state_dict().items()}
    run.train(0, 1)
    assert run.module.losses is not None
    assert run.module.losses.prior < 1e-8
    run.train(1, 3)
    assert run.module.losses.prior > 1e-8
    trained = {f"denoiser.{key}" for key in weights} & run.module.trained.all.keys()
    for key, tensor in run.module.denoiser.state_dict().items():
        assert tensor.equal(weights[key]) == (f"denoiser.{key}" not in trained), key


@pytest.fixture(scope="module")
def config(random_model: Path) -> ModelConfig:
    config = read_model_config(Model(source=str(random_model)), Storage(StorageSettings()))
    assert config is not None
    return config


@pytest.mark.parametrize("name", TYPES)
def test_the_size_of_a_checkpoint_is_known_before(
    random_pipeline: Any, config: ModelConfig, name: str
) -> None:
    run = Run(random_pipeline, name)
    run.train(0, 1)
    state = run.module.state().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state if tensor.ndim)
    assert checkpoint_bytes(config, run.module.training_spec) == size


@pytest.mark.parametrize(
    "name", ["pissa", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dora", "lokr"))]
)
def test_the_memory_of_each_type_can_be_measured(config: ModelConfig, name: str) -> None:
    training = {"method": "lora", "resolution": 64, "lora": {"alpha": 8, **TYPES[name]}}
    # An adapter that is skipped on the meta device would leave nothing to differentiate.
    stages = measure_stages(resolve_job(training), config, local_batch=1, ranks=1)
    assert stages["a training step"] > stages["encoding text"]


def test_principal_components_are_those_of_an_exact_decomposition() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(40, 24) @ torch.diag(torch.linspace(4, 0.1, 24)) @ torch.randn(24, 30)
    up, down = principal_components(matrix, 5)
    left, values, right = torch.linalg.svd(matrix)
    torch.testing.assert_close(
        up @ down, left[:, :5] * values[:5] @ right[:5], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))
    up, down = principal_components(torch.ones(1, 3), 4)
    assert (up.shape, down.shape) == ((1, 4), (4, 3))
    torch.testing.assert_close(up @ down, torch.ones(1, 3))
