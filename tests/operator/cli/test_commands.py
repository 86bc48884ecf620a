"""The short commands: validate, render, samples, version."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import yaml
from typer.main import get_command

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.parsing.load import load
from dreambooth_operator.cli.main import app
from dreambooth_operator.local.state import State
from tests.operator.cli.bench import RESULTS, Bench


def test_samples_are_fetched_by_name_and_by_file(bench: Bench) -> None:
    bench.trainer(RESULTS)
    bench.run_job()
    code, output = bench.dreambooth("samples", "mug")
    assert code == 0
    assert output.split() == [
        "mug-samples/samples/before-after.png",
        "mug-samples/samples/step-00000000/grid.png",
        "mug-samples/samples/step-00000009/grid.png",
    ]
    code, output = bench.dreambooth("samples", "job.yaml", "--to", "elsewhere")
    assert code == 0
    assert (bench.folder / "elsewhere" / "samples" / "before-after.png").exists()
    (run,) = (bench.folder / "out" / "default" / "mug").iterdir()
    (run / "run.json").write_text(json.dumps({"job": bench.records()[0]["job"]}))
    run.rename(bench.folder / "a copy")
    code, output = bench.dreambooth("samples", "a copy", "--to", "of copy")
    assert code == 0, output
    assert (bench.folder / "of copy" / "samples" / "before-after.png").exists()
    code, output = bench.dreambooth("samples", "a copy", "--to", "job.yaml")
    assert code == 2
    assert "--to job.yaml: cannot be written to" in output


def test_samples_of_a_run_elsewhere_are_the_newest_in_storage(bench: Bench) -> None:
    for age, uid in ((100, "old"), (0, "new")):
        grid = bench.folder / "out" / "default" / "mug" / uid / "samples" / "before-after.png"
        grid.parent.mkdir(parents=True)
        grid.write_text(uid)
        os.utime(grid, (time.time() - age, time.time() - age))
    code, output = bench.dreambooth("samples", "job.yaml")
    assert code == 0, output
    assert (bench.folder / "mug-samples" / "samples" / "before-after.png").read_text() == "new"
    refused = bench.folder / "out" / "default" / "mug" / "refused" / "run.json"
    refused.parent.mkdir()
    refused.write_text("{}")
    assert bench.dreambooth("samples", "job.yaml", "--to", "again")[0] == 0
    assert (bench.folder / "again" / "samples" / "before-after.png").read_text() == "new"


def test_a_run_that_was_refused_does_not_hide_samples(bench: Bench) -> None:
    bench.trainer(RESULTS)
    bench.run_job()
    bench.trainer("end(65, 'no image decodes')")
    assert bench.run_job()[0] == 65
    code, output = bench.dreambooth("samples", "mug")
    assert code == 0, output
    assert "these are of the run before" in output
    assert "mug-samples/samples/before-after.png" in output


def test_every_problem_of_an_invalid_job_is_listed(bench: Bench) -> None:
    bench.job["spec"]["training"] = {"steps": 0, "learningrate": 1}
    for command in (("validate", "job.yaml"), ("run", "-f", "job.yaml"), ("render", "job.yaml")):
        code, output = bench.dreambooth(*command)
        assert code == 2
        assert "spec.training.steps: must be at least 1" in output
        assert (
            "spec.training.learningrate: unknown field; did you mean spec.training.learningRate?"
            in output
        )


def test_validate_names_each_file(bench: Bench) -> None:
    (bench.folder / "broken.yaml").write_text("kind: [")
    code, output = bench.dreambooth("validate", "job.yaml", "broken.yaml", "absent.yaml")
    assert code == 2
    assert "job.yaml: valid" in output
    assert "broken.yaml is not valid:" in output
    assert "absent.yaml" in output


def test_job_is_read_from_standard_input(bench: Bench) -> None:
    text = json.dumps(bench.job)  # one line, as other programs write it
    code, output = bench.dreambooth("validate", "-", stdin=text)
    assert (code, output.splitlines()[-1]) == (0, "-: valid")
    code, output = bench.dreambooth("validate", "-", stdin="kind: [")
    assert code == 2
    assert "standard input is not valid:" in output
    assert bench.dreambooth("render", "-", stdin=text)[0] == 0


def test_render_prints_all_objects(bench: Bench) -> None:
    spec = bench.job["spec"]  # nothing that is warned of
    spec["model"]["source"], spec["output"] = "hf://owner/name", "s3://bucket/out"
    spec["subjects"][0]["images"] = "s3://bucket/mug"
    code, output = bench.dreambooth("render", "job.yaml", "--attempt", "4", "--image", "trainer:x")
    assert code == 0
    objects = list(yaml.safe_load_all(output))
    assert [(o["kind"], o["metadata"]["name"]) for o in objects] == [
        ("Service", "mug-ranks"),
        ("ConfigMap", "mug-config"),
        ("Job", "mug-4"),
        ("Job", "mug-preflight"),
    ]
    assert objects[2]["spec"]["template"]["spec"]["containers"][0]["image"] == "trainer:x"


def test_image_that_stands_for_the_operators_is_warned_of(bench: Bench) -> None:
    warning = "is in no registry; name yours with --image"
    assert warning in bench.dreambooth("render", "job.yaml")[1]
    assert warning not in bench.dreambooth("render", "job.yaml", "--image", "trainer:x")[1]
    bench.job["spec"]["runtime"]["image"] = "trainer:y"
    assert warning not in bench.dreambooth("render", "job.yaml")[1]


@pytest.mark.parametrize("command", ["validate", "render"])
def test_paths_of_this_machine_are_named(bench: Bench, command: str) -> None:
    """Unless a volume is mounted there."""
    bench.job["spec"]["output"] = "file:///volume/out"
    fields = "spec.model.source, spec.subjects[0].images, spec.output: local to this machine"
    assert fields in bench.dreambooth(command, "job.yaml")[1]
    bench.job["spec"]["model"]["source"] = "hf://owner/name"
    bench.job["spec"]["subjects"][0]["images"] = "s3://bucket/mug"
    bench.job["spec"]["runtime"]["podOverrides"] = {
        "spec": {
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [
                {"name": "trainer", "volumeMounts": [{"name": "data", "mountPath": "/volume"}]}
            ],
        }
    }
    output = bench.dreambooth(command, "job.yaml")[1]
    assert "local to this machine" not in output
    assert "must be the same on every node" not in output
    bench.job["spec"]["output"] = "file:///volumes/out"
    assert ": spec.output: local to this machine" in bench.dreambooth(command, "job.yaml")[1]


def test_command_line_loads_nothing_heavy(bench: Bench) -> None:
    heavy = ("torch", "boto3", "kubernetes", "kopf", "diffusers", "dreambooth_trainer")
    program = (
        "import sys; sys.argv = ['dreambooth', 'validate', 'job.yaml']\n"
        "from dreambooth_operator.cli.main import main\n"
        "try: main()\n"
        f"finally: print('heavy:', [m for m in {heavy!r} if m in sys.modules])\n"
    )
    bench.file.write_text(yaml.safe_dump(bench.job))
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "job.yaml: valid" in output
    assert "heavy: []" in output


def test_version_is_a_command_and_an_option(bench: Bench) -> None:
    expected = (0, f"{version('dreambooth-operator')}\n")
    assert bench.dreambooth("version") == bench.dreambooth("--version") == expected


@pytest.mark.parametrize("arguments", [("-h",), ("run", "-h")])
def test_short_option_for_help(bench: Bench, arguments: tuple[str, ...]) -> None:
    code, output = bench.dreambooth(*arguments)
    assert code == 0
    assert "Usage: " in output


def test_runs_are_listed_the_newest_first(bench: Bench) -> None:
    code, output = bench.dreambooth("list")
    assert (code, output) == (0, f"no runs in {bench.state}\n")
    bench.trainer("end(65)")
    bench.run_job()
    bench.job["metadata"]["name"] = "mug-2"
    bench.trainer("")
    bench.run_job()
    code, output = bench.dreambooth("list")
    assert code == 0
    header, second, first = output.splitlines()
    assert header.split() == ["NAME", "STATE", "ATTEMPTS", "AGE", "OUTPUT"]
    assert second.split()[:3] == ["mug-2", "Succeeded", "1"]
    assert first.split()[:3] == ["mug", "Failed", "1"]
    assert f"file://{bench.folder}/out/default/mug/" in first


def test_run_that_was_killed_is_not_listed_as_running(bench: Bench) -> None:
    bench.trainer("(run / 'ready').touch(); time.sleep(60)")
    process = bench.start("run", "job.yaml")
    until = time.monotonic() + 60
    while not list(bench.folder.glob("out/default/mug/*/ready")):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert " Running " in bench.dreambooth("list")[1]
    process.kill()
    process.wait()
    assert " Interrupted " in bench.dreambooth("list")[1]


def test_run_that_was_killed_is_not_running_while_another_is(bench: Bench) -> None:
    bench.trainer("(run / 'ready').touch(); time.sleep(60)")
    for name in ("mug", "cup"):
        bench.job["metadata"]["name"] = name
        process = bench.start("run", "job.yaml")
        until = time.monotonic() + 60
        while not list(bench.folder.glob(f"out/default/{name}/*/ready")):
            assert time.monotonic() < until
            time.sleep(0.05)
        if name == "mug":
            process.kill()
            process.wait()
    _, output = bench.dreambooth("list")
    states = [line.split()[:2] for line in output.splitlines()[1:]]
    assert states == [["cup", "Running"], ["mug", "Interrupted"]]
    # The log of a run that has ended is not followed, whatever runs now.
    assert bench.dreambooth("logs", "mug", "--follow") == (0, "")


def test_samples_of_the_embedded_storage_say_why_it_is_not_there(bench: Bench) -> None:
    """Another run, which needs no such storage, has the state folder."""
    state = State(bench.state)
    job = load(yaml.safe_dump(bench.job))
    with state.locked():
        past = state.new_run(job, embedded=True)
        past.record.attempts, past.record.state = 1, "Succeeded"
        past.save()
        state.new_run(job, embedded=False)
        code, output = bench.dreambooth("samples", "mug")
    assert code == 2
    assert "is in use by another `dreambooth`, which has not started the embedded" in output


def test_logs_are_those_of_the_newest_run(bench: Bench) -> None:
    for number in (1, 2):
        bench.trainer(f"print('run {number} pod', pod)")
        bench.run_job()
    assert bench.dreambooth("logs", "mug") == (0, "run 2 pod 0\n")
    assert bench.dreambooth("logs", "job.yaml", "--pod", "1") == (0, "run 2 pod 1\n")
    code, output = bench.dreambooth("logs", "mug", "--pod", "2")
    assert code == 2
    assert "the run has 2 pods, counted from 0" in output
    code, output = bench.dreambooth("logs", "cup")
    assert code == 2
    assert "cup: " in output


def test_logs_are_followed_to_the_end_of_the_run(bench: Bench) -> None:
    bench.trainer("""
