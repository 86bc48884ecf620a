"""`dreambooth run`: pods as processes, restarts, stopping and resuming, storage and results."""

import re
import shlex
import signal
import socket
import time
from pathlib import Path

import pytest
import yaml

from tests.operator.cli.bench import RESULTS, SCRIPTS, Bench


def test_run_shows_progress_and_ends_with_results_and_scores(bench: Bench) -> None:
    bench.trainer(RESULTS)
    code, output = bench.run_job()
    assert code == 0
    assert "attempt 0: starting" in output
    assert "Training  step 7/9  loss 0.5000" in output
    (record,) = bench.records()
    assert record["state"] == "Succeeded"
    uid = record["job"]["metadata"]["uid"]
    assert f"file://{bench.folder}/out/default/mug/{uid}/" in output
    assert re.search(rf"model +{bench.folder}/out/default/mug/{uid}/export$", output, re.MULTILINE)
    grid = Path(re.findall(r"samples +(\S+)", output)[0])
    assert grid.read_text() == "samples/step-00000009/grid.png"
    before_after = Path(re.findall(r"before/after +(\S+)", output)[0])
    assert before_after.read_text() == "samples/before-after.png"
    assert re.search(
        r"subject similarity.* 0\.500 ±.* 0\.750 ±.* 0\.875 ±.* \+0\.250 better", output
    )
    assert not list(bench.state.rglob("big"))


def test_results_that_cannot_be_fetched_do_not_fail_the_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bench.job["spec"]["output"] = "s3://bucket/out"
    bench.job["spec"]["storage"] = {"endpointURL": "http://127.0.0.1:9"}
    bench.trainer("")
    code, output = bench.run_job()
    assert code == 0
    assert "succeeded in" in output
    assert "(cannot be fetched: s3://bucket/out/default/mug/" in output
    assert "check spec.storage.endpointURL" in output


def test_state_folder_that_cannot_be_made_is_one_message(bench: Bench) -> None:
    (bench.folder / "file").touch()
    code, output = bench.run_job("--state", "file/state")
    assert code == 2
    assert re.search(r"^error: .*file/state", output, re.MULTILINE)


def test_error_that_no_restart_helps_ends_the_run_with_its_code(bench: Bench) -> None:
    bench.trainer("""
print("reading images")
if pod == 1:
    end(65, "spec.subjects[0].images: no image decodes; upload 3-5 photos")
time.sleep(60)
""")
    code, output = bench.run_job()
    assert code == 65
    assert "FAILED: pod 1 of 2 exited with code 65" in output
    assert "spec.subjects[0].images: no image decodes; upload 3-5 photos" in output
    assert "reading images" in output
    log = Path(re.findall(r"last lines of (\S+):", output)[0])
    assert log.name == "pod-1.log"
    assert log.read_text() == "reading images\n"
    (record,) = bench.records()
    assert (record["state"], record["attempts"]) == ("Failed", 1)


def test_termination_message_is_shown_as_text_with_its_rank(bench: Bench) -> None:
    bench.trainer("""
from dreambooth_api.contract.termination import Termination
if pod == 1:
    end(65, Termination(message="no image decodes [1]\\nupload photos", rank=3).encode().decode())
time.sleep(60)
""")
    code, output = bench.run_job()
    assert code == 65
    assert "FAILED: pod 1 of 2 (rank 3) exited with code 65" in output
    assert "\n  no image decodes [1]\n  upload photos\n" in output
    assert '"message"' not in output


def test_message_that_is_in_the_log_is_printed_once(bench: Bench) -> None:
    bench.trainer("""
print("reading images")
for rank in range(2):
    print(f"rank {rank}: the loss is NaN; lower the rate")
end(68, "the loss is NaN; lower the rate")
""")
    code, output = bench.run_job()
    assert code == 68
    assert output.count("the loss is NaN; lower the rate") == 1
    assert "  reading images" in output


def test_warnings_are_printed_once_in_all_attempts(bench: Bench) -> None:
    """The trainer repeats those of the job itself."""
    bench.trainer("""
progress["warnings"] = ["a.jpg: damaged", "spec.output: a file:// folder must be the same on every"
    " node; use s3://, or mount a shared volume by runtime.podOverrides"]
time.sleep(2)
end(1) if attempt == 0 else None
""")
    code, output = bench.run_job()
    assert code == 0
    assert output.count("warning: a.jpg: damaged") == 1
    assert output.count("spec.output: a file:// folder must be the same") == 1


