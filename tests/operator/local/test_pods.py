"""Pods as processes on this machine, by the rules of the Job controller."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_api.contract.restart import PodEnd, classify
from dreambooth_api.contract.termination import Termination
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.runner import StopRequest, run_pods

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"

MakePods = Callable[..., list[LocalPod]]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_only_logs_are_left_of_pods_that_ended(make_pods: MakePods, tmp_path: Path) -> None:
    pods = make_pods("import sys; print('to stdout'); print('to stderr', file=sys.stderr)")
    run_pods(pods, StopRequest())
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["pod-0.log", "pod-1.log"]
    assert sorted(pods[1].last_lines(5)) == ["to stderr", "to stdout"]


def test_first_failing_pod_ends_the_attempt(make_pods: MakePods) -> None:
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(7) if os.environ["JOB_COMPLETION_INDEX"] == "1" else time.sleep(60)
"""
    ends = run_pods(make_pods(program, nodes=3), StopRequest())
    assert ends[0].index == 1
    assert ends[0].exit_code == 7
    assert len(ends) == 3
    assert {end.exit_code for end in ends[1:]} <= {143}


def test_pod_that_others_stop_is_a_disruption(make_pods: MakePods) -> None:
    """As when its node is drained: the peer that loses its connection is not to blame."""
    program = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if os.environ["JOB_COMPLETION_INDEX"] == "0":
    os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
time.sleep(60)
"""
    ends = run_pods(make_pods(program), StopRequest())
    assert (ends[0].index, ends[0].exit_code, ends[0].stop_requested) == (0, 143, True)
    attempt = classify(ends)
    assert attempt is not None
    assert (attempt.outcome, attempt.pod) == ("Disrupted", ends[0])


def test_pod_killed_by_a_signal_ends_as_in_a_container(make_pods: MakePods) -> None:
    ends = run_pods(make_pods("import os; os.kill(os.getpid(), 9)", nodes=1), StopRequest())
    assert ends[0].exit_code == 137


def test_termination_log_becomes_the_message(make_pods: MakePods) -> None:
    program = """
import os, sys
open(os.environ["DREAMBOOTH_TERMINATION_LOG"], "w").write("spec.model.source: no such model")
sys.exit(66)
"""
    assert run_pods(make_pods(program, nodes=1), StopRequest()) == [
        PodEnd(0, 66, Termination(message="spec.model.source: no such model"))
    ]


def test_termination_log_is_decoded(make_pods: MakePods) -> None:
    program = """
import os, sys
from datetime import UTC, datetime
from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.termination import Termination
checkpoint = Checkpoint(step=40, uri="s3://bucket/my results/step-40", time=datetime.now(UTC))
termination = Termination(message="no images\\ncorrect them", rank=3, checkpoint=checkpoint)
open(os.environ["DREAMBOOTH_TERMINATION_LOG"], "wb").write(termination.encode())
sys.exit(65)
"""
    (end,) = run_pods(make_pods(program, nodes=1), StopRequest())
    assert end.termination.message == "no images\ncorrect them"
    assert end.termination.rank == 3
    assert end.termination.checkpoint is not None
    assert end.termination.checkpoint.uri == "s3://bucket/my results/step-40"


def test_failed_pod_without_a_termination_log_is_explained_by_its_log(make_pods: MakePods) -> None:
    (end,) = run_pods(make_pods("raise RuntimeError('lost')", nodes=1), StopRequest())
    assert end.termination.message.endswith("RuntimeError: lost")


def stop_when(path: Path, stop: StopRequest) -> Callable[[], None]:
    def tick() -> None:
        if path.exists() and not stop.requested:
            stop.add()

    return tick


def test_stop_lets_the_pods_save(make_pods: MakePods, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.3)
    Path({str(tmp_path)!r}, "saved-" + os.environ["PET_NODE_RANK"]).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path({str(tmp_path)!r}, "ready-" + os.environ["PET_NODE_RANK"]).touch()
time.sleep(60)
"""
    stop = StopRequest()
    ready = [tmp_path / "ready-0", tmp_path / "ready-1"]

    def tick() -> None:
        if all(path.exists() for path in ready) and not stop.requested:
            stop.add()

    ends = run_pods(make_pods(program), stop, tick)
    assert [end.exit_code for end in ends] == [143, 143]
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()


STUBBORN = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(os.environ["CHILD_FILE"] + ".part").write_text(str(child.pid))
Path(os.environ["CHILD_FILE"] + ".part").rename(os.environ["CHILD_FILE"])
time.sleep(600)
"""


def test_after_the_grace_period_the_whole_group_is_killed(
    make_pods: MakePods, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    stop = StopRequest()
    pods = make_pods(STUBBORN, nodes=1, grace=1, CHILD_FILE=str(child))
    started = time.monotonic()
    (end,) = run_pods(pods, stop, stop_when(child, stop))
    assert end.exit_code == 137
    assert time.monotonic() - started >= 1
    assert eventually(lambda: not alive(int(child.read_text())))


def test_second_request_to_stop_does_not_wait(make_pods: MakePods, tmp_path: Path) -> None:
    child = tmp_path / "child"
    stop = StopRequest()

    def tick() -> None:
        if child.exists():
            stop.add()

    started = time.monotonic()
    (end,) = run_pods(make_pods(STUBBORN, nodes=1, CHILD_FILE=str(child)), stop, tick)
    assert end.exit_code == 137
    assert time.monotonic() - started < 20


def test_what_a_pod_leaves_running_is_killed_with_it(make_pods: MakePods, tmp_path: Path) -> None:
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
"""
    run_pods(make_pods(program, nodes=1), StopRequest())
    assert eventually(lambda: not alive(int((tmp_path / "child").read_text())))


def test_error_in_the_runner_leaves_no_process(make_pods: MakePods, tmp_path: Path) -> None:
    child = tmp_path / "child"

    def tick() -> None:
        if child.exists():
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_pods(make_pods(STUBBORN, nodes=1, CHILD_FILE=str(child)), StopRequest(), tick)
    assert eventually(lambda: not alive(int(child.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_pods_are_asked_to_stop_when_the_runner_is_killed(tmp_path: Path) -> None:
    """The runner dies of SIGKILL: nobody is left to stop its pods but the kernel."""
    program = f"""
import signal, sys, time
from pathlib import Path
def save(*_):
    Path({str(tmp_path / "saved")!r}).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path({str(tmp_path / "ready")!r}).touch()
time.sleep(600)
"""
    runner = f"""
import sys, time
from pathlib import Path
from dreambooth_operator.local.pod import LocalPod
folder = Path({str(tmp_path)!r})
pod = LocalPod(0, "p", "127.0.0.1", [sys.executable, "-c", {program!r}], {{}}, folder / "pod",
               folder / "pod.log", 30)
pod.start()
time.sleep(600)
"""

    process = subprocess.Popen([sys.executable, "-c", runner])
    try:
        assert eventually((tmp_path / "ready").exists)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert eventually((tmp_path / "saved").exists)
