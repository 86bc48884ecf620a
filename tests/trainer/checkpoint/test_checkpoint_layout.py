import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_trainer.checkpoint.layout import DTYPES, plan_layout
from dreambooth_trainer.checkpoint.split import Slice, join, split
from dreambooth_trainer.checkpoint.staging import Staging

SHAPES = [(), (0,), (7,), (3, 5), (64, 64), (2, 3, 4)]
states = st.dictionaries(
    st.text("abc./ü", min_size=1, max_size=6),
    st.builds(
        lambda shape, dtype: (torch.randn(shape) * 50).to(dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(list(DTYPES)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(states, st.integers(1, 4))
def test_safetensors_itself_reads_what_is_staged(state: dict[str, torch.Tensor], count: int):
    found, pieces = {}, {}
    for slices in split(state, count):
        staging = Staging([plan_layout("shard", state, slices)])
        staging.fill(state)
        [shard] = staging.shards
        data = Path(shard.path).read_bytes()
        assert len(data) == shard.layout.size
        for name, tensor in safetensors.torch.load(data).items():
            piece = shard.layout.pieces.get(name)
            if piece is None:
                found[name] = tensor
            else:
                pieces.setdefault(name, []).append((piece.start, tensor))
        staging.close()
    found |= {name: join(parts, list(state[name].shape)) for name, parts in pieces.items()}
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_a_buffer_is_filled_again_with_what_the_state_is_then():
    state = {"a": torch.arange(12.0).reshape(3, 4)}
    staging = Staging([plan_layout("shard", state, [Slice("a", 5, 12)])])
    staging.fill(state)
    state["a"].mul_(2)
    staging.fill(state)
    state["a"].zero_()
    [shard] = staging.shards
    loaded = safetensors.torch.load(Path(shard.path).read_bytes())
    assert loaded["a"].tolist() == [2.0 * i for i in range(5, 12)]
    staging.close()


def test_adapters_of_a_real_models_size_cost_no_more_than_two_percent():
    layers = [
        f"denoiser.down_blocks.{i}.attentions.0.to_q.lora_A.default.weight" for i in range(64)
    ]
    state = {
        f"{kind}/{layer}": torch.zeros(4, 640)
        for kind in ("weight", "exp_avg", "exp_avg_sq")
        for layer in layers
    }
    payload = sum(tensor.nbytes for tensor in state.values())
    layout = plan_layout("shard", state, split(state, 1)[0])
    assert layout.size <= 1.02 * payload


STAGE = """
import sys, time, torch
from dreambooth_trainer.checkpoint.layout import plan_layout
from dreambooth_trainer.checkpoint.split import split
from dreambooth_trainer.checkpoint.staging import Staging
state = {"a": torch.zeros(4_000_000)}
staging = Staging([plan_layout("shard", state, split(state, 1)[0])])
staging.fill(state)
print("filled", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_copy_has_no_name_that_a_killed_process_could_leave_behind():
    process = subprocess.Popen([sys.executable, "-c", STAGE], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"filled\n"
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert "/memfd:shard (deleted)" in maps
    assert "/dev/shm" not in maps


def test_memory_is_allocated_ahead_of_the_first_copy():
    state = {"a": torch.zeros(1_000_000)}
    staging = Staging([plan_layout("shard", state, split(state, 1)[0])])
    [shard] = staging.shards
    assert os.fstat(shard.descriptor).st_blocks * 512 <= mmap.PAGESIZE
    staging.allocate()
    assert os.fstat(shard.descriptor).st_blocks * 512 >= 4_000_000
    staging.close()
