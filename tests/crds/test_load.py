"""Job files are read as kubectl reads them, and everything wrong is said at once, in words."""

from pathlib import Path
from typing import Any

import pytest

from dreambooth_api import InvalidJobError, dump, load, parse, warnings

JOB = """\
apiVersion: dreambooth.dev/v1alpha1
kind: DreamBoothJob
metadata: {name: dog}
spec:
  model: {source: hf://owner/model}
  subjects: [{identifier: sks, classNoun: dog, images: s3://bucket/dog}]
  output: s3://bucket/results
"""


def problems(source: str | Path) -> list[str]:
    with pytest.raises(InvalidJobError) as caught:
        load(source)
    assert str(caught.value) == "\n".join(caught.value.messages)
    return caught.value.messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "spec: [1\n",
            "line 2, column 1: not valid YAML: expected ',' or ']', but got '<stream end>';"
            " correct it there",
        ),
        (
            "kind: a\nspec: 1\nkind: b\n",
            "line 3, column 1: not valid YAML: the key 'kind' is given twice; correct it there",
        ),
        ("1: a\n", "line 1, column 1: not valid YAML: a key must be text; correct it there"),
        ("- a\n", "job: must be a mapping; write apiVersion, kind, metadata and spec"),
        ("a: 1\n---\nb: 1\n", "job: expected one job in the file, got 2; keep one"),
        ("# nothing\n", "job: expected one job in the file, got 0; keep one"),
    ],
)
def test_text_that_is_no_job(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "job.yaml"
    expected = [f"{missing}: No such file or directory; name a readable YAML file"]
    assert problems(missing) == expected
    assert problems(str(missing)) == expected


def test_binary_file(tmp_path: Path) -> None:
    image = tmp_path / "dog.jpg"
    image.write_bytes(b"\xff\xd8\xff")
    assert problems(image) == [f"{image}: is not UTF-8 text; name a readable YAML file"]


def test_every_problem_is_listed_at_once() -> None:
    bad = JOB + "  training: {steps: 0, globalBatch: 1, perDevice: 1}\n  runtime: {nodes: two}\n"
    assert problems(bad) == [
        "spec.training.steps: must be at least 1 (got 0); raise it",
        "spec.training.perDevice: unknown field; did you mean spec.training.perDeviceBatch?",
        "spec.runtime.nodes: must be a whole number (got 'two'); write it in digits",
    ]


@pytest.mark.parametrize(
    ("written", "meant", "remedy"),
    [
        ("source: hf://owner/model", "source: owner/model", "write hf://owner/model, or"),
        ("images: s3://bucket/dog", "images: /photos/my dog", "write file:///photos/my dog"),
        ("classNoun: dog", "class: dog", "did you mean spec.subjects[0].classNoun?"),
        ("spec:", "spec:\n  runtime: {gpus: 2}", "did you mean spec.runtime.gpusPerNode?"),
        (
            "images:",
            "image:",
            "spec.subjects[0].image: unknown field; did you mean spec.subjects[0].images?",
        ),
        (
            "spec:",
            "spec:\n  training: {weightDecay: 1}",
            "did you mean spec.training.optimizer.weightDecay?",
        ),
        (
            "spec:",
            "spec:\n  training: {every: 10}",
            "did you mean spec.checkpoints.every, spec.samples.every or spec.evaluation.every?",
        ),
        ("spec:", "spec:\n  lr: 1e-4", "did you mean spec.training.learningRate?"),
        ("spec:", "spec:\n  stop: 5", "spec.stop: unknown field; no other has a similar name"),
        (
            "spec:",
            "spec:\n  training: {optimizer: {name: adam}}",
            "(got 'adam'); did you mean adamw?",
        ),
        ("spec:", "spec:\n  training: {optimizer: {name: AdamW8bit}}", "did you mean adamw-8bit?"),
        ("spec:", "spec:\n  training: {optimizer: {name: sgd}}", "(got 'sgd'); choose a listed"),
    ],
)
def test_common_slips_get_what_was_meant(written: str, meant: str, remedy: str) -> None:
    assert written in JOB
    assert remedy in "\n".join(problems(JOB.replace(written, meant, 1)))


def test_all_broken_rules_of_one_part_are_listed() -> None:
    bad = JOB + "  runtime: {processesPerNode: 2, terminatingTimeoutSeconds: 60}\n"
    fields = [line.partition(": ")[0] for line in problems(bad)]
    assert fields == ["spec.runtime.processesPerNode", "spec.runtime.terminatingTimeoutSeconds"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("learningRate: 1e-4", ("learning_rate", 1e-4)),
        ("learningRate: .5", ("learning_rate", 0.5)),
        ("steps: 1_000", ("steps", 1000)),
        ("steps: 0x10", ("steps", 16)),
        ("steps: 0O20", ("steps", 16)),
        ("learningRate: 0.000_1", ("learning_rate", 1e-4)),
        ("flip: off", ("flip", False)),
        ("flip: y", ("flip", True)),
        ("flip: N", ("flip", False)),
        ("globalBatch: ~", ("global_batch", None)),
    ],
)
def test_plain_values_mean_what_they_mean_to_kubectl(
    written: str, read: tuple[str, object]
) -> None:
    name, value = read
    assert getattr(load(f"{JOB}  training: {{{written}}}\n").spec.training, name) == value


