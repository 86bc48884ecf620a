"""Generated files: written, or compared with what is committed."""

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

Files = dict[Path, str]
"""Paths in the repository, and the text of each file."""


def write(root: Path, files: Files) -> None:
    """Write every file below `root`; one that is up to date keeps its modification time."""
    for path, text in files.items():
        target = root / path
        # make compares modification times: what depends on an unchanged file is not made again.
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def differences(root: Path, files: Files) -> list[str]:
    """Compare the files below `root` with what would be written: a diff for each that differs."""
    diffs = []
    for path, text in files.items():
        target = root / path
        old = target.read_text(encoding="utf-8") if target.exists() else ""
        lines = difflib.unified_diff(
            old.splitlines(), text.splitlines(), str(path), f"{path} (generated)", lineterm="", n=1
        )
        diff = "\n".join(lines)
        if diff:
            diffs.append(diff)
    return diffs


def main(program: str, description: str | None, generated: Callable[[], Files]) -> None:
    """Run the command line of a generator: write its files, or with --check compare them.

    Raises:
        SystemExit: A file differs, with the differences as message (exit code 1).
    """
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on any difference"
    )
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="root of the repository")
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.root, generated())
        return
    diffs = differences(arguments.root, generated())
    if diffs:
        sys.exit("\n".join([*diffs, "", "Generated files are out of date; run `make generate`."]))
