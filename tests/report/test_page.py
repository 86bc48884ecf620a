"""The page: it holds what the run has stored, trusts none of it, and stays small."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth_api.contract.scores import (
    DEFINITIONS,
    Estimate,
    PromptScores,
    ScoreName,
    ScoreValues,
)
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_report.build import build_report
from dreambooth_report.page import safe_link
from dreambooth_report.read import read_run
from dreambooth_report.record import UnreadableRunError
from dreambooth_report.sources import picture_folders
from dreambooth_storage import Storage, StorageSettings
from tests.crds.contract.example_scores import example_scores
from tests.report.runs import PROMPTS, write_run

HOSTILE = "</script></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)> sks {{ 7*7 }}"


def build(root: str, *, alone: bool = False) -> str:
    """The page of a run; `alone`: of a folder whose job is known from nowhere else."""
    record = Path(root.removeprefix("file://")) / "run.json"
    job = None if alone else DreamBoothJob.model_validate(json.loads(record.read_text())["job"])
    with Storage(StorageSettings()) as storage:
        return build_report(storage, root, job).html


class Parser(HTMLParser):
    """Tags and attributes as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of the elements of a tag."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that succeeded at its second attempt."""
    return build(write_run(tmp_path_factory.mktemp("run")))


def test_pictures_come_from_the_folders_of_the_run_alone(tmp_path: Path) -> None:
    secret, up = f"file://{tmp_path}/secret.png", f"file://{tmp_path}/photos/../secret.png"
    photo = f"file://{tmp_path}/photos/0.png"
    root = write_run(tmp_path, steps=(0,), images={"sks": [secret, up, photo], "class mug": []})
    (tmp_path / "secret.png").write_bytes((tmp_path / "photos/0.png").read_bytes())
    alone = len(Parser(build(root)).all("img"))
    assert "2 pictures could not be read" in build(root)
    assert "outside of the run's folder" not in build(root)
    (tmp_path / "photos/0.png").unlink()
    assert len(Parser(build(root)).all("img")) == alone - 1


def test_captions_of_a_model_are_shown_as_text(tmp_path: Path) -> None:
    captions = {"0.png": "a photo of sks mug on a <b>table</b>", "1.png": "sks mug in the snow"}
    page = build(write_run(tmp_path, steps=(0,), captions={"sks": captions}))
    assert "<summary>Captions</summary>" in page
    assert "sks mug in the snow" in page
    assert "a &lt;b&gt;table&lt;/b&gt;" in page
    assert "<summary>Captions</summary>" not in build(write_run(tmp_path / "plain", steps=(0,)))


def test_a_folder_alone_shows_no_pictures_outside_of_it(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 8), seeds=1)
    page = build(root, alone=True)
    assert len(Parser(page).all("img")) == 2 * 3 + 1  # samples, and those of the trained model
    assert "8 pictures could not be read" in page
    assert "make this page from the job&#39;s file to see them" in page


def test_photos_that_stand_in_for_class_images_are_shown_once(tmp_path: Path) -> None:
    root = write_run(tmp_path)
    assert "Class image 1 of mug" in build(root)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["job"]["spec"]["prior"] = {"count": 0}
    path.write_text(json.dumps(record))
    assert "Class image" not in build(root)


def test_a_known_job_names_the_folders_of_photos_and_class_images() -> None:
    job = DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "s3://models/sd"},
                "subjects": [
                    {"identifier": "sks", "classNoun": "mug", "images": "file:///home/me"},
                    {"identifier": "zwx", "classNoun": "mug", "images": "s3://bucket/mug"},
                ],
                "prior": {"images": "s3://bucket/mugs"},
                "output": "s3://bucket/out",
            },
        }
    )
    root = "s3://bucket/out/default/mug/1"
    shown = {root, "s3://bucket/mug", "s3://bucket/mugs", "s3://bucket/out/prior-cache"}
    assert set(picture_folders(root, job)) == shown | {"file:///home/me"}
    assert picture_folders(root, None) == [root]