@pytest.mark.parametrize("text", ["2026-11-24", "1:30", "=", "0o9"])
def test_text_stays_text(text: str) -> None:
    job = load(JOB.replace("owner/model}", f"owner/model, revision: {text}}}"))
    assert job.spec.model.revision == text


def test_letter_that_is_a_boolean_to_kubectl_is_no_text() -> None:
    """As the API server would refuse it, and not train a subject of that name."""
    message = "spec.subjects[0].identifier: must be text (got True); put it in quotes if it is"
    assert problems(JOB.replace("sks", "y"))[0].startswith(message)


@pytest.mark.parametrize(
    "text", ["123e4567", "1234567", "1_0.5", "2026-11-24", "off", "y", "N", "null", "0x12", "~"]
)
def test_dump_is_read_back(text: str) -> None:
    job = load(JOB.replace("owner/model}", f"owner/model, revision: '{text}'}}"))
    assert job.spec.model.revision == text
    assert load(dump(job)) == job


def test_dump_holds_every_default_and_no_status() -> None:
    job = load(JOB + "status: {phase: Running}\n")
    text = dump(job)
    assert "steps: 800" in text
    assert "status" not in text


def test_object_of_the_api_server_is_read() -> None:
    found: dict[str, Any] = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {
            "name": "dog",
            "uid": "1",
            "generation": 2,
            "creationTimestamp": "2026-11-24T00:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "model": {"source": "hf://owner/model"},
            "subjects": [{"identifier": "sks", "classNoun": "dog", "images": "s3://bucket/dog"}],
            "output": "s3://bucket/results",
        },
        "status": {
            "phase": "Running",
            "startTime": "2026-11-24T00:00:00Z",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "AllRanksJoined",
                    "message": "",
                    "lastTransitionTime": "2026-11-24T00:00:00Z",
                }
            ],
        },
    }
    job = parse(found)
    assert job.status is not None
    assert job.status.start_time is not None
    assert job.status.conditions[0].last_transition_time.year == 2026


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ("samples: {prompts: [a sks dog, a dog]}", "spec.samples.prompts[1]", "identifier"),
        ("samples: {prompts: [a dog, a cat]}", "spec.samples.prompts", "no sample shows a subject"),
        ("training: {method: full}", "spec.training.learningRate", "high for full fine-tuning"),
        (
            "training: {method: full, learningRate: 1e-6, lora: {rank: 4}}",
            "spec.training.lora",
            "nothing is trained by lora",
        ),
        ("prior: {enabled: false}", "spec.prior", "overfits"),
        ("prior: {weight: 0}", "spec.prior", "overfits sooner; remove weight"),
        ("prior: {target: noise, count: 4}", "spec.prior.count", "few"),
        ("prior: {count: 1, prompts: [a dog, dogs]}", "spec.prior.prompts", "first 1 of 2"),
        (
            "training: {schedule: {name: cosine-with-restarts, cycles: 100}}",
            "spec.training.schedule.cycles",
            "set it to at most 80",
        ),
        ("training: {steps: 100}", "spec.checkpoints.every", "none before the end"),
        ("evaluation: {every: 800}", "spec.evaluation.every", "none before the end"),
        (
            "evaluation: {every: 200, earlyStopping: {patience: 3}}",
            "spec.evaluation.earlyStopping.patience",
            "cannot end early, with 3 evaluation(s)",
        ),
        ("samples: {every: 800}", "spec.samples.every", "none between"),
        ("prior: {prompt: a photo of a cat}", "spec.prior.prompt", "write {class}"),
        ("prior: {prompts: [a puppy, dogs]}", "spec.prior.prompts[0]", "write {class}"),
        (
            "captioning: {photoCheck: true, systemPrompt: 'Describe this { classNoun }.'}",
            "spec.captioning.systemPrompt",
            "write {class}",
        ),
        (
            "captioning: {photoCheck: true, examples: [a sks dog, 'a sks {class}']}",
            "spec.captioning.examples[1]",
            "read as words",
        ),
        ("training: {learningRate: 0.5}", "spec.training.learningRate", "far above"),
        (
            "training: {optimizer: {name: muon}, learningRate: 0.02}",
            "spec.training.learningRate",
            "far above",
        ),
        (
            "training: {textEncoder: {method: lora, learningRate: 1}}",
            "spec.training.textEncoder.learningRate",
            "far above",
        ),
        ("training: {optimizer: {name: lion}}", "spec.training.learningRate", "lion takes"),
        (
            "training: {textEncoder: {stopFraction: 0.5}}",
            "spec.training.textEncoder.stopFraction",
            "when the text encoder is frozen",
        ),
        ("training: {ema: {decay: 0.99}}", "spec.training.ema.decay", "without an average"),
        (
            "evaluation: {select: {minClassFidelity: 0.5}}",
            "spec.evaluation.select",
            "without evaluations during training",
        ),
        (
            "evaluation: {maxTimeFraction: 0.5}",
            "spec.evaluation.maxTimeFraction",
            "without evaluations during training",
        ),
        ("runtime: {strategy: fsdp}", "spec.runtime.strategy", "with a single GPU"),
        ("runtime: {gpuMemory: 24}", "spec.runtime.gpuMemory", "as in 24Gi"),
        ("runtime: {gpuMemory: 24000m}", "spec.runtime.gpuMemory", "less than 1 MiB"),
        ("runtime: {shmSize: 2}", "spec.runtime.shmSize", "as in 2Gi"),
        (
            "runtime: {resources: {limits: {memory: 64}}}",
            "spec.runtime.resources.limits.memory",
            "as in 64Gi",
        ),
    ],
)
def test_what_is_odd_is_a_warning(spec: str, field: str, words: str) -> None:
    (found,) = warnings(load(f"{JOB}  {spec}\n"))
    assert found.startswith(f"{field}: ")
    assert words in found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sks on a {class}", "{class}"),
        ("a sks {red|blue} dog", "{red|blue}"),
        ("sks, [trigger] on the moon", "[trigger]"),
        ("a sks dog --n blurry --w 1024", "--n"),
        ("(sks dog:1.3)", "(sks dog:1.3)"),
        ("a ((sks dog)) on grass", "((sks dog))"),
        ("a sks dog [[blurry]]", "[[blurry]]"),
        ("a sks [dog:cat:0.5]", "[dog:cat:0.5]"),
        ("a sks dog [with glasses:0.5]", "[with glasses:0.5]"),
        ("a sks [dog|cat]", "[dog|cat]"),
        ("a sks dog BREAK on grass", "BREAK"),
        ("sks dog <lora:x:0.8>", "<lora:x:0.8>"),
    ],
)
def test_syntax_of_another_tool_is_a_warning(text: str, found: str) -> None:
    (warning,) = warnings(load(f"{JOB}  samples: {{prompts: ['{text}']}}\n"))
    assert warning.startswith(f"spec.samples.prompts[0]: {found!r} is read as words")


