"""Refuses an operator that speaks another version of the contract."""

from collections.abc import Mapping

from dreambooth_api.contract import environment
from dreambooth_api.contract.version import UnsupportedVersionError, check_version
from dreambooth_trainer.process.errors import BadConfigError


def check_contract_version(variables: Mapping[str, str]) -> None:
    """Check that the operator which set these variables speaks this trainer's contract.

    Raises:
        BadConfigError: It speaks another version. Without `DREAMBOOTH_CONTRACT_VERSION`, nothing is
            checked: nobody but an operator sets it.
    """
    spoken = variables.get(environment.CONTRACT_VERSION)
    if spoken is None:
        return
    try:
        check_version("the operator", int(spoken))
    except UnsupportedVersionError as error:
        raise BadConfigError(f"spec.runtime.image: {error}") from error
    except ValueError as error:
        raise BadConfigError(
            f"{environment.CONTRACT_VERSION} is {spoken!r}, which is no version of the contract;"
            " remove it, or use a spec.runtime.image of the operator's release"
        ) from error
