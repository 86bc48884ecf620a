"""The command line of all benchmarks: runs measurements, and prints each row as it comes."""

import argparse
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from unittest import mock

NAME_WIDTH = 50
VALUE_WIDTH = 28


@dataclass(frozen=True)
class Row:
    """One figure: what came out, and whether its target was met."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None
    """None: there is no target."""


Measurement = Callable[[Path, bool], Iterable[Row]]
"""measurement(empty folder, short): short runs use tiny sizes, whose figures mean nothing."""


def ratio(
    name: str,
    values: Sequence[float],
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """A row of ratios measured in several rounds; the target is for their median."""
    middle = median(values)
    value = f"{middle:.3f}" + (
        f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    )
    if at_least is not None:
        return Row(name, value, f"at least {at_least:.2f}", middle >= at_least)
    if at_most is None:
        return Row(name, value)
    return Row(name, value, f"at most {at_most:.2f}", middle <= at_most)


def main(
    measurements: Mapping[str, Measurement], description: str | None, argv: list[str] | None = None
) -> int:
    """Run the measurements that are named, or all; returns 1 when one fails or misses a target."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" | ".join(measurements))
    parser.add_argument("--short", action="store_true", help="tiny sizes and no targets")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(measurements):
        parser.error(f"no measurement is named {' or '.join(sorted(unknown))}")
    failed = missed = 0
    for name in options.names or measurements:
        try:
            with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
                for row in measurements[name](Path(folder), options.short):
                    shown = replace(row, target="", met=None) if options.short else row
                    _print(shown)
                    missed += shown.met is False
        # One that fails must not hide the others.
        except Exception as error:
            traceback.print_exc()
            first_line = str(error).partition("\n")[0]
            _print(Row(name, f"FAILED: {type(error).__name__}: {first_line}"))
            failed += 1
    return int(bool(failed or missed))


@contextmanager
def credentials(environment: Mapping[str, str]) -> Iterator[None]:
    """These settings of AWS in os.environ, and none of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        yield


def _print(row: Row) -> None:
    first, *others = row.value.split("\n")
    verdict = {True: f"met: {row.target}", False: f"MISSED: {row.target}", None: ""}[row.met]
    lines = [f"{row.name:<{NAME_WIDTH}} {first:<{VALUE_WIDTH}} {verdict}".rstrip()]
    lines += [f"{'':<{NAME_WIDTH}} {other}" for other in others]
    # Flushed: a row is worth reading while the next one is measured.
    print(*lines, sep="\n", flush=True)
