"""Builds the images with docker, podman or buildah: `python3 images/build.py --help`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pip_settings import PipSettings

ROOT = Path(__file__).parents[1]
BUILDERS = ("docker", "podman", "buildah")
IMAGES = ("operator", "trainer")


def main() -> None:
    """Build what the arguments name, and print the tags."""
    options = _parse()
    builder = options.builder or find_builder()
    with _pip_options(builder) as pip_options:
        images = options.images or IMAGES
        built = [_build(builder, image, options, pip_options) for image in images]
    if options.push:
        for tag in built:
            _run(builder, ["push", tag], f"push {tag}; log in to the registry first")
    done = "Built and pushed" if options.push else "Built"
    sys.stdout.write("\n".join(["", done, *built, ""]))


def find_builder() -> str:
    """The first builder that works here; ends the process with a sentence when there is none."""
    for name in BUILDERS:
        # The docker command may be there without a daemon.
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], capture_output=True).returncode
        ):
            return name
    sys.exit(f"Images are built with {', '.join(BUILDERS)}, and none of them works here.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="operator, trainer; default: both"
    )
    parser.add_argument("--builder", choices=BUILDERS, help="default: the first that works here")
    parser.add_argument("--registry", default="", help="such as registry.example.com/team")
    parser.add_argument("--tag", help="default: the project's version")
    parser.add_argument("--base-image", help="Debian with Python 3.11 or newer")
    parser.add_argument("--torch-variant", help="cuda, the default, or a label such as cpu")
    parser.add_argument("--push", action="store_true", help="push to the registry as well")
    options = parser.parse_args()
    if unknown := set(options.images) - set(IMAGES):
        parser.error(f"no such image: {', '.join(unknown)}; choose from {', '.join(IMAGES)}")
    if options.push and not options.registry:
        parser.error("--push needs --registry, such as registry.example.com/team")
    return options


def _build(
    builder: str, image: str, options: argparse.Namespace, pip_options: Sequence[str]
) -> str:
    """Build one image; returns its tag. Ends the process when the builder fails."""
    name = f"dreambooth-{image}:{options.tag or _version()}"
    tag = f"{options.registry.rstrip('/')}/{name}" if options.registry else name
    command = [builder, "build", "--file", str(ROOT / "images" / f"{image}.Dockerfile")]
    if builder != "docker":
        command.append("--layers")  # or buildah packs dependencies and our own packages into one
    command += ["--tag", tag, *_arguments(image, options), *pip_options, str(ROOT)]
    _run(builder, command[1:], f"build {tag}")
    return tag


def _run(builder: str, arguments: Sequence[str], purpose: str) -> None:
    """Run the builder; ends the process with a message when it fails."""
    # The old builder of docker has no secrets.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    if subprocess.run([builder, *arguments], env=environment).returncode:
        sys.exit(f"{builder} could not {purpose}; its own message is above")


def _arguments(image: str, options: argparse.Namespace) -> list[str]:
    """Build arguments; a Dockerfile has a default for those that are not given."""
    arguments = {
        "VERSION": _version(),
        "REVISION": _revision(),
        "BASE_IMAGE": options.base_image,
        "TORCH_VARIANT": options.torch_variant if image == "trainer" else None,
    }
    return [f"--build-arg={name}={value}" for name, value in arguments.items() if value]


@contextmanager
def _pip_options(builder: str) -> Iterator[list[str]]:
    """Options that give this machine's pip settings to a build."""
    # As secrets, which are mounted during a build: no layer of the image keeps them.
    settings = PipSettings.of_this_machine()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pip.conf"
        file.write_text(settings.text)
        options = [f"--secret=id=pip,src={file}"]
        if settings.certificates:
            options.append(f"--secret=id=ca,src={settings.certificates}")
        yield options + _folder_options(builder, settings.folders)


def _folder_options(builder: str, folders: Sequence[Path]) -> list[str]:
    """Options that show folders of this machine to a build."""
    if builder != "docker":
        return [f"--volume={path}:{path}:ro" for path in folders]
    for path in folders:
        sys.stderr.write(f"docker shows no folders to a build: pip will not look into {path}\n")
    return []


def _version() -> str:
    return (ROOT / "VERSION").read_text(encoding="utf-8").strip()


def _revision() -> str:
    """The commit, marked when there are changes on top of it; unknown outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
