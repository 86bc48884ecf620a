"""Imports without the garbage collector."""

import gc
from collections.abc import Iterator

import pytest

from dreambooth_trainer.process.garbage import kept_objects


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_no_collection_looks_at_what_was_created() -> None:
    with kept_objects():
        assert not gc.isenabled()
        kept = [["kept"]]
    assert gc.isenabled()
    assert not any(each is kept for each in gc.get_objects())


def test_after_an_import_that_fails_garbage_is_collected() -> None:
    with pytest.raises(ImportError), kept_objects():
        raise ImportError
    assert gc.isenabled()