def test_it_shows_what_the_run_has_stored(page: str) -> None:
    for shown in (
        "<h1>smiling-mug</h1>", "“<bdi>a photo of sks mug on the beach</bdi>”", "The trained model",
        "Seconds per step", "Learning rate", "blurred.jpg: is damaged", "is high for this model",
        "out of GPU memory", "from step 400", "2 x NVIDIA L4", "apache-2.0", "samples 42",
        "kind: DreamBoothJob", "print(1)", "ab" * 32, "3.11.2",
    ):  # fmt: skip
        assert shown in page, shown


def test_scores_are_shares_of_what_real_photos_reach(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 9))
    (tmp_path / "run/scores.json").write_bytes(example_scores().encode())
    assert "before 0.500, 86% of real photos (0.875)" in build(root)


EVALUATIONS = [
    {"step": 200, "score": 0.11, "passedOver": True},
    {"step": 400, "score": 0.3, "passedOver": False},
    {"step": 800, "score": 0.2, "passedOver": False},
]
RESULT: dict[str, Any] = {
    "exportedStep": 400,
    "stoppedEarly": "stopped early at step 800 of 2000: the last 2 evaluation(s) were not better",
    "weights": {"subjectSimilarity": 2, "promptSimilarity": 1, "validationLoss": 1},
    "evaluations": EVALUATIONS,
}


def test_the_choice_of_the_checkpoint_is_shown(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 400, 800), result=RESULT, modelLicense=None)
    scores = example_scores().model_copy(update={"step": 400, "exported_step": 400})
    (tmp_path / "run/scores.json").write_bytes(scores.encode())
    page = build(root)
    for shown in (
        "Choice of the checkpoint",
        "Subject similarity to the power of 2 x prompt following x 1 / validation loss;"
        " the highest is exported.",
        "Passed over, as the class fidelity is below its limit: step 200.",
        "Training stopped early at step 800 of 2000: the last 2 evaluation(s) were not better.",
        "not known",
    ):
        assert shown in page, shown
    drifted = RESULT | {"evaluations": [each | {"passedOver": True} for each in EVALUATIONS]}
    page = build(write_run(tmp_path, steps=(0, 400, 800), result=drifted))
    assert "All are below the limit of the class fidelity: the nearest is exported." in page


def test_figures_of_one_of_several_subjects_say_whose_they_are(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 9))
    scores = example_scores()
    other = scores.subjects[0].model_copy(update={"identifier": "zwx"})
    scores = scores.model_copy(update={"subjects": [*scores.subjects, other]})
    (tmp_path / "run/scores.json").write_bytes(scores.encode())
    assert "of sks mug alone, before 0.500" in build(root)


def test_words_about_scores_are_about_the_exported_model(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 400, 800), result=RESULT)
    exported = example_scores().model_copy(update={"step": 400, "exported_step": 400})
    last = exported.model_copy(update={"step": 800, "exported_step": None}, deep=True)
    similarity, noise = ScoreName.SUBJECT_SIMILARITY, Estimate(value=0.0, low=-0.1, high=0.1)
    scores = last.subjects[0].scores
    scores[similarity] = scores[similarity].model_copy(update={"change": noise})
    (tmp_path / "run/scores").mkdir()
    (tmp_path / "run/scores/step-00000800.json").write_bytes(last.encode())
    (tmp_path / "run/scores.json").write_bytes(exported.encode())
    page = build(root)
    assert f"{DEFINITIONS[similarity].meaning} Better than the base model." in page
    assert '<dd class="small muted">stopped early, step 400 exported</dd>' in page


