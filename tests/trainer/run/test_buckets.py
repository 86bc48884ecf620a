"""Whole runs on photos that are not cropped, at two resolutions, with masks and tags."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import MakeJob
from tests.trainer.ranks import final_state, history, run_folder, run_ranks


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Photos as a phone makes them: across, upright, and upright by their metadata alone."""
    (tmp_path / "photos").mkdir()
    for number, (size, turned) in enumerate(
        [((120, 90), False), ((90, 120), False), ((120, 90), True), ((128, 72), False)]
    ):
        exif = Image.Exif()
        exif[0x0112] = 6 if turned else 1
        image = Image.new("RGB", size, (60 * number, 200, 90))
        image.paste((220, 40, 50), (10, 10, 50, 60))
        image.save(tmp_path / f"photos/{number}.jpg", exif=exif)
    mask = Image.new("L", (120, 90), 0)
    mask.paste(255, (10, 10, 50, 60))
    mask.save(tmp_path / "photos/0-masklabel.png")
    (tmp_path / "photos/1.txt").write_text("a photo of sks mug, red, on grass, upright")
    return f"file://{tmp_path}/photos"


def losses(job: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([[line["loss"], line["prior_loss"]] for line in history(job)])


def test_a_run_on_photos_does_not_depend_on_ranks_or_stops(
    job: MakeJob, photos: str, tmp_path: Path
) -> None:
    def make(uid: str) -> dict[str, Any]:
        training = {
            "crop": "none", "shuffleTags": True, "resolution": 80, "lowerResolutions": [64],
            "steps": 5,
        }  # fmt: skip
        made = job(uid, training=training)
        made["spec"]["subjects"][0] |= {"images": photos, "mask": "file", "maskWeight": 0}
        return made

    steady = make("steady")
    ended = run_ranks(steady, tmp_path / "steady")
    assert ended.codes == [0], ended.logs
    assert len({loss for loss, _ in losses(steady).tolist()}) == 5

    split = make("split")
    ended = run_ranks(split, tmp_path / "split", nodes=2)
    assert ended.codes == [0, 0], ended.logs
    torch.testing.assert_close(losses(split), losses(steady), rtol=1e-4, atol=1e-5)

    broken = make("broken")
    stopped = run_ranks(broken, tmp_path / "broken", stop_at_step=2)
    assert stopped.codes == [143], stopped.logs
    ended = run_ranks(broken, tmp_path / "broken", attempt=1)
    assert ended.codes == [0], ended.logs
    expected, found = final_state(steady), final_state(broken)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []

    # Class images are in the shapes of the photos, two of which are upright, at full resolution.
    made = Path(make("any")["spec"]["prior"]["cache"].removeprefix("file://"))
    sizes = set()
    for each in made.rglob("*.png"):
        with Image.open(each) as image:
            sizes.add(image.size)
    assert {(88, 64), (64, 88), (104, 56)} <= sizes
    assert not {(72, 56), (56, 72), (80, 48)} & sizes
    assert (run_folder(steady) / "report.html").is_file()