def test_failed_save_is_shown(bench: Bench) -> None:
    bench.trainer("""
progress |= {"failedSaves": 2, "saveProblem": "s3://bucket/out: access denied"}
time.sleep(2)
""")
    code, output = bench.run_job()
    assert code == 0
    assert "checkpoint not saved (2 failed so far): s3://bucket/out: access denied" in output


def test_progress_of_another_version_is_refused_by_name(bench: Bench) -> None:
    bench.trainer("""
progress["version"] = 999
time.sleep(2)
""")
    code, output = bench.run_job()
    assert code == 0
    assert output.count("the trainer speaks version 999 of the contract") == 1


def test_the_wait_doubles_with_disruptions_without_a_checkpoint(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxBackoffSeconds"] = 60
    bench.trainer("end(143) if attempt < 3 else None")
    code, output = bench.run_job()
    assert code == 0
    for seconds in (1, 2, 4):
        assert output.count(f"(disrupted); restarting in {seconds} s from the beginning") == 1


def test_failure_is_retried_as_a_new_attempt(bench: Bench) -> None:
    bench.trainer("""
print("attempt", attempt)
end(1) if attempt == 0 and pod == 1 else None
""")
    code, output = bench.run_job()
    assert code == 0
    assert "pod 1 exited with code 1 (failure 1 of 2 allowed)" in output
    assert "attempt 1: starting" in output
    (log,) = bench.state.rglob("pod-1.log")
    assert log.read_text() == "attempt 0\nattempt 1\n"


def test_restart_budget_is_spent(bench: Bench) -> None:
    bench.trainer("end(3)")
    code, output = bench.run_job()
    assert code == 3
    (record,) = bench.records()
    assert record["attempts"] == 3
    assert "gave up after 3 attempts: spec.runtime.restart.maxFailures is 2" in output
    assert "resume from the beginning with: dreambooth run job.yaml --resume" in output


def test_checkpoint_to_resume_from_is_named(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 1
    bench.trainer("saved = 4; end(3)")
    code, output = bench.run_job()
    assert code == 3
    assert "restarting in 1 s from the checkpoint of step 4" in output
    assert "resume from the checkpoint of step 4 with: dreambooth run job.yaml --resume" in output


def test_disruption_costs_no_failure(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("end(143) if attempt == 0 else None")
    code, output = bench.run_job()
    assert code == 0
    assert "(disrupted)" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_saves_and_resume_goes_on_with_the_same_run(
    bench: Bench, number: signal.Signals
) -> None:
    bench.trainer("""
if attempt == 0:
    saved = 4
    (run / f"ready-{pod}").touch()
    time.sleep(60)
""")
    output = stopped_when_ready(bench, number)
    assert "stopped (exit code 143): saved up to step 4" in output
    assert "resume from the checkpoint of step 4 with: dreambooth run job.yaml --resume" in output
    (stopped,) = bench.records()
    assert (stopped["state"], stopped["attempts"]) == ("Stopped", 1)

    code, output = bench.run_job("--resume")
    assert code == 0
    assert f"resuming mug-{stopped['job']['metadata']['uid'][:8]} from the checkpoint of" in output
    assert "attempt 1: starting" in output
    (resumed,) = bench.records()
    assert resumed["job"]["metadata"]["uid"] == stopped["job"]["metadata"]["uid"]
    assert resumed["state"] == "Succeeded"

    code, output = bench.run_job("--resume")
    assert code == 2
    assert "set spec.resumeFrom to {job: mug}" in output


def stopped_when_ready(bench: Bench, number: signal.Signals = signal.SIGTERM) -> str:
    """Output of a run that is stopped once both pods have made a file `ready-<pod>`."""
    process = bench.start("run", "-f", "job.yaml")
    until = time.monotonic() + 60
    while len(list(bench.folder.glob("out/default/mug/*/ready-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (143 if number != signal.SIGKILL else -9)
    return output


def test_stop_before_the_first_checkpoint_does_not_claim_to_have_saved(bench: Bench) -> None:
    bench.trainer("(run / f'ready-{pod}').touch(); time.sleep(60)")
    output = stopped_when_ready(bench)
    assert "stopped (exit code 143): no checkpoint was saved" in output
    assert "resume from the beginning with: " in output


def test_run_that_was_refused_does_not_hide_one_with_a_checkpoint(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("saved = 4; end(1)")
    assert bench.run_job()[0] == 1
    bench.trainer("end(65, 'no image decodes')")
    assert bench.run_job()[0] == 65
    bench.trainer("")
    assert bench.run_job("--resume")[0] == 0
    assert [record["state"] for record in bench.records()] == ["Succeeded", "Failed"]


def test_run_whose_process_was_killed_is_resumed(bench: Bench) -> None:
    """Its newest checkpoint is recorded as soon as the trainer reports it."""
    bench.trainer("""
progress["lastCheckpoint"] = {"step": 4, "uri": "s3://out", "time": "2026-01-01T00:00:00Z"}
time.sleep(2)
(run / f"ready-{pod}").touch()
time.sleep(60)
""")
    stopped_when_ready(bench, signal.SIGKILL)
    bench.trainer("(run / f'ready-{pod}').touch(); time.sleep(60)")
    (bench.folder / "out").rename(bench.folder / "before")
    stopped_when_ready(bench, signal.SIGKILL)
    bench.trainer("end(65)")
    bench.run_job()

    bench.trainer("")
    code, output = bench.run_job("--resume")
    assert code == 0
    first, second, _ = bench.records()
    assert f"resuming mug-{second['job']['metadata']['uid'][:8]} from the last" in output
    assert first["checkpoint"]["step"] == 4
    assert [record["state"] for record in (first, second)] == ["Interrupted", "Succeeded"]


def test_port_in_use_leaves_the_run_as_it_was(bench: Bench) -> None:
    bench.trainer("saved = 4; end(1)")
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.run_job()
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        bench.job["spec"]["runtime"]["ports"] = {"rendezvous": other.getsockname()[1]}
        code, output = bench.run_job("--resume")
    assert code == 2
    assert "spec.runtime.ports.rendezvous: port" in output
    (record,) = bench.records()
    assert (record["state"], record["attempts"]) == ("Failed", 1)


def test_command_to_resume_can_be_pasted(bench: Bench) -> None:
    """It names the same file, state folder, nodes and GPUs, quoted for a shell."""
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("end(1) if attempt == 0 else None")
    (bench.folder / "job.yaml").write_text(yaml.safe_dump(bench.job))
    (bench.folder / "my job.yaml").symlink_to("job.yaml")
    code, output = bench.dreambooth(
        "run", "my job.yaml", "--state", "my runs", "--nodes", "1", "--gpus", "0"
    )
    assert code == 1
    (command,) = re.findall(r"resume from the beginning with: (.+)", output)
    assert shlex.split(command) == [
        "dreambooth", "run", "my job.yaml", "--resume", "--state", "my runs", "--nodes", "1",
        "--gpus", "0",
    ]  # fmt: skip
    code, output = bench.dreambooth(*shlex.split(command)[1:])
    assert code == 0, output
    assert "attempt 1: starting" in output


def test_hint_names_a_program_that_the_shell_finds(bench: Bench) -> None:
    """Its path, where PATH does not lead to it."""
    bench.path = "/usr/bin:/bin"
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("end(1)")
    _, output = bench.run_job()
    (command,) = re.findall(r"resume from the beginning with: (.+)", output)
    assert Path(bench.folder, shlex.split(command)[0]).samefile(Path(SCRIPTS, "dreambooth"))


def test_job_of_standard_input_is_resumed_from_a_copy(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("end(1) if attempt == 0 else None")
    code, output = bench.dreambooth("run", "-", stdin=yaml.safe_dump(bench.job))
    assert code == 1
    (command,) = re.findall(r"resume from the beginning with: (.+)", output)
    code, output = bench.dreambooth(*shlex.split(command)[1:])
    assert code == 0, output
    (record,) = bench.records()
    assert (record["state"], record["attempts"]) == ("Succeeded", 2)


@pytest.mark.parametrize("arguments", [(), ("job.yaml", "-f", "job.yaml")])
def test_one_job_file_must_be_named(bench: Bench, arguments: tuple[str, ...]) -> None:
    code, output = bench.dreambooth("run", *arguments)
    assert code == 2
    assert "name one job file" in output


def test_every_run_is_one_of_its_own(bench: Bench) -> None:
    bench.trainer("")
    bench.run_job()
    bench.run_job()
    first, second = bench.records()
    assert first["job"]["metadata"]["uid"] != second["job"]["metadata"]["uid"]


def test_runs_of_other_jobs_are_deleted_only_when_asked(bench: Bench) -> None:
    bench.trainer("")
    bench.run_job()
    bench.job["metadata"]["name"] = "cup"
    bench.run_job("--state", "elsewhere", "--fresh")
    bench.run_job()
    assert [record["job"]["metadata"]["name"] for record in bench.records()] == ["mug", "cup"]
    _, output = bench.run_job("--fresh")
    assert f"deleted all runs in {bench.state}" in output
    assert [record["job"]["metadata"]["name"] for record in bench.records()] == ["cup"]


def test_resume_without_a_run_is_refused(bench: Bench) -> None:
    code, output = bench.run_job("--resume")
    assert code == 2
    assert "holds no run of mug; run it without --resume" in output


def test_two_runs_in_one_state_folder_are_refused(bench: Bench) -> None:
    bench.trainer("(run / 'ready').touch(); time.sleep(60)")
    first = bench.start("run", "-f", "job.yaml")
    until = time.monotonic() + 60
    while not list(bench.folder.glob("out/default/mug/*/ready")):
        assert time.monotonic() < until
        time.sleep(0.05)
    code, output = bench.run_job()
    assert code == 2
    assert "is in use by another `dreambooth`" in output
    first.terminate()
    assert first.wait(timeout=60) == 143


def test_nodes_can_be_chosen_on_the_command_line(bench: Bench) -> None:
    bench.trainer("print(os.environ['PET_NNODES'], job['spec']['runtime']['nodes'])")
    assert bench.run_job("--nodes", "3")[0] == 0
    assert [log.read_text() for log in bench.state.rglob("pod-*.log")] == ["3 3\n"] * 3


def test_choice_that_breaks_the_job_is_refused(bench: Bench) -> None:
    bench.job["spec"]["training"] = {"globalBatch": 4}
    code, output = bench.run_job("--nodes", "3")
    assert code == 2
    assert "spec.training.globalBatch: must be a multiple of nodes" in output


def test_job_without_an_endpoint_gets_a_server_with_its_uploads(bench: Bench) -> None:
    """The trainer sees the endpoint in its job and the credentials in its environment."""
    bench.job["spec"]["output"] = "s3://results/here"
    bench.job["spec"]["subjects"][0]["images"] = "s3://photos/mug"
    bench.trainer("""
if pod == 0:
    import boto3
    storage = job["spec"]["storage"]
    s3 = boto3.client("s3", endpoint_url=storage["endpointURL"], region_name=storage["region"])
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="photos")["Contents"]]
    prefix = f"here/{meta['namespace']}/{meta['name']}/{meta['uid']}"
    s3.put_object(Bucket="results", Key=f"{prefix}/export/keys", Body=" ".join(keys).encode())
    s3.put_object(Bucket="results", Key=f"{prefix}/checkpoints/big", Body=b"")
    s3.put_object(Bucket="results", Key=f"{prefix}/samples/before-after.png", Body=b"png")
""")
    photos = bench.folder / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"jpg")
    code, output = bench.run_job("--upload", "photos=s3://photos/mug")
    assert code == 0, output
    assert "uploaded 1 files from photos to s3://photos/mug" in output
    assert f"storage: an S3 server for this run, in {bench.state}/s3" in output
    model = Path(re.findall(r"model +(\S+)", output)[0])
    assert (model / "keys").read_text() == "mug/0.jpg"
    assert not list(bench.state.glob("runs/**/big"))

    code, output = bench.dreambooth("samples", "mug")
    assert code == 0, output
    assert (bench.folder / "mug-samples" / "samples" / "before-after.png").read_bytes() == b"png"


def test_uploads_that_are_gone_from_the_source_are_removed(bench: Bench) -> None:
    """Only what an earlier upload put there, and what no other upload puts there now."""
    bench.trainer("")
    for name in ("0.jpg", "1.jpg", "held-out/2.jpg"):
        path = bench.folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"jpg")
    target = bench.folder / "bucket" / "mug"
    upload = f"photos=file://{target}"
    bench.run_job("--upload", upload)
    (target / "of-somebody-else.jpg").write_bytes(b"jpg")
    (bench.folder / "photos" / "1.jpg").unlink()
    (bench.folder / "photos" / "held-out").rename(bench.folder / "held-out")
    code, output = bench.run_job(
        "--upload", f"held-out=file://{target}/held-out", "--upload", upload
    )
    assert code == 0, output
    assert f"uploaded 1 files from photos to file://{target}, removed 1 old ones" in output
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.jpg"))
    assert files == ["0.jpg", "held-out/2.jpg", "of-somebody-else.jpg"]


def test_sources_of_one_uri_are_both_remembered(bench: Bench) -> None:
    bench.trainer("")
    for name in ("ours/0.jpg", "theirs/1.jpg", "theirs/2.jpg"):
        (bench.folder / name).parent.mkdir(exist_ok=True)
        (bench.folder / name).write_bytes(b"jpg")
    target = bench.folder / "bucket" / "mug"
    uploads = ["--upload", f"theirs=file://{target}", "--upload", f"ours=file://{target}"]
    bench.run_job(*uploads)
    (bench.folder / "theirs" / "2.jpg").unlink()
    code, output = bench.run_job(*uploads)
    assert code == 0, output
    assert sorted(path.name for path in target.iterdir()) == ["0.jpg", "1.jpg"]


def test_damaged_record_of_uploads_is_as_none(bench: Bench) -> None:
    bench.trainer("")
    bench.state.mkdir()
    (bench.state / "uploads.json").write_text("[]")
    (bench.folder / "photos").mkdir()
    (bench.folder / "photos" / "0.jpg").write_bytes(b"jpg")
    code, output = bench.run_job("--upload", f"photos=file://{bench.folder}/bucket")
    assert code == 0, output
    assert "uploaded 1 files" in output


def test_upload_of_an_empty_folder_removes_nothing(bench: Bench) -> None:
    bench.trainer("")
    photos, target = bench.folder / "photos", bench.folder / "bucket" / "mug"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"jpg")
    upload = f"photos=file://{target}"
    bench.run_job("--upload", upload)
    (photos / "0.jpg").unlink()
    code, output = bench.run_job("--upload", upload)
    assert code == 2
    assert "error: --upload photos: holds no files; nothing was removed" in output
    assert [path.name for path in target.iterdir()] == ["0.jpg"]


def test_samples_are_fetched_while_the_job_runs(bench: Bench) -> None:
    """From the embedded server, which only the run itself may start."""
    bench.job["spec"]["output"] = "s3://results/here"
    bench.trainer("""
if pod == 0:
    import boto3
    storage = job["spec"]["storage"]
    s3 = boto3.client("s3", endpoint_url=storage["endpointURL"], region_name=storage["region"])
    prefix = f"here/{meta['namespace']}/{meta['name']}/{meta['uid']}"
    s3.put_object(Bucket="results", Key=f"{prefix}/samples/step-00000003/grid.png", Body=b"png")
    print("ready", flush=True)
time.sleep(60)
""")
    process = bench.start("run", "job.yaml")
    until = time.monotonic() + 100
    while not any("ready" in log.read_text() for log in bench.state.rglob("pod-0.log")):
        assert time.monotonic() < until
        time.sleep(0.1)
    code, output = bench.dreambooth("samples", "mug")
    assert (code, output) == (0, "mug-samples/samples/step-00000003/grid.png\n")
    process.terminate()
    assert process.wait(timeout=60) == 143


def test_server_of_the_environment_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    bench.job["spec"]["output"] = "s3://results/here"
    bench.trainer("print(job['spec']['storage']['endpointURL'], os.environ['AWS_ACCESS_KEY_ID'])")
    code, output = bench.run_job()
    assert code == 0
    assert "storage: http://127.0.0.1:9" in output
    log = next(bench.state.rglob("pod-0.log"))
    assert log.read_text() == "http://127.0.0.1:9 key\n"
    assert not (bench.state / "s3").exists()


def test_names_of_uploads_may_hold_an_equals_sign(bench: Bench) -> None:
    bench.trainer("")
    photos = bench.folder / "year=2024"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"jpg")
    code, output = bench.run_job("--upload", f"year=2024=file://{bench.folder}/by/year=2024")
    assert code == 0, output
    assert (bench.folder / "by" / "year=2024" / "0.jpg").read_bytes() == b"jpg"


@pytest.mark.parametrize(
    "upload", ["photos", "=s3://b/c", "photos=", "photos=http://b/c", "nowhere=s3://b/c"]
)
def test_odd_uploads_are_refused_before_anything_runs(bench: Bench, upload: str) -> None:
    code, output = bench.run_job("--upload", upload)
    assert code == 2
    assert re.search("use LOCAL=URI|no such file or folder", output)
    assert bench.records() == []
