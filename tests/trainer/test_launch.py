"""The pod's launcher keeps the ranks' exit codes, which torchrun does not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dreambooth_trainer.launch import exit_code, rank_environments


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([1, 0], 1),
        ([1, 65], 65),
        ([-9, 1], 137),
        ([143, 143], 143),
        ([1, 143], 1),
        ([68, 64], 68),
    ],
)
def test_the_rank_that_knows_why_it_ended_decides(codes, expected):
    assert exit_code(codes) == expected


def test_ranks_are_numbered_through_the_nodes():
    pod = {
        "PET_NNODES": "3",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "j-0.j",
    }
    environments = rank_environments(pod)
    assert [(e["RANK"], e["LOCAL_RANK"]) for e in environments] == [("2", "0"), ("3", "1")]
    assert {e["WORLD_SIZE"] for e in environments} == {"6"}
    assert {e["MASTER_ADDR"] for e in environments} == {"j-0.j"}


@pytest.fixture
def ranks_that(tmp_path):
    """Starts the launcher with a stand-in for the trainer package, so that only the launcher is
    tested.
    """

    def start(body: str) -> subprocess.Popen[str]:
        script = tmp_path / "stand_in.py"
        script.write_text(f"import os, signal, sys, time\nrank = int(os.environ['RANK'])\n{body}")
        code = (
            "import sys, dreambooth_trainer.launch as launch\n"
            "real = launch.subprocess.Popen\n"
            f"command = [sys.executable, {str(script)!r}]\n"
            "launch.subprocess.Popen = lambda _, env: real(command, env=env)\n"
            "launch.PEER_PATIENCE_SECONDS = 1.0\n"
            "sys.exit(launch.main())"
        )
        environment = {**os.environ, "PET_NPROC_PER_NODE": "2"}
        return subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )

    return start


def test_one_failing_rank_ends_the_pod_with_its_code_and_takes_its_peer_along(ranks_that):
    process = ranks_that("if rank == 1: sys.exit(66)\ntime.sleep(120)")
    process.communicate(timeout=30)
    assert process.returncode == 66


def test_sigterm_reaches_every_rank_and_the_pod_ends_as_stopped(ranks_that):
    body = (
        "def save(*_):\n"
        "    os.write(1, b'saved %d\\n' % rank)\n"
        "    os._exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.write(1, b'ready\\n')\ntime.sleep(120)"
    )
    process = ranks_that(body)
    assert [process.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert sorted(output.split("\n")[:2]) == ["saved 0", "saved 1"]


def test_all_ranks_done_is_done(ranks_that):
    process = ranks_that("")
    process.communicate(timeout=30)
    assert process.returncode == 0
