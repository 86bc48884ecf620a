"""Refuses an operator with another version of the contract."""

from collections.abc import Mapping

from dreambooth_api.contract import environment
from dreambooth_api.contract.version import UnsupportedVersionError, check_version
from dreambooth_trainer.process.errors import BadConfigError


def check_contract_version(variables: Mapping[str, str]) -> None:
    """Check that the operator which set these variables has this trainer's contract version.

    Raises:
        BadConfigError: It has another one.
    """
    # Only the operator sets the variable: it is absent on a laptop and under plain torchrun.
    value = variables.get(environment.CONTRACT_VERSION)
    if value is None:
        return
    try:
        check_version("the operator", int(value))
    except UnsupportedVersionError as error:
        raise BadConfigError(f"spec.runtime.image: {error}") from error
    except ValueError as error:
        raise BadConfigError(
            f"{environment.CONTRACT_VERSION} is {value!r}, which is no version of the contract;"
            " remove it, or use a spec.runtime.image of the operator's release"
        ) from error