def test_prompts_of_the_class_and_against_it_are_read_as_words_too() -> None:
    text = f"""{JOB}  prior: {{prompts: ["a {{class}} <lora:x:1>", "a {{class}}"]}}
  samples: {{negativePrompt: "(blurry:1.4)"}}
"""
    fields = [warning.partition(": ")[0] for warning in warnings(load(text))]
    assert fields == ["spec.samples.negativePrompt", "spec.prior.prompts[0]"]


@pytest.mark.parametrize(
    "text",
    [
        "a sks dog at 10:30 (at 10:30)",
        "sks -- a dog",
        "[sks] dog (1:2:3)",
        "sks <dog>",
        "sks dog on a break",
        "sks dog, COFFEE BREAK",
        "sks dog, BREAK ROOM",
    ],
)
def test_prompts_may_have_punctuation(text: str) -> None:
    assert warnings(load(f"{JOB}  samples: {{prompts: ['{text}']}}\n")) == []


def test_rate_that_textual_inversion_does_not_use() -> None:
    text = JOB.replace("sks,", "sks, token: {},") + "  prior: {enabled: false}\n"
    inversion = f"{text}  training: {{method: textual-inversion, RATE}}\n"
    (found,) = warnings(load(inversion.replace("RATE", "learningRate: 5e-3")))
    assert found.startswith("spec.training.learningRate: has no effect")
    (found,) = warnings(load(inversion.replace("RATE", "tokenLearningRate: 0.5")))
    assert found.startswith("spec.training.tokenLearningRate: 0.5 is far above")
    assert warnings(load(inversion.replace("RATE", "tokenLearningRate: 1e-2"))) == []


