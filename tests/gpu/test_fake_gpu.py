"""The fake GPU fails where a real one does."""

import json
import subprocess
import sys

import pytest

SETUP = """
import json, sys, torch
from tests.gpu import fake_gpu
fake_gpu.install()
gpu = torch.device("cuda", 0)
x = torch.ones(3, device=gpu)
"""

TRY_ALL = """
def error_of(mistake):
    torch.cuda.set_sync_debug_mode("error")
    try:
        exec(mistake)
    except Exception as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")

print(json.dumps([error_of(mistake) for mistake in json.loads(sys.argv[1])]))
"""

MISTAKES = {
    "x + torch.ones(3)": "same device",
    "torch.nn.Linear(3, 3)(x)": "same device",
    "x.numpy()": "numpy",
    "torch.randn(3, device=gpu, generator=torch.Generator())": "type for generator",
    "torch.cuda.set_device(1)": "no business with GPU 1",
    "torch.random.fork_rng().__enter__()": "no business with GPU 1",
    "torch.nn.Linear(3, 3, device=gpu)(x.bfloat16())": "dtype",
    "x.sum().item()": "synchronizing",
    "torch.ones(3).to(gpu)": "synchronizing",
    "x[x > 0]": "synchronizing",
}


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """What each mistake raises, in one process: the fake GPU cannot be removed from it."""
    done = _python(SETUP + TRY_ALL, json.dumps(list(MISTAKES)))
    assert done.returncode == 0, done.stderr
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_gpu_refuses_fails(errors, mistake):
    assert MISTAKES[mistake] in (errors[mistake] or "nothing")


def test_what_a_gpu_computes_is_computed():
    done = _python(
        SETUP
        + """
module = torch.nn.Linear(3, 2).to(gpu)
with torch.autocast("cuda", torch.bfloat16):
    y = module(x)
assert y.dtype == torch.bfloat16 and y.device == gpu
y.float().sum().backward()
assert module.weight.grad.device == gpu
assert module.weight.grad.cpu().tolist() == [[1.0] * 3] * 2
weight, host = module.weight, torch.empty(3)
assert module.cpu().weight is weight and type(weight) is torch.nn.Parameter
host.copy_(x, non_blocking=True)
copied = torch.cuda.Event()
copied.record()
x += 1  # after the copy, in the order of the stream
assert host.isnan().all(), "a copy that nobody has waited for"
copied.synchronize()
assert host.tolist() == [1.0] * 3
assert x.cpu().tolist() == [2.0] * 3
"""
    )
    assert done.returncode == 0, done.stderr


def test_memory_of_a_save_is_freed_after_the_last_copy_to_it():
    done = _python(
        SETUP
        + """
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.checkpoint.store import CheckpointStore
state = {"weight": x}
staging = Staging(CheckpointStore(None, "file:///nowhere").layouts(state))
staging.fill(state)
assert fake_gpu.queued_copies()
staging.close()
assert not fake_gpu.queued_copies()
"""
    )
    assert done.returncode == 0, done.stderr


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