def test_what_was_made_with_other_prompts_is_not_shown_below_those_of_now(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 400, 800))
    before, now = ({"samples": {"prompts": [prompt]}} for prompt in ("a sks cup", PROMPTS[0]))
    for step, settings in ((0, now), (400, before), (800, now)):
        folder = tmp_path / "run" / "samples" / f"step-{step:08d}"
        (folder / "settings.json").write_text(json.dumps(settings))
    scores = example_scores().model_copy(update={"step": 800, "exported_step": 800})
    former = scores.model_copy(update={"step": 400, "exported_step": None}, deep=True)
    former.subjects[0].prompts.append(PromptScores(prompt="a sks cup", values=ScoreValues()))
    (tmp_path / "run/scores").mkdir()
    (tmp_path / "run/scores/step-00000400.json").write_bytes(former.encode())
    (tmp_path / "run/scores.json").write_bytes(scores.encode())
    with Storage(StorageSettings()) as storage:
        facts = read_run(storage, root)
    assert facts.sample_steps == [0, 800]
    assert {point.step for score in facts.scores for point in score.points} == {0, 800}
    assert "The samples and scores of step 400 are not shown" in build(root)


def test_a_run_that_goes_on_shows_the_best_checkpoint_so_far(tmp_path: Path) -> None:
    so_far = {"bestStep": 400, "weights": {"promptSimilarity": 1}, "evaluations": EVALUATIONS}
    root = write_run(tmp_path, steps=(0, 400, 800), result=so_far)
    (tmp_path / "run/export/README.md").unlink()
    scores = example_scores().model_copy(update={"step": 400, "exported_step": None})
    (tmp_path / "run/scores").mkdir()
    (tmp_path / "run/scores/step-00000400.json").write_bytes(scores.encode())
    page = build(root)
    assert "Choice of the checkpoint" in page
    assert "The vertical line is the best checkpoint so far, of step 400." in page
    assert "The model so far" in page
    assert "exported model" not in page


@pytest.mark.parametrize(
    ("training", "kind"),
    [
        ({"method": "full"}, "A fine-tuned model"),
        ({"method": "lora", "textEncoder": {"method": "full"}}, "A fine-tuned model"),
        ({"method": "lora"}, "A LoRA"),
        ({"method": "lora", "lora": {"type": "dora"}}, "A DoRA"),
        ({"method": "lora", "lora": {"type": "lokr"}}, "A LoKr"),
        ({"method": "lora", "lora": {"type": "loha"}}, "A LoHa"),
    ],
)
def test_the_page_says_what_was_trained(
    tmp_path: Path, training: dict[str, Any], kind: str
) -> None:
    root = write_run(tmp_path, steps=(0,), seeds=1, globalBatch=1)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["job"]["spec"]["training"] = training
    path.write_text(json.dumps(record))
    page = build(root)
    assert f"{kind} that knows" in page
    assert "1 image per step" in page


def test_without_a_choice_no_choice_is_shown(tmp_path: Path) -> None:
    alone = RESULT | {"evaluations": EVALUATIONS[-1:]}
    assert "Choice of the checkpoint" not in build(write_run(tmp_path, result=alone))


def test_small_numbers_fit_beside_a_chart(tmp_path: Path) -> None:
    small = [{"step": 200 * n, "score": n * 1e-5} for n in (1, 2, 3)]
    root = write_run(tmp_path, result=RESULT | {"evaluations": small})
    (tmp_path / "run/scores.json").write_bytes(example_scores().encode())
    assert ">2e-5</text>" in build(root)


def test_every_picture_has_a_text_and_a_size_and_is_embedded(page: str) -> None:
    pictures = Parser(page).all("img")
    assert len(pictures) == 5 + 4 + 3 * 4 * 5 + 3
    for each in pictures:
        assert each["src"].startswith("data:image/webp;base64,")
        assert each["alt"].strip()
        assert int(each["width"]) > 0 < int(each["height"])
    of_prompts = [each["alt"] for each in pictures if "seed" in each["alt"]]
    assert len(of_prompts) == len(set(of_prompts))


