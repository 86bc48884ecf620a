"""Learning rates depend on the optimizer step alone; resuming continues the optimizer exactly."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from dreambooth_api.models.optimizer import (
    OPTIMIZER_DEFAULTS,
    Optimizer,
    OptimizerName,
    ScheduleName,
)
from dreambooth_trainer.models.adapters.trainable import TrainableParameters
from dreambooth_trainer.training.ema import ExponentialMovingAverage
from dreambooth_trainer.training.optimizer import learning_rates, make_optimizer
from dreambooth_trainer.training.optimizer_state import (
    COUNT,
    empty_state,
    optimizer_tensors,
    restore_optimizer,
    restore_scaler,
    scaler_tensors,
)
from dreambooth_trainer.training.schedule import make_schedule
from tests.trainer.resolved import resolve_training


def parameters(seed=0):
    torch.manual_seed(seed)
    return TrainableParameters(
        {
            "denoiser.w": nn.Parameter(torch.randn(4, 3)),
            "denoiser.b": nn.Parameter(torch.randn(3)),
            "denoiser.large": nn.Parameter(torch.randn(64, 80)),  # enough for 8 bits
        },
        {"text.w": nn.Parameter(torch.randn(5))},
    )


def rates(training, start, count):
    trained = parameters()
    optimizer = make_optimizer(trained, training)
    schedule = make_schedule(optimizer, training, start)
    found = []
    for _ in range(count):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_a_resumed_schedule_goes_on_where_it_was(name):
    training = resolve_training(
        {"steps": 20, "schedule": {"name": name, "warmupSteps": 4}, "learningRate": 1e-3}
    )
    assert rates(training, 7, 13) == rates(training, 0, 20)[7:]


def test_warm_up_and_cosine_have_their_shape():
    training = resolve_training(
        {"steps": 12, "schedule": {"name": "cosine", "warmupSteps": 2}, "learningRate": 1.0}
    )
    found = [rate for rate, _ in rates(training, 0, 12)]
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[7] == pytest.approx(0.5)
    assert found[11] < 0.03


def shape(**schedule):
    training = resolve_training({"steps": 10, "schedule": schedule, "learningRate": 1.0})
    return [round(rate, 3) for rate, _ in rates(training, 0, 10)]


def test_a_stable_rate_decays_at_the_end():
    found = shape(name="warmup-stable-decay", warmupSteps=2, decayFraction=0.4)
    assert found == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert shape() == shape(name="warmup-stable-decay") == [1] * 9 + [0.5]
    assert shape(decayFraction=0.4) == [1] * 7 + [0.75, 0.5, 0.25]


def test_a_cosine_restarts_in_each_cycle():
    twice = [1, 0.905, 0.655, 0.345, 0.095]
    assert shape(name="cosine-with-restarts") == twice * 2
    assert shape(name="cosine-with-restarts", cycles=1) == shape(name="cosine")


def test_the_text_encoder_has_its_own_rate_and_stops_at_its_fraction():
    training = resolve_training(
        {
            "steps": 10,
            "learningRate": 1e-3,
            "textEncoder": {"method": "full", "learningRate": 1e-4, "stopFraction": 0.5},
            "schedule": {"name": "constant"},
        }
    )
    found = rates(training, 0, 10)
    assert [text for _, text in found] == [1e-4] * 5 + [0.0] * 5
    assert [denoiser for denoiser, _ in found] == [1e-3] * 10


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1e-4, 1e-3]),
        ({"token_learning_rate": 1e-2}, [1e-4, 1e-2]),
        ({"optimizer": Optimizer(name="prodigy"), "learning_rate": 0.5}, [0.5, 0.5]),
    ],
)
def test_tokens_have_a_rate_of_their_own(settings, expected):
    tokens = {"tokens.w": nn.Parameter(torch.randn(2, 5))}
    trained = TrainableParameters(parameters().denoiser, {}, tokens)
    optimizer = make_optimizer(trained, resolve_training({}).model_copy(update=settings))
    assert [group["lr"] for group in optimizer.param_groups] == expected


def one_step(trained, optimizer, step):
    for number, parameter in enumerate(trained.all.values()):
        parameter.grad = torch.full_like(parameter, 0.1 * (step + 1) * (number + 1))
    optimizer.step()


OPTIMIZERS = get_args(OptimizerName)


def training_with(optimizer, **numbers):
    rate = 1.0 if optimizer == "prodigy" else 1e-3
    return resolve_training({"optimizer": {"name": optimizer, **numbers}, "learningRate": rate})


NUMBERS = {"beta1": 0.5, "beta2": 0.5, "epsilon": 1e-2, "weightDecay": 0.5}


@pytest.mark.parametrize(
    ("optimizer", "number"),
    [
        (optimizer, number)
        for optimizer in OPTIMIZERS
        for number in NUMBERS
        if number == "weightDecay" or number in OPTIMIZER_DEFAULTS[optimizer]
    ],
)
def test_each_number_of_an_optimizer_counts(optimizer, number):
    def weights(**numbers):
        trained = parameters()
        made = make_optimizer(trained, training_with(optimizer, **numbers))
        drawn = torch.Generator().manual_seed(3)
        for _ in range(4):
            for parameter in trained.all.values():
                parameter.grad = torch.randn(parameter.shape, generator=drawn)
            made.step()
        return trained.all

    default = weights()
    assert any(
        not each.equal(default[name]) for name, each in weights(**{number: NUMBERS[number]}).items()
    )


OPTIMIZATIONS = [
    *map(training_with, OPTIMIZERS),
    *(training_with(name, beta1=0.0) for name in ("adamw", "lion", "prodigy", "muon")),
]
optimizations = pytest.mark.parametrize(
    "training",
    OPTIMIZATIONS,
    ids=lambda training: f"{training.optimizer.name}-{training.optimizer.beta1}",
)


@optimizations
@pytest.mark.parametrize("steps", [0, 3])
def test_a_restored_optimizer_steps_bit_for_bit_like_the_one_that_went_on(training, steps):
    trained = parameters()
    optimizer = make_optimizer(trained, training)
    for step in range(steps):
        one_step(trained, optimizer, step)
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, trained).items()}
    weights = {k: v.detach().clone() for k, v in trained.all.items()}

    other = parameters(seed=1)
    with torch.no_grad():
        for name, parameter in other.all.items():
            parameter.copy_(weights[name])
    resumed = make_optimizer(other, training)
    restore_optimizer(resumed, other, saved)
    for step in range(steps, steps + 3):
        one_step(trained, optimizer, step)
        one_step(other, resumed, step)
    assert all(torch.equal(trained.all[name], other.all[name]) for name in trained.all)


@optimizations
def test_a_state_of_before_the_first_update_is_whole_and_changes_nothing(training):
    """Where fp16 skips the first step, an attempt's first save is of such a state."""
    trained, other = parameters(), parameters()
    for each in (trained, other):
        with torch.no_grad():
            each.all["denoiser.w"].zero_()  # as the half of every adapter
    optimizer, untouched = make_optimizer(trained, training), make_optimizer(other, training)
    before = optimizer_tensors(optimizer, trained)
    for step in range(3):
        one_step(trained, optimizer, step)
        one_step(other, untouched, step)
    after = optimizer_tensors(untouched, other)
    shapes = [{k: (v.shape, v.dtype) for k, v in each.items()} for each in (before, after)]
    assert shapes[0] == shapes[1]
    assert all(
        torch.equal(value, after[k]) for k, value in optimizer_tensors(optimizer, trained).items()
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_estimate_of_an_optimizers_memory_is_what_it_keeps(name):
    training, trained = training_with(name), parameters()
    optimizer = make_optimizer(trained, training)
    one_step(trained, optimizer, 0)
    kept = optimizer_tensors(optimizer, trained)
    parts = [value for key, value in kept.items() if not key.startswith("optimizer/")]
    estimated = [
        each
        for key, parameter in trained.all.items()
        for each in empty_state(name, key, parameter, training.optimizer.beta1).values()
    ]
    assert sum(each.nbytes for each in estimated) == sum(each.nbytes for each in parts)


def loss_after(training, steps):
    """Of weights that should become 1, from 0 as the half of every adapter begins."""
    weight = nn.Parameter(torch.zeros(8, 6))
    trained = TrainableParameters({"w": weight}, {})
    optimizer = make_optimizer(trained, training)
    rates = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((weight - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        rates.append(learning_rates(optimizer)[0])
    return loss.item(), rates


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_weights_that_begin_at_zero(name):
    training = training_with(name)
    if name != "prodigy":
        # Muon's updates are of full rank, and the way to these weights is of rank 1.
        rate = 0.2 if name == "muon" else 0.05
        training = training.model_copy(update={"learning_rate": rate})
    loss, _ = loss_after(training, 150)
    assert loss < 0.05


def test_prodigy_finds_its_rate_and_the_rate_is_reported():
    _, rates = loss_after(training_with("prodigy"), 150)
    assert rates[0] < 1e-5
    assert rates[-1] > 0.01


def test_restored_optimizer_keeps_nothing_of_the_state_in_use():
    """The state may be mapped from files; on the CPU too, AdamW must not write to it."""
    trained = parameters()
    optimizer = make_optimizer(trained, resolve_training({}))
    one_step(trained, optimizer, 0)
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, trained).items()}
    resumed = make_optimizer(other := parameters(seed=1), resolve_training({}))
    restore_optimizer(resumed, other, saved)
    of_state = {tensor.untyped_storage().data_ptr() for tensor in saved.values()}
    of_optimizer = optimizer_tensors(resumed, other).values()
    assert not of_state & {tensor.untyped_storage().data_ptr() for tensor in of_optimizer}


def scaled_step(scaler, optimizer, trained, overflow):
    """One step of mixed precision, as Lightning takes it."""
    loss = sum((parameter * 0.3).sum() for parameter in trained.all.values())
    scaler.scale(loss * float("inf") if overflow else loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


@pytest.mark.parametrize("break_after", [1, 3, 5])
def test_a_restored_scaler_goes_on_as_if_nothing_had_happened(break_after):
    """Of 8 steps two overflow: they are skipped, halve the scale, and are no updates of AdamW."""
    training, overflows = resolve_training({"precision": "fp16"}), {1, 4}
    trained = parameters()
    optimizer = make_optimizer(trained, training)
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    states = {}
    for step in range(8):
        scaled_step(scaler, optimizer, trained, step in overflows)
        tensors = {**optimizer_tensors(optimizer, trained), **scaler_tensors(scaler)}
        states[step] = {k: v.clone() for k, v in {**tensors, **trained.all}.items()}
    assert states[7][COUNT] == 6

    other = parameters(seed=1)
    with torch.no_grad():
        for name, parameter in other.all.items():
            parameter.copy_(states[break_after][name])
    resumed = make_optimizer(other, training)
    restore_optimizer(resumed, other, states[break_after])
    fresh = GradScaler("cpu", growth_interval=2)
    restore_scaler(fresh, states[break_after])
    for step in range(break_after + 1, 8):
        scaled_step(fresh, resumed, other, step in overflows)
    found = {**optimizer_tensors(resumed, other), **scaler_tensors(fresh), **other.all}
    assert found.keys() == states[7].keys()
    assert [name for name in found if not torch.equal(found[name], states[7][name])] == []


def test_without_fp16_there_is_no_scale_to_keep():
    assert scaler_tensors(None) == {}
    restore_scaler(None, {})


def test_the_average_follows_the_weights_and_gives_them_back():
    weight = nn.Parameter(torch.zeros(2))
    average = ExponentialMovingAverage({"w": weight}, decay=0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(step=1000)
    assert average.averages["w"].tolist() == pytest.approx([0.1, 0.1])
    with average.applied():
        assert weight.tolist() == pytest.approx([0.1, 0.1])
    assert weight.tolist() == [1.0, 1.0]


def test_early_averages_forget_the_start():
    weight = nn.Parameter(torch.ones(1))
    average = ExponentialMovingAverage({"w": weight}, decay=0.9999)
    with torch.no_grad():
        weight.fill_(2.0)
    average.update(step=1)
    assert average.averages["w"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 2)
