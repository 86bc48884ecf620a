"""`dreambooth generate`: what the trainer is asked for, and what the terminal shows."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.operator.cli.bench import Bench

GENERATOR = """
if "--generate" in sys.argv:
    request = json.loads(Path(sys.argv[sys.argv.index("--generate") + 1]).read_text())
    seen = {"request": request, "runtime": job["spec"]["runtime"], "model": job["spec"]["model"],
            "cache": os.environ["DREAMBOOTH_CACHE_DIR"]}
    (output.parent / "seen.json").write_text(json.dumps(seen))
    end(0)
"""


@pytest.fixture
def done(bench: Bench) -> Bench:
    """A job that has run here."""
    bench.trainer(GENERATOR)
    bench.job["spec"]["samples"] = {"prompts": ["a photo of sks mug"], "seed": 5}
    assert bench.run_job()[0] == 0
    return bench


def folder_of(bench: Bench) -> Path:
    (record,) = bench.records()
    return bench.folder / "out" / "default" / "mug" / str(record["job"]["metadata"]["uid"])


def seen(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder / "seen.json").read_text())
    return found


def test_without_options_the_trainer_is_asked_for_the_samples(done: Bench) -> None:
    for result in ("mug", "job.yaml"):
        code, output = done.dreambooth("generate", result)
        assert code == 0, output
        assert f"4 in {done.folder}/mug-images" in output
        assert f"{done.folder}/mug-images/grid.png" in output
        assert seen(done)["request"] == {
            "root": f"file://{folder_of(done)}",
            "prompts": ["a photo of sks mug"],
            "count": 4,
            "seed": 5,
            "adapterWeight": 1.0,
            "folder": f"{done.folder}/mug-images",
        }
    # One process, whatever the job has, and a cache that stays.
    assert seen(done)["runtime"]["nodes"] == 1
    assert seen(done)["cache"] == str(done.state / "cache")
    assert not list((done.state / "generated").iterdir())


def test_options_are_passed_on(done: Bench) -> None:
    (done.folder / "more.txt").write_text("a mug\n\n  sks mug, blue \n")
    options = "-n 2 --seed 1 --steps 3 --guidance 0 --negative blur --size 96x64 --weight 0.5"
    code, output = done.dreambooth(
        "generate", "mug", "sks mug", "--prompts", "more.txt", "--checkpoint", "4", "--out", "x",
        "--sampler", "ddim", "--base", str(done.folder / "out"), *options.split(),
    )  # fmt: skip
    assert code == 2
    assert f"--base {done.folder}/out: not a model" in output
    code, output = done.dreambooth(
        "generate", "mug", "sks mug", "--prompts", "more.txt", "--checkpoint", "4", "--out", "x",
        "--sampler", "ddim", *options.split(),
    )  # fmt: skip
    assert code == 0, output
    assert "hint" not in output
    asked = seen(done)["request"]
    assert asked.pop("root") == f"file://{folder_of(done)}"
    assert asked == {
        "prompts": ["sks mug", "a mug", "sks mug, blue"], "count": 2, "seed": 1, "steps": 3,
        "guidanceScale": 0.0, "negativePrompt": "blur", "width": 96, "height": 64, "step": 4,
        "adapterWeight": 0.5, "sampler": "ddim", "folder": f"{done.folder}/x",
    }  # fmt: skip


def test_a_copied_folder_its_export_and_a_job_of_a_cluster_are_results(done: Bench) -> None:
    (record,) = done.records()
    job = record["job"]
    copy = done.folder / "copy"
    (copy / "export").mkdir(parents=True)
    (copy / "run.json").write_text(json.dumps({"job": job}))
    elsewhere = ("--state", str(done.folder / "other"))
    for result in (copy, copy / "export"):
        code, output = done.dreambooth("generate", str(result), *elsewhere)
        assert code == 0, output
        assert seen(done)["request"]["root"] == f"file://{copy}"
    status = {"phase": "Running", "artifacts": {"output": f"file://{copy}"}}
    text = yaml.safe_dump({**job, "status": status})
    code, output = done.dreambooth("generate", "-", "--out", "y", *elsewhere, stdin=text)
    assert code == 0, output
    assert seen(done)["request"]["root"] == f"file://{copy}"


def test_what_is_not_valid_is_refused_by_its_option(done: Bench) -> None:
    code, output = done.dreambooth("generate", "mug", "-n", "0", "--steps", "5000", "--seed", "-1")
    assert code == 2
    assert "-n: must be at least 1 (got 0)" in output
    assert "--steps: must be at most 500 (got 5000)" in output
    assert "--seed: must be at least 0" in output
    code, output = done.dreambooth("generate", "mug", "--size", "big")
    assert code == 2
    assert "--size big: must be a number of pixels" in output
    options = ("--size", "100000", "--guidance", "nan", "--weight", "nan", "--negative", "x" * 513)
    code, output = done.dreambooth("generate", "mug", *options)
    assert code == 2
    assert output.count("--size: must be at most 8192 (got 100000)") == 1
    for option in ("--guidance", "--weight", "--negative"):
        assert f"{option}: must be" in output
    code, output = done.dreambooth("generate", "mug", "  ")
    assert code == 2
    assert "prompt[0]: must be text on one line" in output
    assert "hint" not in output
    code, output = done.dreambooth("generate", "mug", "--gpus", "99")
    assert code == 2
    assert "--gpus 99: this machine has" in output
    code, output = done.dreambooth("generate", "cup")
    assert code == 2
    assert "cup: no such file, and no run of that name" in output
    code, output = done.dreambooth("generate", str(done.folder / "out"))
    assert code == 2
    assert "no run.json there" in output
    (done.folder / "file").touch()
    for out in ("file", "file/below"):
        code, output = done.dreambooth("generate", "mug", "--out", out)
        assert code == 2
        assert f"--out {out}: cannot be written to" in output
    assert not (done.folder / "seen.json").exists()


def test_what_the_folder_shows_is_refused_without_the_trainer(done: Bench) -> None:
    folder = folder_of(done)
    for name in ("export/model_index.json", "checkpoints/step-00000004-claim-0000/manifest.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    code, output = done.dreambooth("generate", "mug", "--checkpoint", "5")
    assert code == 2
    assert "--checkpoint 5: the run has no checkpoint of that step, but of 4; name" in output
    code, output = done.dreambooth("generate", "mug", "--weight", "0.5")
    assert code == 2
    assert "--weight 0.5: the result is a whole model, without adapters; leave it out" in output
    assert not (done.folder / "seen.json").exists()


def test_prompts_without_the_identifier_are_hinted_at(done: Bench) -> None:
    code, output = done.dreambooth("generate", "mug", "a mug")
    assert code == 0
    assert "hint: no prompt names sks; write 'a photo of sks mug' for the subject" in output


def test_a_trainer_that_refuses_is_quoted_and_its_log_is_kept(done: Bench) -> None:
    done.trainer("end(66, 'spec.output: there is neither an exported model nor a checkpoint yet')")
    code, output = done.dreambooth("generate", "mug")
    assert code == 66
    assert "neither an exported model nor a checkpoint yet" in output
    (folder,) = (done.state / "generated").iterdir()
    assert (folder / "pod-0.log").exists()


def test_a_base_model_elsewhere_is_used_as_the_job_used_it(done: Bench) -> None:
    (record,) = done.records()
    job = record["job"]
    merged = [{"source": "hf://owner/style", "scale": 0.5}]
    job["spec"]["model"] = {
        "source": "hf://owner/model", "revision": "main", "clipSkip": 2, "mergedAdapters": merged,
    }  # fmt: skip
    job["spec"]["prior"] = {"prompts": ["a {classNoun}"]}  # from before this was refused
    copy = done.folder / "copy"
    copy.mkdir()
    (copy / "run.json").write_text(json.dumps({"job": job}))
    code, output = done.dreambooth("generate", str(copy), "--base", "s3://bucket/model.gguf")
    assert code == 2
    assert "--base s3://bucket/model.gguf: is a GGUF file" in output
    code, output = done.dreambooth("generate", str(copy), "--base", "s3://bucket/model")
    assert code == 0, output
    model = seen(done)["model"]
    assert (model["source"], model["clipSkip"]) == ("s3://bucket/model", 2)
    assert [each["source"] for each in model["mergedAdapters"]] == ["hf://owner/style"]
    assert "revision" not in model


@pytest.mark.parametrize("made", [False, True])
def test_stopped_images_are_named_where_there_are_any(done: Bench, made: bool) -> None:
    folder = done.folder / "mug-images"
    folder.mkdir()
    (folder / "grid.png").touch()  # of an earlier call
    done.trainer(
        f"""
folder = Path({str(folder)!r})
if {made}:
    (folder / "a-photo-of-sks-mug-5.png").touch()
(folder.parent / "ready").touch()
signal.alarm(60)  # it must not outlive a test that fails
signal.pause()
"""
    )
    time.sleep(0.05)
    process = done.start("generate", "mug")
    while not (done.folder / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    expected = f"the images so far are in {folder}" if made else "no image was made yet"
    assert f"stopped: {expected}" in output