def test_nothing_comes_from_a_network_and_only_its_own_script_runs(page: str) -> None:
    parser = Parser(page)
    (policy,) = [each["content"] for each in parser.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        ((_, content),) = re.findall(rf"<({tag})>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, attributes in parser.tags:
        assert not {"style", "srcset", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")


def test_texts_of_users_stay_texts(tmp_path: Path) -> None:
    page = build(
        write_run(
            tmp_path,
            prompts=(HOSTILE,),
            card=f"# x\n\n{HOSTILE}\n\n```\n{HOSTILE}\n```\n\n- {HOSTILE}\n",
            warnings=[f"{HOSTILE}\n  {HOSTILE}"],
            notes=[HOSTILE],
            modelLicense={"name": HOSTILE, "link": "javascript:alert(1)"},
            hashes={HOSTILE: HOSTILE},
        )
    )
    parser = Parser(page)
    assert len(parser.all("script")) == len(parser.all("style")) == 1
    assert all(each["src"].startswith("data:") for each in parser.all("img"))
    assert all(each["href"].startswith(("#", "https://")) for each in parser.all("a"))
    assert "49" not in page.split("<body>")[1].split("Attempts")[0].replace("data:", "")[:2000]
    assert page.count("&lt;/script&gt;") > 5


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://example.org/license", True),
        ("javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        (None, False),
    ],
)
def test_only_links_that_do_nothing_else_are_followed(url: str | None, safe: bool) -> None:
    assert (safe_link(url) is not None) == safe


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0,), seeds=1)
    folder = tmp_path / "run"
    for file in ("export/README.md", "history.jsonl", "attempts/0001.json"):
        (folder / file).unlink()
    page = build(root)
    assert "Not finished yet" in page
    assert "It is still running, or was killed." in page
    for absent in ("The trained model", 'id="training"', 'id="use"', "<input"):
        assert absent not in page
    assert "Before and after" in page
    for sample in (folder / "samples").rglob("*.png"):
        sample.unlink()
    assert "Before and after" not in build(root)


def test_an_attempt_that_vanished_is_said_to_have_left_no_message(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 8), seeds=1)
    (tmp_path / "run" / "attempts" / "0000.json").unlink()
    assert "It left no message: it was killed, or its node was lost." in build(root)


def test_photos_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 8), seeds=1)
    for photo in (tmp_path / "photos").iterdir():
        photo.unlink()
    page = build(root)
    assert page.count("not available</div>") == 8
    assert "8 pictures could not be read" in page


def test_fields_and_rules_of_another_version_are_ignored(tmp_path: Path) -> None:
    root = write_run(tmp_path, steps=(0, 8), seeds=1)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["job"]["spec"]["training"]["fromTheFuture"] = 1
    record["job"]["spec"]["subjects"][0]["mood"] = "good"
    record["job"]["spec"]["prior"] = {"prompts": ["a {classNoun}"]}
    path.write_text(json.dumps(record))
    assert "Succeeded" in build(root, alone=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRunError, match=r"holds no run\.json.*the folder of a run"):
        build(f"file://{tmp_path}", alone=True)
    (tmp_path / "run.json").write_text('{"job": {}}')
    with pytest.raises(UnreadableRunError, match=r"run\.json: job\.apiVersion: .*another version"):
        build(f"file://{tmp_path}", alone=True)


@pytest.mark.slow
def test_a_thousand_samples_stay_below_20_mb(tmp_path: Path) -> None:
    prompts = tuple(f"a photo of sks mug number {i}" for i in range(10))
    root = write_run(tmp_path, prompts=prompts, steps=tuple(range(0, 1000, 40)), side=8)
    buffer = io.BytesIO()
    # Noise is the worst case: nothing takes more bytes.
    Image.frombytes("RGB", (320, 320), os.urandom(3 * 320 * 320)).save(buffer, "PNG")
    samples = list((tmp_path / "run" / "samples").rglob("*.png"))
    assert len(samples) == 1000
    samples[0].write_bytes(buffer.getvalue())
    for each in samples[1:]:
        each.unlink()
        os.link(samples[0], each)
    page = build(root)
    assert len(page.encode()) < 20e6
    assert "Of 1,000 samples, 240 are shown: 12 of 25 steps, 2 of 4 images per prompt." in page
    assert len(Parser(page).all("img")) == 5 + 2 + 240 + 3


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    style = (resources.files("dreambooth_report") / "template" / "style.css").read_text()
    palettes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#\w{6});", palettes[scheme == "dark"]))
    assert len(colors) == 8
    for text in ("ink", "muted", "accent", "second", "alert"):
        for ground in ("paper", "panel"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
