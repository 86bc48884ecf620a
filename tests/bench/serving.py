"""The server of images against a bare pipeline that makes the same images in the same batches."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from dreambooth_trainer.process.chunks import images_per_pass
from tests.bench.report import Row, ratio
from tests.bench.steps import MODEL
from tests.trainer.serving.server import serving, write_run

Result = TypeVar("Result")
PROMPT = "a photo of sks mug"
SIDE = 64
GUIDANCE = 5.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    clients: int = 64
    steps: int = 30
    rounds: int = 3


SHORT = Sizes(clients=4, steps=4, rounds=1)


def served_against_bare(folder: Path, short: bool) -> Iterator[Row]:
    """Clients that all ask at once, each for one image; and one client alone, until it sees one."""
    sizes = SHORT if short else Sizes()
    export = write_run(folder, MODEL, "mug", "uid", seed=1) / "export"
    bare, seeds = _pipeline(export), range(sizes.clients)
    loaded, worked, answered, waited, paced = [], [], [], [], []
    with serving(folder, queued_images=sizes.clients, timeout_seconds=86_400) as server:
        asyncio.run(_ask(server.url, sizes.steps, range(1)))
        for _ in range(sizes.rounds):
            served, answers = _timed(lambda: asyncio.run(_ask(server.url, sizes.steps, seeds)))
            alone, _ = _timed(lambda: _draw(bare, sizes.steps, seeds))
            loaded.append(alone.wall / served.wall)
            worked.append(alone.cpu / served.cpu)
            answered.append(answers)
            first, whole = _first_event(server.url, sizes.steps)
            pair, _ = _timed(lambda: _draw(bare, 2, range(1)))
            waited.append(first / pair.wall)
            paced.append(first / whole * sizes.steps)
    fewest = min(answered)
    yield ratio("images/s served / bare pipeline", loaded, at_least=0.9)
    # What the server adds, whatever else the machine does; the clients are in the same process.
    yield ratio("CPU time of a bare pipeline / served, clients too", worked)
    yield Row(f"answers to {sizes.clients} clients", str(fewest), "all", fewest == sizes.clients)
    yield ratio("first event / bare call of 2 steps", waited)
    yield ratio("first event, in denoising steps", paced)


def _pipeline(export: Path) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(
        MODEL, safety_checker=None, dtype=torch.float32
    )
    pipeline.load_lora_weights(export)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _draw(pipeline: Any, steps: int, seeds: Sequence[int]) -> None:
    size = images_per_pass(SIDE)
    for begin in range(0, len(seeds), size):
        batch = seeds[begin : begin + size]
        pipeline(
            [PROMPT] * len(batch), num_inference_steps=steps, guidance_scale=GUIDANCE,
            height=SIDE, width=SIDE,
            generator=[torch.Generator().manual_seed(seed) for seed in batch],
        )  # fmt: skip


def _body(steps: int, seed: int, **fields: Any) -> dict[str, Any]:
    common = {"prompt": PROMPT, "steps": steps, "seed": seed, "guidance_scale": GUIDANCE}
    return {**common, "sampler": "ddim", **fields}


async def _ask(url: str, steps: int, seeds: Sequence[int]) -> int:
    """How many different images so many clients got."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        bodies = [_body(steps, seed) for seed in seeds]
        answers = await asyncio.gather(
            *(client.post("/v1/images/generations", json=body) for body in bodies)
        )
    good = [answer.json()["data"][0]["b64_json"] for answer in answers if answer.is_success]
    return len(set(good))


def _first_event(url: str, steps: int) -> tuple[float, float]:
    """Seconds until one client alone sees a partial image, and until it has the last one."""
    began = time.perf_counter()
    body = _body(steps, 0, stream=True, partial_images=1)
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=None) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        seen = [time.perf_counter() - began for _ in lines]
    first, whole = seen
    return first, whole


@dataclass(frozen=True)
class Taken:
    """Seconds that a call took."""

    wall: float
    cpu: float
    """Of all threads of the process."""


def _timed(call: Callable[[], Result]) -> tuple[Taken, Result]:
    began, worked = time.perf_counter(), time.process_time()
    result = call()
    return Taken(time.perf_counter() - began, time.process_time() - worked), result
