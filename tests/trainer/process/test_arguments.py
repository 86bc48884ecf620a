"""The arguments of `python -m dreambooth_trainer`."""

import re
import sys
from pathlib import Path

import pytest

from dreambooth_trainer.__main__ import main


def test_an_unknown_protocol_is_refused_with_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(tmp_path / "job.yaml")
    monkeypatch.setattr(sys, "argv", ["trainer", "--config", config, "--protocol", "nonsense"])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    # Newer versions of Python quote no choices.
    assert re.search(r"'nonsense' \(choose from '?dreambooth'?\)", capsys.readouterr().err)
