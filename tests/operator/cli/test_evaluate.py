"""`dreambooth evaluate`: pods that score a result, and what the terminal shows."""

import re

from tests.crds.contract.example_scores import example_scores
from tests.operator.cli.bench import RESULTS, Bench

SCORER = f"""
if "--protocol" in sys.argv:
    if pod == 0:
        target = run / "evaluation" / sys.argv[sys.argv.index("--protocol") + 1]
        target.mkdir(parents=True, exist_ok=True)
        (target / "scores.json").write_bytes({example_scores().encode()!r})
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
