"""The version of this contract. Operator and trainer are two images, and can differ in version.

A reader ignores fields that it does not know, so a new field needs no new version. What changes the
meaning of a field, or removes one, does.
"""

from typing import Annotated

from pydantic import Field

VERSION = 1
"""What this package writes."""
OLDEST = 1
"""The oldest version that this package still reads."""

ContractVersion = Annotated[int, Field(ge=1, le=1_000)]


class UnsupportedVersionError(ValueError):
    """A message of a contract version that this side cannot read; raised by `check_version`."""

    def __init__(self, who: str, spoken: int) -> None:
        ours = str(VERSION) if OLDEST == VERSION else f"{OLDEST} to {VERSION}"
        super().__init__(
            f"{who} speaks version {spoken} of the contract between operator and trainer, this"
            f" side {ours}; use images of one release (spec.runtime.image, or the chart's"
            " trainerImage)"
        )
        self.spoken = spoken


def check_version(who: str, spoken: int) -> None:
    """Check that this side reads version `spoken` of the contract.

    Raises:
        UnsupportedVersionError: It does not; the message names `who` and both versions.
    """
    # A newer version is refused, too: what a field means may have changed.
    if not OLDEST <= spoken <= VERSION:
        raise UnsupportedVersionError(who, spoken)
