"""Scores the result of a run on this machine, with the pods that would train its job."""

from pathlib import Path

from dreambooth_api.contract.layout import EvaluationProtocol
from dreambooth_api.contract.restart import PodEnd
from dreambooth_operator.local.kubelet import local_pods
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.progress import ProgressReader
from dreambooth_operator.local.run import LOCAL_IMAGE, node_environment
from dreambooth_operator.local.runner import StopRequest, run_pods
from dreambooth_operator.local.screen import Screen
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_operator.manifests.resources import attempt_objects


def evaluate_result(
    storage: LocalStorage,
    folder: Path,
    protocol: EvaluationProtocol,
    stop: StopRequest,
    screen: Screen,
) -> tuple[LocalPod, PodEnd] | None:
    """Run the trainer's evaluation of a job's result.

    Args:
        storage: The job and its storage.
        folder: For logs, and the pods' folders.
        protocol: By which it is scored.
        stop: The user's request to stop; images so far are kept.
        screen: Shows that it is going on.

    Returns:
        The pod that failed first and how it ended; None when all have succeeded.
    """
    node = node_environment(folder, 0, storage)
    pods = local_pods(attempt_objects(storage.job, 0, LOCAL_IMAGE), node)
    for pod in pods:
        pod.command += ["--protocol", protocol]
    with ProgressReader(node.addresses[0], node.metrics_port) as reader:
        ends = run_pods(
            pods, stop, lambda: screen.update(reader.latest, reader.problem, stop.requested)
        )
    failed = next((end for end in ends if end.exit_code), None)
    return None if failed is None else (pods[failed.index], failed)
