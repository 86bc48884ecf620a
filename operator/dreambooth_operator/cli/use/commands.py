"""The commands that use the result of a run; each is a module of its name, imported when called."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dreambooth_operator.cli.options import (
    RESULT_EXIT_CODES,
    Gpus,
    Nodes,
    Result,
    StateFolder,
    examples,
)
from dreambooth_operator.local.state import DEFAULT_STATE

app = typer.Typer()

Base = Annotated[str | None, typer.Option(help="Where the base model is, if it has moved.")]


@app.command(epilog=examples("samples my-mug", "samples job.yaml --to pictures"))
def samples(
    result: Result,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: <name>-samples.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Fetch the sample grids of a job's newest run."""
    from dreambooth_operator.cli.use.samples import samples

    samples(result, to, state)


@app.command(
    epilog=examples(
        "report my-mug", "report s3://bucket/results/default/my-mug/UID --output mug.html"
    )
)
def report(
    result: Result,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write. Default: NAME-report.html."),
    ] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Write a page that shows a run: samples, scores, losses, attempts."""
    from dreambooth_operator.cli.use.report import report

    report(result, output, state)


@app.command(
    epilog=examples(
        "evaluate my-mug",
        "evaluate s3://bucket/results/default/my-mug/local",
        exit_codes=RESULT_EXIT_CODES,
    )
)
def evaluate(
    result: Result,
    protocol: Annotated[
        Literal["dreambooth"],
        typer.Option(help="dreambooth: 25 prompts of the paper's kinds, 4 images of each."),
    ] = "dreambooth",
    base: Base = None,
    state: StateFolder = DEFAULT_STATE,
    nodes: Nodes = None,
    gpus: Gpus = None,
) -> None:
    """Score a result by a protocol on this machine; run again, it goes on where it stopped."""
    from dreambooth_operator.cli.use.evaluate import EvaluateOptions, evaluate

    raise typer.Exit(evaluate(EvaluateOptions(result, protocol, base, state, nodes, gpus)))


@app.command(
    epilog=examples(
        "generate my-mug 'a photo of sks mug on the moon' -n 8 --seed 1 --out pictures",
        "generate s3://bucket/results/default/my-mug/UID --prompts prompts.txt --steps 30",
        "generate - 'a photo of sks mug' < my-mug.yaml   (by: kubectl get dbj my-mug -o yaml)",
        exit_codes=RESULT_EXIT_CODES,
    )
)
def generate(
    result: Result,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="What to show. Default: the job's samples."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="File with a prompt a line, or - .")
    ] = None,
    count: Annotated[int | None, typer.Option("-n", "--count", help="Images per prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of each prompt's first image.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 512, or 768x512. Default: as trained.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Strength of the adapters: 0 is the base model.")
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Use the checkpoint of this step.")
    ] = None,
    base: Base = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: NAME-images.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
    gpus: Gpus = None,
) -> None:
    """Generate images from a result; settings that are not given are those of its samples."""
    from dreambooth_operator.cli.use.generate import GenerateOptions, generate

    settings = {
        "count": count,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "sampler": sampler,
        "adapter_weight": weight,
        "step": checkpoint,
    }
    options = GenerateOptions(
        result, prompts or (), prompts_file, out, settings, size, base, state, gpus
    )
    raise typer.Exit(generate(options))


@app.command(
    epilog=examples(
        "merge hf://owner/model results/export --out my-model",
        "merge hf://owner/model results/export --token results/export --out my-model",
        "merge model.safetensors mug.safetensors=0.8 style.safetensors=0.5 --out my.safetensors",
        exit_codes="Exit codes: 0 written; 2 wrong usage; else the trainer's.",
    )
)
def merge(
    model: Annotated[str, typer.Argument(help="The base model: a path, hf:// or s3://.")],
    *,
    loras: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LORA[=SCALE]]...", help="What to merge: files, or their folders."),
    ] = None,
    token: Annotated[
        list[Path] | None,
        typer.Option(
            help="Learned token to merge: its file, or the folder of a result. Repeat it."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to write, in the diffusers layout, or a .safetensors file: the whole model"
            " in one."
        ),
    ],
    revision: Annotated[str | None, typer.Option(help="Of the model, with hf://.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the model's weights: fp16.")] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Merge LoRAs and learned tokens into their base model, at scales of 1 or as given."""
    from dreambooth_operator.cli.use.merge import MergeOptions, merge

    raise typer.Exit(
        merge(MergeOptions(model, loras or (), token or (), out, revision, variant, state))
    )


