"""Which objective a model is trained with, and the settings it takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.objectives.flow_matching import FlowMatchingObjective
from dreambooth_trainer.objectives.make import make_objective
from dreambooth_trainer.resolved_job import ResolvedTraining
from tests.trainer.resolved import resolve_training

CPU = torch.device("cpu")
DDPM: Any = SimpleNamespace(
    objective_kind="ddpm",
    alphas_cumprod=torch.tensor([0.9, 0.5, 0.1]),
    prediction_type="v_prediction",
)
FLOW: Any = SimpleNamespace(objective_kind="flow")


def resolve_flow(training: dict[str, Any]) -> ResolvedTraining:
    """Settings of a model whose shift is 2 at 512 pixels."""
    return resolve_training(training, lambda resolution: resolution / 256)


class Median:
    """A stream that draws the median."""

    def random(self) -> float:
        return 0.5


def median(**training: object) -> float:
    """The median of sigma."""
    flow = make_objective(FLOW, resolve_flow(training), CPU)
    assert isinstance(flow, FlowMatchingObjective)
    stream: Any = Median()
    return flow.draw_timestep(stream)


def test_a_ddpm_model_brings_its_schedule_and_prediction() -> None:
    ddpm = make_objective(DDPM, resolve_training({"minSnrGamma": 5}), CPU)
    assert isinstance(ddpm, DDPMObjective)
    assert ddpm.timestep_dtype == torch.int64
    one, last = torch.ones(1, 4, 2, 2), torch.tensor([2])
    torch.testing.assert_close(
        ddpm.target(one, one, last), one * (0.1**0.5 - 0.9**0.5), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(ddpm.weights(last), torch.tensor([0.1]))


def test_the_shift_is_the_models_at_the_jobs_resolution() -> None:
    assert median() == pytest.approx(2 / 3)  # 512 px: odds of 2
    assert median(resolution=1024) == pytest.approx(4 / 5)


def test_a_shift_of_the_job_replaces_the_models() -> None:
    assert median(timestepSampling={"shift": 1}) == pytest.approx(0.5)
    assert median(timestepSampling={"density": "uniform", "shift": 3}) == pytest.approx(3 / 4)


def test_density_and_weighting_are_the_jobs() -> None:
    assert median(timestepSampling={"shift": 1, "mean": 1}) == pytest.approx(
        float(torch.tensor(1.0).sigmoid())
    )
    flow = make_objective(FLOW, resolve_flow({"lossWeighting": "cosmap"}), CPU)
    assert flow.timestep_dtype == torch.float32
    assert flow.weights(torch.tensor([0.5])) is not None
