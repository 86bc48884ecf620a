"""The launcher keeps the ranks' exit codes and termination messages, which torchrun does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.launcher.launch import Limits, decisive_end, limits_of, rank_environments
from dreambooth_trainer.launcher.rank_process import RankEnd

TIMEOUT_SECONDS = 90
"""Less than any rank here sleeps."""


def end(rank: int, code: int) -> RankEnd:
    return RankEnd(rank, code, Termination(rank=rank, message=f"exit code {code}"))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], None),
        ([1, 0], 0),
        ([1, 65], 1),
        ([137, 1], 0),
        ([1, 137], 1),
        ([1, 134], 0),
        ([143, 143], 0),
        ([1, 143], 0),
        ([68, 64], 0),
    ],
)
def test_the_rank_that_knows_why_it_ended_decides(codes, expected):
    decisive = decisive_end([end(rank, code) for rank, code in enumerate(codes)])
    assert (decisive and decisive.rank) == expected


def test_of_ranks_that_were_asked_to_stop_one_that_did_decides():
    ends = [end(0, 1), end(1, 143)]
    assert decisive_end(ends, stopping=True) == ends[1]
    assert decisive_end([*ends, end(2, 69)], stopping=True) == end(2, 69)


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


def test_limits_come_from_the_job(tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text("nonsense")
    assert limits_of(config) == Limits(stall=0, stop=float("inf"))
    config.write_text(
        """
        apiVersion: dreambooth.dev/v1alpha1
        kind: DreamBoothJob
        metadata: {name: mug}
        spec:
          model: {source: s3://b/model}
          subjects: [{identifier: sks, classNoun: mug, images: s3://b/mug}]
          output: s3://b/out
          runtime: {stallTimeoutSeconds: 600, terminationGracePeriodSeconds: 100}
        """
    )
    assert limits_of(config) == Limits(stall=600, stop=90)


@pytest.fixture
def ranks_that(tmp_path):
    """Starts the launcher with a stand-in for the trainer, so that only the launcher is tested."""

    def start(body: str, stall: float = 0, stop: float = 100) -> subprocess.Popen[str]:
        script = tmp_path / "stand_in.py"
        script.write_text(
            "import glob, os, signal, sys, threading, time\n"
            "from dreambooth_api.contract.termination import Checkpoint, Termination\n"
            "from dreambooth_trainer.process import heartbeat\n"
            "from dreambooth_trainer.process.termination_message import write_termination\n"
            "rank = int(os.environ['RANK'])\n"
            # Where ranks end one after the other, a slow start of the second is not what is tested.
            "def until_ready():\n"
            f"    open(f'{tmp_path}/ready-{{rank}}', 'w').close()\n"
            f"    while len(glob.glob('{tmp_path}/ready-*')) < 2: time.sleep(0.01)\n"
            f"heartbeat.start()\n{body}"
        )
        code = (
            "import os, sys, time\n"
            "from dreambooth_trainer.launcher import launch\n"
            "def is_starting(rank):\n"
            "    rank.silent_seconds()\n"
            "    return not rank.heartbeat.number and rank.end() is None\n"
            "launch.PEER_TIMEOUT_SECONDS = 1.0\n"
            "stop = launch.StopSignal()\n"
            "stop.install()\n"
            f"with launch.start_ranks([sys.executable, {str(script)!r}], os.environ) as ranks:\n"
            # A busy machine takes its time to start Python, which is not what is tested.
            f"    while {stall} and any(is_starting(rank) for rank in ranks): time.sleep(0.05)\n"
            f"    code = launch.supervise(ranks, launch.Limits({stall}, {stop}), stop)\n"
            "sys.exit(code)"
        )
        environment = {
            **os.environ,
            "PET_NPROC_PER_NODE": "2",
            "PET_NNODES": "2",
            "PET_NODE_RANK": "1",
            "DREAMBOOTH_TERMINATION_LOG": str(tmp_path / "termination.log"),
        }
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def termination(tmp_path: Path) -> Termination:
    return Termination.decode((tmp_path / "termination.log").read_text())


def test_one_failing_rank_ends_the_pod_with_its_code_and_takes_its_peer_along(ranks_that):
    process = ranks_that("if rank == 3: sys.exit(66)\ntime.sleep(120)")
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 66


CHECKPOINT = "Checkpoint(step=7, uri='s3://out/a space', time='2026-01-01T00:00:00Z')"


def test_the_message_of_the_rank_that_decides_is_the_pods(ranks_that, tmp_path):
    process = ranks_that(
        f"known = {CHECKPOINT} if rank == 2 else None\n"
        "write_termination(Termination(rank=rank, message=f'why {rank}', checkpoint=known))\n"
        "until_ready()\n"
        "if rank == 3: time.sleep(0.5)\n"
        "sys.exit({2: 1, 3: 65}[rank])"
    )
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 65
    found = termination(tmp_path)
    assert (found.rank, found.message) == (3, "why 3")
    # A peer knows of it: no rank's knowledge is lost with the others' messages.
    assert found.checkpoint is not None
    assert (found.checkpoint.step, found.checkpoint.uri) == (7, "s3://out/a space")


def test_a_killed_rank_has_a_message_although_it_could_not_write_one(ranks_that, tmp_path):
    process = ranks_that(
        "until_ready()\n"
        "if rank == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_termination(Termination(rank=2, message='RuntimeError: lost a connection'))\n"
        "sys.exit(1)"
    )
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 137
    found = termination(tmp_path)
    assert found.rank == 3
    assert found.message == "killed by SIGKILL (out of memory, or killed by hand)"


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
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 143
    assert sorted(output.split("\n")[:2]) == ["saved 2", "saved 3"]


def test_all_ranks_done_is_done(ranks_that, tmp_path):
    process = ranks_that("")
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert not (tmp_path / "termination.log").exists()


HANGS = """
heartbeat.enter_stage("Training")
heartbeat.finish_step(12)
def read_for_ever(): os.read(os.pipe()[0], 1)
def wait_for_the_other():
    with heartbeat.waiting_for_peers(): os.read(os.pipe()[0], 1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b'ready\\n')
read_for_ever() if rank == 3 else wait_for_the_other()
"""


def test_ranks_without_progress_are_dumped_and_killed(ranks_that, tmp_path):
    process = ranks_that(HANGS, stall=3)
    _, log = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 70
    start = "stalled: no progress for 3 s in stage Training, step 12"
    found = termination(tmp_path)
    assert found.rank == 3
    assert found.message.startswith(f"{start}; the stacks of all ranks are in the log")
    _, of_the_waiting, of_the_hanging = log.split("the stacks of its threads:")
    assert "in wait_for_the_other" in of_the_waiting
    assert of_the_waiting.rstrip().endswith(f"rank 3: {start}:")
    assert "in read_for_ever" in of_the_hanging


def test_a_stopped_process_cannot_dump_and_is_the_cause(ranks_that, tmp_path):
    process = ranks_that(
        "if rank == 3: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "with heartbeat.waiting_for_peers(): time.sleep(120)",
        stall=3,
    )
    _, log = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 70
    assert termination(tmp_path).rank == 3
    assert "as its process is stopped or stuck in the kernel; its state is T (stopped)" in log


def test_while_one_rank_makes_progress_the_pod_is_not_stalled(ranks_that, tmp_path):
    body = (
        f"done = {str(tmp_path / 'done')!r}\n"
        "if rank == 2:\n"
        "    time.sleep(6)\n"
        "    heartbeat.send()\n"
        "    open(done, 'w').close()\n"
        "while not os.path.exists(done):\n"
        "    time.sleep(0.1)\n"
        "    heartbeat.send()"
    )
    process = ranks_that(body, stall=4)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0


def test_ranks_that_all_wait_for_other_pods_get_more_time(ranks_that):
    process = ranks_that("with heartbeat.waiting_for_peers(): time.sleep(6)", stall=3)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0


def test_ranks_that_hang_when_asked_to_stop_are_dumped_and_killed_in_time(ranks_that, tmp_path):
    process = ranks_that(HANGS, stop=1)
    assert [process.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 143
    assert time.monotonic() - began < 30
    assert "in read_for_ever" in log
    found = termination(tmp_path)
    assert found.rank == 3
    assert found.message.startswith("stalled: still running 1 s after it was asked to stop")


@pytest.mark.parametrize("version", ["99", "new"])
@pytest.mark.parametrize("module", ["launcher", "preflight"])
def test_an_operator_of_another_version_is_refused(tmp_path, version, module):
    log = tmp_path / "termination.log"
    environment = {
        **os.environ,
        "DREAMBOOTH_CONTRACT_VERSION": version,
        "DREAMBOOTH_TERMINATION_LOG": str(log),
    }
    command = [sys.executable, "-m", f"dreambooth_trainer.{module}", "--config", tmp_path / "none"]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 64
    message = Termination.decode(log.read_text()).message
    assert "spec.runtime.image" in message
    assert version in message
