"""`transformers serve`, as the chart's assistant may run it: read by two clients, as it streams.

Where torchvision is missing, it serves no model that reads images. So the language model of
tiny-sd's captioner is served alone, and asked what it was taught to answer in text.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from transformers import AutoProcessor, Ministral3ForCausalLM, Mistral3ForConditionalGeneration

from dreambooth_api.models.captioning import Captioning, CaptioningEndpoint
from dreambooth_trainer.captioning.answers import Prompts
from dreambooth_trainer.captioning.models.endpoint import EndpointModel
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.captioning.models.messages import chat
from dreambooth_trainer.captioning.prompts import prompts_request
from dreambooth_trainer.process.errors import BadConfigError
from tests.ports import free_ports

CAPTIONER = Path(__file__).parents[3] / "examples" / "tiny-sd" / "captioner"
START_SECONDS = 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaptioningEndpoint]:
    folder = language_model(tmp_path_factory.mktemp("served"))
    [port] = free_ports(1)
    command = [Path(sys.executable).with_name("transformers"), "serve", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as server:
        try:
            wait(f"http://127.0.0.1:{port}/health", server)
            yield CaptioningEndpoint(
                url=f"http://127.0.0.1:{port}/v1", model=str(folder), timeout_seconds=100
            )
        finally:
            server.terminate()


def language_model(folder: Path) -> Path:
    """That of the captioner, without its vision tower, as a model of its own."""
    whole = Mistral3ForConditionalGeneration.from_pretrained(CAPTIONER)
    alone = Ministral3ForCausalLM(whole.config.text_config)
    alone.model.load_state_dict(whole.model.language_model.state_dict())
    alone.lm_head.load_state_dict(whole.lm_head.state_dict())
    alone.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(CAPTIONER / name, folder)
    return folder


def wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.TransportError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.2)


def question(**settings: Any) -> Request:
    return prompts_request(Captioning(**settings), "mug", 3, [], seed=0)


def test_the_official_client_and_a_job_read_one_answer_from_the_stream(
    endpoint: CaptioningEndpoint,
) -> None:
    asked = question(temperature=0, top_p=1, max_tokens=200)
    with (
        openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0) as client,
        client.chat.completions.create(
            model=endpoint.model,
            messages=chat(asked, Prompts),
            temperature=0,
            max_tokens=200,
            stream=True,
        ) as stream,
    ):
        choices = [choice for chunk in stream for choice in chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    assert len(pieces) > 5
    assert choices[-1].finish_reason == "stop"
    text = "".join(pieces)
    assert text.startswith(
        '{"prompts":["'
    )  # the server binds it to no schema: it may end otherwise
    with closing(EndpointModel(endpoint, key=None)) as model:
        assert model.answer([asked], Prompts) == [text]


def test_top_k_is_refused_with_its_reason(endpoint: CaptioningEndpoint) -> None:
    with (
        closing(EndpointModel(endpoint, key=None)) as model,
        pytest.raises(BadConfigError, match=r"HTTP 422: .*top_k"),
    ):
        model.answer([question(top_k=5)], Prompts)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="it is installed")
def test_the_captioner_as_a_whole_needs_torchvision() -> None:
    with pytest.raises(ImportError, match="Torchvision"):  # what the server loads first
        AutoProcessor.from_pretrained(CAPTIONER)
