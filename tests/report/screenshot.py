"""The picture for the README: `python -m tests.report.screenshot REPORT.html PICTURE.jpg`."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.report.chromium import browser

WIDTH, HEIGHT = 1120, 1130
"""Pixels of the top of the page that are shown."""


def main(report: Path, picture: Path) -> None:
    """Write a JPEG of the top of a report."""
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder, "profile")) as page:
        page.open(report.absolute(), width=WIDTH)
        shot = Path(folder, "page.png")
        page.screenshot(shot, height=HEIGHT)
        with Image.open(shot) as image:
            image.convert("RGB").save(picture, "JPEG", quality=88, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
