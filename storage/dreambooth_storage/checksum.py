"""Compares checksums."""

from __future__ import annotations

from dreambooth_storage.errors import ChecksumMismatchError


def verify(uri: str, expected: str, actual: str) -> None:
    """Compare two hexadecimal sha256 digests.

    Raises:
        ChecksumMismatchError: they differ.
    """
    if expected.lower() != actual:
        raise ChecksumMismatchError(
            uri,
            f"is damaged: its sha256 is {actual} instead of {expected.lower()}",
            "write it again, or restore it from a copy",
        )
