"""The result that a request names."""

from fastapi import HTTPException
from fastapi.concurrency import run_in_threadpool

from dreambooth_trainer.serving.catalog import Result
from dreambooth_trainer.serving.parts import Parts


async def find_result(parts: Parts, name: str | None) -> Result:
    """The result of a name; None: the newest.

    Raises:
        HTTPException: There is none (404).
        StorageError: The results cannot be listed.
    """
    results = await run_in_threadpool(parts.catalog.results)
    found = next((each for each in results if name in (None, each.id)), None)
    if found is None:
        known = ", ".join(each.id for each in results[:5]) or "none yet"
        raise HTTPException(404, f"model {name}: no such result; there are: {known}")
    return found
