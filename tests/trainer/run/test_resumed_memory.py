"""What a resumed attempt does not do again, and does not hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreambooth_api.contract.exit_codes import ExitCode
from tests.trainer.ranks import final_state, run_folder, run_ranks

Job = Callable[..., dict[str, Any]]


def forbid_encoding() -> None:
    from dreambooth_trainer.models.stable_diffusion import StableDiffusion

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