print("begin", flush=True)
(run / "ready").touch()
time.sleep(2)
print("end")
""")
    bench.start("run", "job.yaml")
    until = time.monotonic() + 60
    while not list(bench.folder.glob("out/default/mug/*/ready")):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert bench.dreambooth("logs", "mug", "--follow") == (0, "begin\nend\n")


def test_logs_wait_for_a_run_that_is_about_to_start(bench: Bench) -> None:
    """And do not show those of an earlier run meanwhile."""
    bench.trainer("print('earlier')")
    bench.run_job()
    state = State(bench.state)
    with state.locked():
        run = state.new_run(load(yaml.safe_dump(bench.job)), embedded=False)
        code, output = bench.dreambooth("logs", "mug")
        assert code == 2
        assert "no log yet, as the pod has not started; wait with --follow" in output
        follower = bench.start("logs", "mug", "--follow")
        time.sleep(3)
        assert follower.poll() is None
        (run.folder / "pod-0.log").write_text("now\n")
        # The run lives until then, however late the command has begun to look.
        assert follower.stdout
        assert follower.stdout.readline() == "now\n"
    output, _ = follower.communicate(timeout=60)
    assert (follower.returncode, output) == (0, "")


def test_examples_in_the_help_are_understood() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        examples = [
            line.split("|")[0].split("<")[0]
            for line in (command.epilog or "").splitlines()
            if line.startswith("  dreambooth ")
        ]
        assert examples or name == "version"
        for example in examples:
            _, called, *arguments = shlex.split(example)
            assert called == name
            command.make_context(name, arguments)


def test_help_of_run_explains_every_exit_code(bench: Bench) -> None:
    _, output = bench.dreambooth("run", "--help")
    assert [code.value for code in ExitCode if not re.search(rf"\b{code.value}\b", output)] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_names_of_runs(bench: Bench, shell: str) -> None:
    bench.trainer("")
    bench.run_job()
    assert complete(bench, shell, "dreambooth lo") == ["logs"]
    assert complete(bench, shell, "dreambooth logs m") == ["mug"]


def complete(bench: Bench, shell: str, line: str) -> list[str]:
    """What the program proposes, asked as the scripts of `--show-completion` ask it."""
    variables = {
        "_DREAMBOOTH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    output = subprocess.run(
        [sys.executable, "-c", "from dreambooth_operator.cli.main import main; main()"],
        cwd=bench.folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.findall(r"^(?:_arguments '\*: :\(\()?\"?(\w+)", output, re.MULTILINE)
