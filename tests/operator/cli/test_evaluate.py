"""`dreambooth evaluate`: pods that score a result, and what the terminal shows."""

import json
import re

from tests.crds.contract.example_scores import example_scores
from tests.operator.cli.bench import RESULTS, Bench

SCORER = f"""
if "--protocol" in sys.argv:
    if pod == 0:
        target = run / "evaluation" / sys.argv[sys.argv.index("--protocol") + 1]
        target.mkdir(parents=True, exist_ok=True)
        (target / "scores.json").write_bytes({example_scores().encode()!r})
        (run / "model.json").write_text(json.dumps(job["spec"]["model"]))
        (run / "evaluation.json").write_text(json.dumps(job["spec"].get("evaluation")))
    end(0)
"""


def test_a_result_is_scored_by_its_job_and_by_its_folder(bench: Bench) -> None:
    bench.trainer(SCORER + RESULTS)
    assert bench.run_job()[0] == 0
    (record,) = bench.records()
    uid = record["job"]["metadata"]["uid"]
    folder = bench.folder / "out" / "default" / "mug" / uid
    assert not (folder / "evaluation").exists()
    for result in ("mug", "job.yaml"):
        code, output = bench.dreambooth("evaluate", result)
        assert code == 0, output
        assert re.search(r"subject similarity.* 0\.500 ±.* 0\.750 ±.* \+0\.250 better", output)
        assert f"file://{folder}/evaluation/dreambooth/scores.json" in output
    # The file may have other settings of the scores by now.
    bench.job["spec"]["evaluation"] = {"count": 7}
    assert bench.dreambooth("evaluate", "job.yaml")[0] == 0
    assert json.loads((folder / "evaluation.json").read_text())["count"] == 7
    code, output = bench.dreambooth("evaluate", "mug", "--base", "nowhere")
    assert code == 2
    assert "--base nowhere: no such file or folder" in output
    code, output = bench.dreambooth("evaluate", "mug", "--base", "s3://bucket/moved")
    assert code == 0, output
    assert json.loads((folder / "model.json").read_text())["source"] == "s3://bucket/moved"


def test_any_number_of_ranks_scores_a_result(bench: Bench) -> None:
    """Also one that the batch of its training cannot be divided among."""
    bench.job["spec"].setdefault("training", {})["globalBatch"] = 4
    bench.trainer(SCORER + RESULTS)
    assert bench.run_job()[0] == 0
    code, output = bench.dreambooth("evaluate", "mug", "--nodes", "3")
    assert code == 0, output


def test_a_folder_of_another_version_is_scored_with_the_fields_that_are_known(
    bench: Bench,
) -> None:
    bench.trainer(SCORER + RESULTS)
    assert bench.run_job()[0] == 0
    (record,) = bench.records()
    job = record["job"]
    folder = bench.folder / "out" / "default" / "mug" / job["metadata"]["uid"]
    elsewhere = ("--state", str(bench.folder / "other"))  # where the run is not known
    job["spec"].setdefault("training", {})["newField"] = 1
    (folder / "run.json").write_text(json.dumps({"job": job}))
    code, output = bench.dreambooth("evaluate", str(folder), *elsewhere)
    assert code == 0, output
    assert "is of another version of dreambooth; fields that this one does not know" in output
    job["spec"]["training"]["steps"] = -1
    (folder / "run.json").write_text(json.dumps({"job": job}))
    code, output = bench.dreambooth("evaluate", str(folder), *elsewhere)
    assert code == 2
    assert "run.json is not valid:\n  spec.training.steps: must be at least 1" in output


def test_a_trainer_that_refuses_is_quoted(bench: Bench) -> None:
    bench.trainer(RESULTS)
    assert bench.run_job()[0] == 0
    bench.trainer("end(66, 'spec.evaluation.encoders.image: there is nothing at /dino')")
    code, output = bench.dreambooth("evaluate", "mug")
    assert code == 66
    assert "spec.evaluation.encoders.image: there is nothing at /dino" in output


def test_a_folder_without_a_run_is_refused(bench: Bench) -> None:
    code, output = bench.dreambooth("evaluate", str(bench.folder))
    assert code == 2
    assert "no run.json there; name the folder of a run" in output
