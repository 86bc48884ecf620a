"""Runs the trainer on the result of a run, with the pods that would train its job."""

from collections.abc import Sequence
from pathlib import Path

from dreambooth_api.contract import environment as variables
from dreambooth_api.contract.restart import PodEnd
from dreambooth_operator.local.kubelet import local_pods
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.progress import ProgressReader
from dreambooth_operator.local.run import LOCAL_IMAGE, node_environment
from dreambooth_operator.local.runner import StopRequest, run_pods
from dreambooth_operator.local.screen import Screen
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_operator.manifests.resources import attempt_objects


def run_trainer(
    storage: LocalStorage,
    folder: Path,
    arguments: Sequence[str],
    stop: StopRequest,
    screen: Screen,
    cache: Path | None = None,
) -> tuple[LocalPod, PodEnd] | None:
    """Run the trainer with these arguments in place of training.

    Args:
        storage: The job and its storage.
        folder: For logs, and the pods' folders.
        arguments: Of the trainer's command line, such as `--protocol`.
        stop: The user's request to stop.
        screen: Shows that it is going on.
        cache: Folder that keeps downloaded models; by default they are deleted with the pods.

    Returns:
        The pod that failed first and how it ended; None when all have succeeded.
    """
    node = node_environment(folder, 0, storage)
    pods = local_pods(attempt_objects(storage.job, 0, LOCAL_IMAGE), node)
    for pod in pods:
        pod.command += arguments
        if cache is not None:
            pod.environment[variables.CACHE_DIR] = str(cache)
            # Models in memory are deleted once they are loaded.
            pod.environment.pop(variables.MODELS_DIR, None)
    with ProgressReader(node.addresses[0], node.metrics_port) as reader:
        ends = run_pods(
            pods, stop, lambda: screen.update(reader.latest, reader.problem, stop.requested)
        )
    failed = next((end for end in ends if end.exit_code), None)
    return None if failed is None else (pods[failed.index], failed)
