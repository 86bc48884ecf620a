"""Settings are checked as a whole, and each problem names its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_operator.controller.app.settings import (
    InvalidSettingsError,
    Settings,
    read_settings,
)


def _read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return read_settings(path)


def test_only_the_image_is_required(tmp_path: Path) -> None:
    settings = _read(tmp_path, "trainerImage: example.com/trainer:1\n")
    assert settings.namespaces == []
    assert settings.metrics_port == 8080
    assert not settings.leader_election.enabled


def test_names_are_camel_case(tmp_path: Path) -> None:
    settings = _read(
        tmp_path,
        """
        trainerImage: example.com/trainer:1
        namespaces: [team-a, team-b]
        progressSeconds: 5
        imagePullGraceSeconds: 7.5
        leaderElection: {enabled: true, namespace: ops, leaseSeconds: 20}
        jobDefaults: {storage: {endpointURL: "http://minio:9000"}, queue: gpus}
        log: {level: debug, json: true}
        """,
    )
    assert settings.namespaces == ["team-a", "team-b"]
    assert settings.leader_election.lease_seconds == 20
    assert settings.log.as_json
    assert settings.job_defaults.storage.endpoint_url == "http://minio:9000"
    assert settings.job_defaults.queue == "gpus"
    policy = settings.policy()
    assert policy.default_image == "example.com/trainer:1"
    assert (policy.progress_seconds, policy.image_pull_grace_seconds) == (5, 7.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "trainerImage: required; add it"),
        ("[]", "must be a mapping"),
        ("trainerImage: [", "not valid YAML"),
        ("{trainerImage: a, worker: 3}", "worker: unknown setting; remove it"),
        ("{trainerImage: a, trainer_image: b}", "trainer_image: unknown setting"),
        ("{trainerImage: a, workers: 0}", "workers: "),
        ("{trainerImage: a, metricsPort: 70000}", "metricsPort: "),
        ("{trainerImage: a, namespaces: [Team]}", "namespaces.0: "),
        ("{trainerImage: a, log: {level: loud}}", "log.level: "),
        ("{trainerImage: a, progressSeconds: .inf}", "progressSeconds: "),
        ("{trainerImage: a, jobDefaults: {nodes: 2}}", "jobDefaults.nodes: unknown setting"),
        ("{trainerImage: a, jobDefaults: {nodeSelector: {'': a}}}", "jobDefaults.nodeSelector."),
        (
            "{trainerImage: a, jobDefaults: {tolerations: [{value: a}]}}",
            "jobDefaults.tolerations.0: key: is required with operator Equal",
        ),
        (
            "{trainerImage: a, leaderElection: {leaseSeconds: 8}}",
            "leaderElection: leaseSeconds must be at least twice renewSeconds; raise it",
        ),
    ],
)
def test_problem_names_the_field(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidSettingsError) as raised:
        _read(tmp_path, text)
    assert problem in str(raised.value)


def test_every_problem_has_a_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError) as raised:
        _read(tmp_path, "{workers: 0, resyncSeconds: 0}")
    assert len(str(raised.value).splitlines()) == 3


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match="name a readable file"):
        read_settings(tmp_path / "none.yaml")
