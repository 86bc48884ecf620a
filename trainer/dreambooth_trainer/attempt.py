"""The context of an attempt: the job, the ranks, storage, telemetry, the device."""

from dataclasses import dataclass

import torch

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.stages import Stage
from dreambooth_api.models.job import output_layout
from dreambooth_storage import Storage
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.telemetry.telemetry import Telemetry


@dataclass(frozen=True)
class Attempt:
    """One attempt, as one rank sees it."""

    job: ResolvedJob
    ranks: Ranks
    storage: Storage
    telemetry: Telemetry
    stop: StopSignal
    device: torch.device

    @property
    def sharded(self) -> bool:
        """Whether the ranks divide the denoiser among them."""
        return self.job.spec.runtime.strategy == "fsdp" and self.topology.world_size > 1

    @property
    def topology(self) -> Topology:
        """This rank among the others."""
        return self.ranks.topology

    @property
    def layout(self) -> OutputLayout:
        """The paths of the run in storage."""
        return output_layout(self.job)

    def enter_stage(self, stage: Stage) -> None:
        """Enter a stage. Collective.

        Raises:
            StoppedError: Any rank was asked to stop.
        """
        self.check_stop()
        self.telemetry.enter_stage(stage)

    def check_stop(self) -> None:
        """Raise `StoppedError` on all ranks when any was asked to stop. Collective."""
        # Gathered, as SIGTERM reaches the ranks at different times, or only those of one pod.
        if any(self.ranks.gather(self.stop.requested)):
            raise StoppedError("asked to stop between two stages; every checkpoint is kept")
