"""A process has the volumes, the command and the environment of a pod."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_operator.errors import UserError
from dreambooth_operator.local.host import loopback_addresses
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.runner import StopRequest, run_pods

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"

MakePods = Callable[..., list[LocalPod]]


def test_pod_sees_what_it_would_see_in_a_cluster(make_pods: MakePods, tmp_path: Path) -> None:
    program = f"""
import json, os, sys
from pathlib import Path
seen = dict(os.environ, config=Path(sys.argv[1]).read_text(), executable=sys.executable)
Path({str(tmp_path)!r}, os.environ["POD_NAME"] + ".json").write_text(json.dumps(seen))
Path(os.environ["DREAMBOOTH_CACHE_DIR"], "x").touch()
"""
    pods = make_pods(program, WORLD_SIZE="99", PET_STANDALONE="1")
    assert [end.exit_code for end in run_pods(pods, StopRequest())] == [0, 0]
    first, second = (
        json.loads((tmp_path / f"quickstart-3-{index}.json").read_text()) for index in (0, 1)
    )
    assert first["config"].startswith("apiVersion: dreambooth.dev/v1alpha1\nkind: DreamBoothJob")
    assert first["executable"] == sys.executable
    assert (first["JOB_COMPLETION_INDEX"], second["PET_NODE_RANK"]) == ("0", "1")
    assert first["POD_IP"].startswith("127.")
    assert first["POD_IP"] != second["POD_IP"]
    assert first["MASTER_ADDR"] == second["PET_MASTER_ADDR"] == first["POD_IP"]
    assert first["MASTER_PORT"] == second["PET_MASTER_PORT"] != "29500"
    assert first["DREAMBOOTH_ATTEMPT"] == "3"
    assert first["PET_NNODES"] == "2"
    assert first["POD_NAMESPACE"] == "default"
    assert first["CUDA_VISIBLE_DEVICES"] == ""
    assert first["DREAMBOOTH_CACHE_DIR"] != second["DREAMBOOTH_CACHE_DIR"]
    assert "WORLD_SIZE" not in first
    assert "PET_STANDALONE" not in first


def test_field_that_a_process_does_not_have_is_refused(make_pods: MakePods) -> None:
    overrides = {
        "spec": {
            "containers": [
                {
                    "name": "trainer",
                    "env": [
                        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
                    ],
                }
            ]
        }
    }
    with pytest.raises(UserError, match=r"podOverrides: HOST refers to the field status\.hostIP"):
        make_pods("", overrides=overrides)


def test_runs_side_by_side_get_addresses_of_their_own() -> None:
    assert not set(loopback_addresses(4, "one")) & set(loopback_addresses(4, "two"))
