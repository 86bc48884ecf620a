"""The commands that use the result of a run; each is a module of its name, imported when called."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dreambooth_operator.cli.options import (
    RUN_EXIT_CODES,
    Gpus,
    JobName,
    Nodes,
    Result,
    StateFolder,
    examples,
)
from dreambooth_operator.local.state import DEFAULT_STATE

app = typer.Typer()


@app.command(epilog=examples("samples my-mug", "samples job.yaml --to pictures"))
def samples(
    job: JobName,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: <name>-samples.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Fetch the sample grids of a job's newest run."""
    from dreambooth_operator.cli.use.samples import samples

    samples(job, to, state)


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
        exit_codes=RUN_EXIT_CODES,
    )
)
def evaluate(
    result: Result,
    protocol: Annotated[
        Literal["dreambooth"],
        typer.Option(help="dreambooth: 25 prompts of the paper's kinds, 4 images of each."),
    ] = "dreambooth",
    state: StateFolder = DEFAULT_STATE,
    nodes: Nodes = None,
    gpus: Gpus = None,
) -> None:
    """Score a result by a protocol on this machine; run again, it goes on where it stopped."""
    from dreambooth_operator.cli.use.evaluate import EvaluateOptions, evaluate

    raise typer.Exit(evaluate(EvaluateOptions(result, protocol, state, nodes, gpus)))


@app.command(
    epilog=examples(
        "generate my-mug 'a photo of sks mug on the moon' -n 8 --seed 1 --out pictures",
        "generate s3://bucket/results/default/my-mug/UID --prompts prompts.txt --steps 30",
        "generate - 'a photo of sks mug' < my-mug.yaml   (by: kubectl get dbj my-mug -o yaml)",
        exit_codes=RUN_EXIT_CODES,
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
    base: Annotated[
        str | None, typer.Option(help="Where the base model is, if it has moved.")
    ] = None,
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
        "merge model.safetensors mug.safetensors=0.8 style.safetensors=0.5 --out my.safetensors",
        exit_codes="Exit codes: 0 written; 2 wrong usage; else the trainer's.",
    )
)
def merge(
    model: Annotated[str, typer.Argument(help="The base model: a path, hf:// or s3://.")],
    loras: Annotated[
        list[str],
        typer.Argument(metavar="LORA[=SCALE]...", help="What to merge: files, or their folders."),
    ],
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
    """Merge LoRAs into their base model, at scales of 1 or those that are given."""
    from dreambooth_operator.cli.use.merge import MergeOptions, merge

    raise typer.Exit(merge(MergeOptions(model, loras, out, revision, variant, state)))


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
    base: Annotated[
        str | None, typer.Option(help="Where the base model is, if it has moved.")
    ] = None,
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
