"""What an attempt does not do twice, and does not hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.contract.exit_codes import ExitCode
from tests.trainer.ranks import final_state, run_folder, run_ranks

Job = Callable[..., dict[str, Any]]


def forbid_encoding() -> None:
    from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion

    def refuse(*_: Any) -> None:
        raise AssertionError("the latents were stored")

    StableDiffusion.encode_images = refuse  # type: ignore[method-assign, assignment]


def test_a_resumed_attempt_reads_its_latents_and_trains_to_the_same_state(
    job: Job, tmp_path: Path
) -> None:
    through, stopped = job("through"), job("stopped")
    assert run_ranks(through, tmp_path / "a", per_node=2).codes == [ExitCode.DONE] * 2
    first = run_ranks(stopped, tmp_path / "b", per_node=2, stop_at_step=3)
    assert first.codes == [ExitCode.STOPPED] * 2
    assert len(list((run_folder(stopped) / "latents").iterdir())) == 2
    second = run_ranks(stopped, tmp_path / "c", per_node=2, attempt=1, prepare=forbid_encoding)
    assert second.codes == [ExitCode.DONE] * 2
    expected, state = final_state(through), final_state(stopped)
    assert expected.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.items())


def forbid_copies_to_the_host() -> None:
    """Fail on Lightning's copies after training, and while moments or gradients are left."""
    import gc

    from torch.optim import AdamW

    from dreambooth_trainer.run import train
    from dreambooth_trainer.training.module import DreamBooth

    def refuse(_: DreamBooth) -> None:
        raise AssertionError("the model was copied to the host")

    DreamBooth.cpu = refuse  # type: ignore[method-assign, assignment]
    finish = train.finish

    def check(*arguments: Any) -> None:
        optimizers = [each for each in gc.get_objects() if isinstance(each, AdamW)]
        assert not any(each.state for each in optimizers)
        assert all(p.grad is None for each in optimizers for p in _parameters(each))
        finish(*arguments)

    train.finish = check


def _parameters(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_model_and_moments_are_not_copied_to_the_host(job: Job, tmp_path: Path, ranks: int) -> None:
    ended = run_ranks(job(), tmp_path, per_node=ranks, prepare=forbid_copies_to_the_host)
    assert ended.codes == [ExitCode.DONE] * ranks, ended.logs[0]


def require_offload() -> None:
    """Fail where no block waits on the host."""
    from dreambooth_trainer.models.offload.linear import OffloadedLinear
    from dreambooth_trainer.run import train

    fit = train.fit

    def check(attempt: Any, module: Any, *rest: Any) -> None:
        assert any(isinstance(each, OffloadedLinear) for each in module.modules())
        fit(attempt, module, *rest)

    train.fit = check


def test_frozen_weights_that_wait_on_the_host_change_nothing_of_a_whole_job(
    job: Job, tmp_path: Path
) -> None:
    training = {"method": "lora", "steps": 4, "globalBatch": 2}
    plain = job("plain", training=training)
    offloaded = job(
        "offloaded", training=training, runtime={"gpusPerNode": 0, "offload": {"fraction": 0.5}}
    )
    assert run_ranks(plain, tmp_path / "a").codes == [ExitCode.DONE]
    stopped = run_ranks(offloaded, tmp_path / "b", stop_at_step=1, prepare=require_offload)
    assert stopped.codes == [ExitCode.STOPPED], stopped.logs[0]
    ended = run_ranks(offloaded, tmp_path / "c", attempt=1, prepare=require_offload)
    assert ended.codes == [ExitCode.DONE], ended.logs[0]
    expected, state = final_state(plain), final_state(offloaded)
    assert expected.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.items())
    samples = [
        {path.name: path.read_bytes() for path in run_folder(each).glob("samples/step-*4/*.png")}
        for each in (plain, offloaded)
    ]
    assert samples[0]
    assert samples[0] == samples[1]
    exports = [
        (run_folder(each) / "export" / "pytorch_lora_weights.safetensors").read_bytes()
        for each in (plain, offloaded)
    ]
    assert exports[0] == exports[1]
