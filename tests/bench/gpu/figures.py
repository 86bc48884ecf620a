"""What a row of `make bench-gpu` measures, and the document that all of them make up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["measured", "failed", "timed out", "skipped"]


@dataclass(frozen=True)
class Figure:
    """One number, and its target where it has one."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """Both bounds in words; empty without any."""
        bounds = [(self.at_least, "at least"), (self.at_most, "at most")]
        return ", ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)

    @property
    def met(self) -> bool | None:
        """None: there is no target. NaN meets none."""
        if self.at_least is None and self.at_most is None:
            return None
        high_enough = self.at_least is None or self.value >= self.at_least
        return high_enough and (self.at_most is None or self.value <= self.at_most)


@dataclass
class Result:
    """What became of a row: the figures until its end, and why it ended early."""

    row: str
    outcome: Outcome = "measured"
    reason: str = ""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)


def to_json(
    environment: dict[str, Any], results: Sequence[Result], *, judged: bool
) -> dict[str, Any]:
    """The document; `judged` is false for tiny sizes, whose figures mean nothing."""
    rows = [
        {
            "row": result.row,
            "outcome": result.outcome,
            "reason": result.reason,
            "seconds": round(result.seconds, 1),
            "figures": [
                {
                    "name": figure.name,
                    "value": figure.value,
                    "unit": figure.unit,
                    "target": figure.target,
                    "met": figure.met if judged else None,
                }
                for figure in result.figures
            ],
        }
        for result in results
    ]
    return {"environment": environment, "rows": rows}


def to_markdown(document: dict[str, Any]) -> str:
    """The document as a table, the environment below it."""
    lines = ["| Row | Figure | Value | Target | |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        for figure in row["figures"]:
            value = f"{figure['value']:.4g} {figure['unit']}".strip()
            verdict = {True: "pass", False: "MISS", None: ""}[figure["met"]]
            lines.append(
                f"| {row['row']} | {figure['name']} | {value} | {figure['target']} | {verdict} |"
            )
        if row["outcome"] != "measured":
            reason = row["reason"].replace("|", "\\|")
            lines.append(f"| {row['row']} | | {row['outcome']}: {reason} | | |")
    lines += ["", *(f"- {name}: {value}" for name, value in document["environment"].items())]
    return "\n".join(lines) + "\n"
