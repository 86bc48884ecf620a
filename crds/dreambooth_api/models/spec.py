"""The spec of a DreamBoothJob."""

from typing import ClassVar

from dreambooth_api.models.rules.placement import PlacementRules
from dreambooth_api.models.rules.subjects import SubjectRules
from dreambooth_api.models.rules.training import TrainingRules


class Spec(SubjectRules, TrainingRules, PlacementRules):
    """What to train, on what, how, where, and where to put the result."""

    inherits_rules: ClassVar[bool] = True