def test_weight_or_folder_of_subjects_that_differ_in_nothing() -> None:
    second = ", {identifier: zwx, classNoun: dog, images: s3://bucket/dog/, weight: 200}]"
    (found,) = warnings(load(JOB.replace("/dog}]", f"/dog}}{second}")))
    assert found.startswith("spec.subjects[1].images: are those of subjects[0]")
    (found,) = warnings(load(JOB.replace("/dog}]", "/dog, weight: 50}]")))
    assert found.startswith("spec.subjects[0].weight: has no effect with one subject")


def test_a_rank_beside_an_adapter_is_to_be_removed() -> None:
    text = JOB.replace("{source: ", "{adapter: {source: s3://b/lora}, source: ", 1)
    (found,) = warnings(load(f"{text}  training: {{lora: {{rank: 8}}}}\n"))
    assert found.startswith("spec.training.lora.rank: is that of model.adapter, and preflight")
    assert not warnings(load(text))


def test_targets_that_come_from_the_model_are_no_warning() -> None:
    """As in a job that is copied from run.json."""
    training = "training: {method: full, learningRate: 1e-6, lora: {targets: [to_q]}}"
    assert warnings(load(f"{JOB}  {training}\n")) == []


def test_common_word_as_identifier_is_a_warning() -> None:
    (found,) = warnings(load(JOB.replace("sks", "Happy")))
    assert found.startswith("spec.subjects[0].identifier: 'Happy' is a common word")


def test_output_in_a_folder_of_one_of_many_nodes_is_a_warning() -> None:
    (found,) = warnings(
        load(JOB.replace("s3://bucket/results", "file:///out") + "  runtime: {nodes: 2}\n")
    )
    assert found.startswith("spec.output: ")


def test_processes_of_one_node_share_a_folder() -> None:
    local = JOB.replace("s3://bucket/results", "file:///out")
    assert warnings(load(f"{local}  runtime: {{gpusPerNode: 8}}\n")) == []


def test_usual_job_has_no_warnings() -> None:
    assert warnings(load(JOB)) == []
    assert warnings(load(JOB + "  training: {method: full, learningRate: 5e-6}\n")) == []
    early = "{every: 200, earlyStopping: {patience: 2}}"
    assert warnings(load(f"{JOB}  evaluation: {early}\n")) == []
    # A factor on the rate that the optimizer finds.
    prodigy = "{method: full, learningRate: 1, optimizer: {name: prodigy}}"
    assert warnings(load(f"{JOB}  training: {prodigy}\n")) == []
    usual = "{learningRate: 1e-2, optimizer: {name: schedule-free-adamw}}"
    assert warnings(load(f"{JOB}  training: {usual}\n")) == []
    lion = "{learningRate: 3e-5, optimizer: {name: lion}}"
    assert warnings(load(f"{JOB}  training: {lion}\n")) == []
    assert warnings(load(f"{JOB}  runtime: {{resources: {{limits: {{cpu: 4}}}}}}\n")) == []
    assert warnings(load(JOB + "  prior: {prompt: a photo of a puppy of a Dog}\n")) == []
    assert warnings(load(dump(load(JOB)))) == []
    json = 'captioning: {photoCheck: true, systemPrompt: \'Of a {class}: {"caption": "..."}\'}'
    assert warnings(load(f"{JOB}  {json}\n")) == []


@pytest.mark.parametrize("field", ["namespace", "uid"])
def test_what_names_a_folder_of_the_output_cannot_leave_it(field: str) -> None:
    text = JOB.replace("name: dog}", f"name: dog, {field}: ../../elsewhere}}")
    assert problems(text)[0].startswith(f"metadata.{field}: must be")


def test_errors_do_not_hide_rules_that_read_other_fields() -> None:
    found = problems(
        JOB
        + """\
  training: {steps: 0, precision: fp16, globalBatch: 3}
  prior: {prompt: a photo of sks dog}
  runtime: {nodes: two, gpusPerNode: 0}
"""
    )
    assert [line.split(":")[0] for line in found] == [
        "spec.training.steps",
        "spec.runtime.nodes",
        "spec.training.precision",
        "spec.prior.prompt",
    ]  # globalBatch depends on the number of nodes


def test_broken_rules_of_a_part_do_not_hide_those_of_the_whole() -> None:
    found = problems(
        JOB.replace("  output: s3://bucket/results\n", "")
        + """\
  training: {perDeviceBatch: 1, globalBatch: 3, precision: fp16}
  runtime: {gpusPerNode: 0}
  storage: {anonymousBuckets: [bucket]}
"""
    )
    assert [line.split(":")[0] for line in found] == [
        "spec.output",  # is missing
        "spec.training.globalBatch",
        "spec.training.precision",
    ]
