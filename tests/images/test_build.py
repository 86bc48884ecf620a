"""`make images` with builders that write down what they were asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "trainer")
VERSION = (ROOT / "VERSION").read_text().strip()
BUILDER = f"""#!{sys.executable} -S
import json, os, pathlib, sys
if sys.argv[1] == "info":
    sys.exit(int(sys.argv[0].endswith(os.environ.get("BROKEN", "none"))))
secrets = [word.partition("src=")[2] for word in sys.argv if word.startswith("--secret=")]
call = {{"command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        "secrets": {{path: pathlib.Path(path).read_text() for path in secrets}}}}
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(call) + "\\n")
"""


@dataclass(frozen=True)
class Call:
    """One run of a builder."""

    command: list[str]
    secrets: dict[str, str]

    def options(self, name: str) -> list[str]:
        """Values of an option, written as --name=value."""
        return [w.partition("=")[2] for w in self.command if w.startswith(f"--{name}=")]

    @property
    def tag(self) -> str:
        return self.command[self.command.index("--tag") + 1]

    @property
    def pip_conf(self) -> str:
        (text,) = (text for path, text in self.secrets.items() if path.endswith("pip.conf"))
        return text


Make = Callable[..., tuple[list[Call], subprocess.CompletedProcess[str]]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that runs `make images` with only the named builders on the path."""

    def run(
        builders: str, *variables: str, target: str = "images", **environment: str
    ) -> tuple[list[Call], subprocess.CompletedProcess[str]]:
        programs, calls = tmp_path / "bin", tmp_path / "calls"
        programs.mkdir()
        for name in builders.split():
            (programs / name).write_text(BUILDER)
            (programs / name).chmod(0o755)
        for name in ("sh", "git"):
            (programs / name).symlink_to(f"/usr/bin/{name}")
        calls.touch()
        done = subprocess.run(
            ["/usr/bin/make", target, f"PYTHON={sys.executable}", *variables],
            cwd=ROOT,
            env={
                "PATH": str(programs),
                "CALLS": str(calls),
                "PIP_CONFIG_FILE": "/dev/null",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return [Call(**json.loads(line)) for line in calls.read_text().splitlines()], done

    return run


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_both_images_are_built_with_what_is_there(make: Make, builder: str) -> None:
    (operator, trainer), done = make(builder)
    assert done.returncode == 0, done.stderr
    assert operator.command[:2] == trainer.command[:2] == [builder, "build"]
    assert operator.tag == f"dreambooth-operator:{VERSION}"
    assert trainer.tag == f"dreambooth-trainer:{VERSION}"
    assert f"{ROOT}/images/trainer.Dockerfile" in trainer.command
    assert trainer.command[-1] == str(ROOT)
    (version, revision) = operator.options("build-arg")
    assert version == f"VERSION={VERSION}"
    assert len(revision.removesuffix("-dirty")) == len("REVISION=") + 40
    built = f"dreambooth-operator:{VERSION}\ndreambooth-trainer:{VERSION}"
    assert done.stdout.endswith(f"\n{built}\n")


def test_without_a_builder_it_says_what_is_missing(make: Make) -> None:
    calls, done = make("")
    assert not calls
    assert done.returncode
    assert "docker, podman, buildah, and none of them works here" in done.stderr


def test_a_docker_without_a_daemon_is_passed_over(make: Make) -> None:
    calls, _ = make("docker buildah", BROKEN="docker")
    assert {call.command[0] for call in calls} == {"buildah"}


def test_variables_say_what_is_built_and_as_what(make: Make) -> None:
    (operator, trainer), _ = make(
        "docker podman",
        "BUILDER=podman",
        "REGISTRY=registry.example.com/team",
        "TAG=2",
        "BASE_IMAGE=debian-with-python",
        "TORCH_VARIANT=cpu",
    )
    assert trainer.command[0] == "podman"
    assert trainer.tag == "registry.example.com/team/dreambooth-trainer:2"
    assert "TORCH_VARIANT=cpu" in trainer.options("build-arg")
    assert "TORCH_VARIANT=cpu" not in operator.options("build-arg")
    assert "BASE_IMAGE=debian-with-python" in operator.options("build-arg")


def test_push_pushes_what_was_built(make: Make) -> None:
    # Without a virtual environment: what would push the chart is only looked at.
    calls, done = make(
        "buildah",
        "REGISTRY=registry.example.com/team",
        "READY=",
        "BIN=/nowhere",
        target="push",
    )
    tags = [f"registry.example.com/team/dreambooth-{name}:{VERSION}" for name in IMAGES]
    pushed = [call.command for call in calls if call.command[1] == "push"]
    assert pushed == [["buildah", "push", tag] for tag in tags]
    assert "Built and pushed" in done.stdout
    assert "push_chart.py registry.example.com/team" in done.stdout


def test_push_needs_a_registry(make: Make) -> None:
    calls, done = make("buildah", "READY=", target="push")
    assert not calls
    assert "REGISTRY is required" in done.stderr


def test_pip_in_a_build_looks_where_pip_on_this_machine_does(make: Make, tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    certificates = tmp_path / "authorities.pem"
    certificates.write_text("trusted")
    (call, _), _ = make(
        "podman",
        PIP_INDEX_URL="https://me:secret@packages.example.com/simple",
        PIP_EXTRA_INDEX_URL=f"file://{index}",
        PIP_FIND_LINKS=f"{wheels} /not/there",
        PIP_CERT=str(certificates),
        PIP_NO_CACHE_DIR="1",
    )
    assert sorted(call.pip_conf.splitlines()) == [
        "[global]",
        "cert = /run/secrets/ca",
        f"extra-index-url = file://{index}",
        f"find-links = {wheels} /not/there",
        "index-url = https://me:secret@packages.example.com/simple",
    ]
    assert call.secrets[str(certificates)] == "trusted"
    # Index pages link to files beside their folder.
    assert call.options("volume") == [f"{p}:{p}:ro" for p in (wheels, index.parent)]
    assert "me:secret" not in " ".join(call.command)
    (file,) = (Path(path) for path in call.secrets if path.endswith("pip.conf"))
    assert not file.exists()


def test_a_variable_wins_over_a_file(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nretries = 1\nproxy = http://proxy.example.com\n")
    (call, _), _ = make("buildah", PIP_CONFIG_FILE=str(file), PIP_RETRIES="7")
    assert "retries = 7\n" in call.pip_conf
    assert "proxy = http://proxy.example.com\n" in call.pip_conf


def test_docker_says_which_folders_it_cannot_show(make: Make, tmp_path: Path) -> None:
    (call, _), done = make("docker", PIP_FIND_LINKS=str(tmp_path))
    assert not call.options("volume")
    assert f"pip will not look into {tmp_path}" in done.stderr


def test_a_failed_build_fails(make: Make) -> None:
    calls, done = make("docker", "TAG=not:a:tag", CALLS="/not/there/calls")
    assert not calls
    assert done.returncode
    assert "docker could not build dreambooth-operator:not:a:tag" in done.stderr