@app.command(
    epilog=examples(
        "serve my-mug",
        "serve s3://bucket/results --port 8080",
        "serve results --host 0.0.0.0 --tokens tokens.txt",
        exit_codes="Exit codes: 0 stopped; 2 wrong usage; else the server's.",
    )
)
def serve(
    result: Annotated[
        str,
        typer.Argument(
            help="As of generate, or a folder above several results: all are served.",
            show_default=False,
        ),
    ],
    base: Base = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = 8080,
    tokens: Annotated[
        Path | None, typer.Option(help="File with bearer tokens that are accepted, one a line.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without tokens.")
    ] = False,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Serve results: a page with them, and OpenAI's images API."""
    from dreambooth_operator.cli.use.serve import ServeOptions, serve

    raise typer.Exit(serve(ServeOptions(result, base, host, port, tokens, insecure, state)))


ClassNoun = Annotated[
    str, typer.Option("--class", metavar="NOUN", help="Class of the subject.", show_default=False)
]
CaptionerSource = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A vision-language model: a folder, hf:// or s3://. Default: Ministral 3 8B.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        help="URL of a server with OpenAI's API to ask instead; its key is $OPENAI_API_KEY."
    ),
]
EndpointModelName = Annotated[str | None, typer.Option(help="Name of the model at --endpoint.")]
AnswerSeed = Annotated[int, typer.Option(min=0, help="Another one gives other answers.")]


@app.command(
    epilog=examples(
        "caption photos --class dog",
        "caption photos --class dog --check --write",
        "caption photos --class dog --endpoint http://localhost:8000/v1 --name my-model",
        exit_codes="Exit codes: 0 done; 2 wrong usage; else the trainer's.",
    )
)
def caption(
    folder: Annotated[
        str, typer.Argument(help="The images: a folder, or s3://...", show_default=False)
    ],
    noun: ClassNoun,
    identifier: Annotated[str, typer.Option(help="The subject's rare word.")] = "sks",
    model: CaptionerSource = None,
    endpoint: Endpoint = None,
    name: EndpointModelName = None,
    system_prompt: Annotated[
        str | None, typer.Option(help="How captions are to be written; {class} is the noun.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write each caption beside its image, as NAME.txt.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Look for photos that should not be trained on, too.")
    ] = False,
    seed: AnswerSeed = 0,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Describe the images of a subject; captions that exist are left as they are."""
    from dreambooth_operator.cli.use.caption import CaptionModel, caption

    asked = CaptionModel(model, endpoint, name, seed, state)
    raise typer.Exit(
        caption(
            folder,
            noun,
            identifier,
            asked,
            system_prompt=system_prompt,
            write=write,
            check=check,
        )
    )


@app.command(
    epilog=examples(
        "prompts --class dog -n 8",
        exit_codes="Exit codes: 0 done; 2 wrong usage; else the trainer's.",
    )
)
def prompts(
    noun: ClassNoun,
    count: Annotated[int, typer.Option("-n", min=1, max=32, help="Number of prompts.")] = 8,
    model: CaptionerSource = None,
    endpoint: Endpoint = None,
    name: EndpointModelName = None,
    temperature: Annotated[
        float | None, typer.Option(help="How varied answers are, 0 to 2. Default: 0.8.")
    ] = None,
    seed: AnswerSeed = 0,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Write varied prompts for images of a class."""
    from dreambooth_operator.cli.use.caption import CaptionModel, prompts

    asked = CaptionModel(model, endpoint, name, seed, state)
    raise typer.Exit(prompts(noun, count, asked, temperature))
