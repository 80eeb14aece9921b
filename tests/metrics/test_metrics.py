"""The arithmetic of the Rank-Surprisal Ratio and of every other metric."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_datasets import metrics
from rsr_datasets.metrics import (
    Metric,
    TrajectoryTokens,
    available_metrics,
    find_metric,
    find_metrics,
    ratio_of_means,
    register_metric,
    trajectory_scores,
)

token = st.tuples(st.integers(1, 200_000), st.floats(0, 30, width=32))
trajectories = st.lists(st.lists(token, max_size=40), min_size=1, max_size=8)


def flatten(rows: list[list[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = [pair for row in rows for pair in row]
    ranks = np.array([rank for rank, _ in tokens], dtype=np.int32)
    surprisals = np.array([surprisal for _, surprisal in tokens], dtype=np.float32)
    return ranks, surprisals, np.cumsum([0, *map(len, rows)])


@given(trajectories, st.integers(1, 500))
def test_equals_the_plain_sums_of_equation_7(rows: list[list[tuple[int, float]]], clip: int) -> None:
    scores = trajectory_scores(*flatten(rows), rank_clip=clip)
    for i, row in enumerate(rows):
        rank_sum = math.fsum(min(rank, clip) for rank, _ in row)
        surprisal_sum = math.fsum(surprisal for _, surprisal in row)
        assert scores.num_tokens[i] == len(row)
        if not row:
            assert math.isnan(scores.rsr[i]) and math.isnan(scores.avg_rank[i])
            continue
        assert scores.avg_rank[i] == rank_sum / len(row)
        assert scores.avg_surprisal[i] == pytest.approx(surprisal_sum / len(row), rel=1e-14)
        if surprisal_sum > 0:
            assert scores.rsr[i] == pytest.approx(rank_sum / surprisal_sum, rel=1e-14)
        else:
            assert math.isnan(scores.rsr[i])


@given(trajectories)
def test_a_trajectory_scores_the_same_bits_whatever_stands_beside_it(rows: list[list[tuple[int, float]]]) -> None:
    together = trajectory_scores(*flatten(rows))
    for i, row in enumerate(rows):
        alone = trajectory_scores(*flatten([row]))
        for name in ("avg_rank", "avg_surprisal", "rsr"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[i], equal_nan=True)


@given(trajectories, st.integers(1, 400))
def test_a_greater_clip_never_lowers_the_ratio(rows: list[list[tuple[int, float]]], clip: int) -> None:
    low = trajectory_scores(*flatten(rows), rank_clip=clip).rsr
    high = trajectory_scores(*flatten(rows), rank_clip=clip + 50).rsr
    assert all(math.isnan(a) or a <= b for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_surprisal_that_is_no_number_undefines_its_trajectory_alone(bad: float) -> None:
    scores = trajectory_scores([1, 2, 3, 4], [1.0, bad, 1.0, 3.0], [0, 2, 4])
    assert math.isnan(scores.rsr[0]) and math.isnan(scores.avg_surprisal[0])
    assert scores.rsr[1] == 7 / 4


def test_ratio_of_means_weighs_trajectories_alike() -> None:
    assert ratio_of_means([2.0, 6.0], [1.0, 3.0]) == 2.0
    assert ratio_of_means([1.0, 3.0, 5.0], [0.5, 0.5, 2.0]) == 3.0
    assert ratio_of_means([1.0, 3.0], [0.5, 0.25]) != pytest.approx(np.mean([1 / 0.5, 3 / 0.25]))
    assert math.isnan(ratio_of_means([], [])) and math.isnan(ratio_of_means([1.0], [0.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1.0], [0, 1], 0), "rank_clip=0"),
        (([1], [1.0, 2.0], [0, 1]), "one same length"),
        (([1, 2], [1.0, 2.0], [0, 1]), "offsets must run from 0 to 2"),
        (([1, 2], [1.0, 2.0], [0, 3, 2]), "must not decrease"),
    ],
)
def test_arguments_that_do_not_fit(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trajectory_scores(*arguments)
    with pytest.raises(ValueError, match="one same length"):
        ratio_of_means([1.0], [1.0, 2.0])


CLIP = 100


@st.composite
def trajectory_tokens(draw: st.DrawFn) -> TrajectoryTokens:
    """Tokens with every array, of surprisals that are not all zero."""
    size = draw(st.integers(1, 50))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    ranks = generator.integers(1, draw(st.sampled_from([2, 50, 100_000])), size).astype(np.int32)
    positive = generator.exponential(draw(st.sampled_from([1e-4, 1.0, 10.0])), (4, size)) + 1e-9
    surprisals, entropies, local, without = positive.astype(np.float32).astype(np.float64)
    return TrajectoryTokens(ranks, surprisals, CLIP, entropies, local, without)


def _top(t: TrajectoryTokens) -> float:
    order = sorted(range(len(t.ranks)), key=lambda i: -t.surprisals[i])[: math.ceil(round(0.3 * len(t.ranks), 9))]
    return float(np.mean([min(t.ranks[i], CLIP) / t.surprisals[i] for i in order]))


ORACLES: dict[str, Callable[[TrajectoryTokens], float]] = {
    "rsr": lambda t: np.minimum(t.ranks, CLIP).sum() / t.surprisals.sum(),
    "avg_rank": lambda t: np.minimum(t.ranks, CLIP).mean(),
    "avg_surprisal": lambda t: t.surprisals.mean(),
    "avg_rank_unclipped": lambda t: t.ranks.mean(),
    "perplexity": lambda t: np.prod(np.exp(t.surprisals / len(t.surprisals))),
    "token_mean": lambda t: np.mean(np.minimum(t.ranks, CLIP) / t.surprisals),
    "token_top30": _top,
    "rank_minus_surprisal": lambda t: np.minimum(t.ranks, CLIP).mean() - t.surprisals.mean(),
    "rank_times_surprisal": lambda t: np.dot(np.minimum(t.ranks, CLIP), t.surprisals) / len(t.ranks),
    "rank_pow": lambda t: np.sum(np.minimum(t.ranks, CLIP) ** 1.05) / np.sum(t.surprisals),
    "surprisal_pow": lambda t: np.sum(np.minimum(t.ranks, CLIP)) / np.sum(t.surprisals**0.95),
    "surprisal_p95": lambda t: np.quantile(t.surprisals, 0.95),
    "top1_share": lambda t: np.count_nonzero(t.ranks == 1) / len(t.ranks),
    "low_prob_share": lambda t: np.count_nonzero(np.exp(-t.surprisals) < 0.01) / len(t.ranks),
    "avg_entropy": lambda t: t.entropies.mean(),
    "rank_entropy_ratio": lambda t: np.minimum(t.ranks, CLIP).mean() / t.entropies.mean(),
    "entropy_weighted_surprisal": lambda t: np.average(t.surprisals, weights=t.entropies),
    "local_surprisal": lambda t: t.local_surprisals.mean(),
    "ifd": lambda t: t.surprisals.mean() / t.surprisals_without_prompt.mean(),
}


def test_every_built_in_metric_has_an_oracle() -> None:
    assert set(ORACLES) == metrics.registry._built_in


@pytest.mark.parametrize("name", ORACLES)
@given(trajectory_tokens())
def test_equals_its_oracle(name: str, tokens: TrajectoryTokens) -> None:
    assert find_metric(name).of(tokens) == pytest.approx(ORACLES[name](tokens), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("surprisals", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_nothing_is_defined_without_tokens_or_with_a_surprisal_that_is_no_number(surprisals: list[float]) -> None:
    values = np.array(surprisals)
    tokens = TrajectoryTokens(np.ones(values.size, np.int32), values, CLIP, values, values, values)
    assert all(math.isnan(find_metric(name).of(tokens)) for name in ORACLES)


def test_what_divides_by_zero_is_not_defined() -> None:
    zeros = np.zeros(3)
    tokens = TrajectoryTokens(np.ones(3, np.int32), zeros, CLIP, zeros, zeros, zeros)
    ratios = {"rsr", "token_mean", "token_top30", "rank_pow", "surprisal_pow"}
    ratios |= {"ifd", "rank_entropy_ratio", "entropy_weighted_surprisal"}
    assert {name for name in ORACLES if math.isnan(find_metric(name).of(tokens))} == ratios


def test_one_sure_token_undefines_the_mean_of_ratios_but_not_the_filtered_one() -> None:
    tokens = TrajectoryTokens(np.array([1, 1, 4], np.int32), np.array([0.0, 1.0, 2.0]))
    assert math.isnan(find_metric("token_mean").of(tokens))
    assert find_metric("token_top30").of(tokens) == 2.0
    beyond_all_numbers = TrajectoryTokens(np.ones(1, np.int32), np.array([800.0]))
    assert math.isnan(find_metric("perplexity").of(beyond_all_numbers))


@pytest.mark.parametrize(("share", "count"), [(0.3, 3), (0.31, 4), (0.7, 7), (1.0, 10), (0.01, 1)])
def test_the_share_of_the_filtered_mean_is_settable_and_rounded_up(share: float, count: int) -> None:
    surprisals = np.arange(10.0, 0.0, -1)
    tokens = TrajectoryTokens(np.full(10, 5, np.int32), surprisals)
    assert metrics.token_top(share).of(tokens) == pytest.approx(np.mean(5 / surprisals[:count]))
    equal_surprisals = TrajectoryTokens(np.array([7, 3, 3, 3], np.int32), np.ones(4))
    assert metrics.token_top(0.25).of(equal_surprisals) == 7  # the earlier token


def test_other_parameters_are_settable_and_change_the_formula() -> None:
    tokens = TrajectoryTokens(np.array([1, 9], np.int32), np.array([0.5, 4.0]))
    assert metrics.low_probability_share(0.7).of(tokens) == 1.0
    assert metrics.surprisal_percentile(50).of(tokens) == 2.25
    assert metrics.rank_power(2).of(tokens) == pytest.approx(82 / 4.5)
    assert metrics.surprisal_power(2).of(tokens) == pytest.approx(10 / 16.25)
    names = metrics.surprisal_percentile(50).name, metrics.token_top(0.125).name
    assert names == ("surprisal_p50", "token_top12_5")
    changed = [metrics.low_probability_share(0.7), metrics.rank_power(2), metrics.surprisal_power(2)]
    assert all(metric.formula != find_metric(metric.name).formula for metric in changed)


@pytest.mark.parametrize(
    ("factory", "argument"),
    [
        (metrics.token_top, 0),
        (metrics.token_top, 1.1),
        (metrics.low_probability_share, 0),
        (metrics.low_probability_share, 1),
        (metrics.surprisal_percentile, 101),
    ],
)
def test_parameters_out_of_range(factory: Callable[[float], Metric], argument: float) -> None:
    with pytest.raises(ValueError, match=f"={argument}"):
        factory(argument)


@given(st.lists(trajectory_tokens(), min_size=1, max_size=6))
def test_parts_give_back_the_ratio_of_means(several: list[TrajectoryTokens]) -> None:
    avg_rank, avg_surprisal = (np.array([ORACLES[name](t) for t in several]) for name in ("avg_rank", "avg_surprisal"))
    lower = {
        "rsr": avg_surprisal,
        "rank_pow": avg_surprisal,
        "surprisal_pow": np.array([(t.surprisals**0.95).mean() for t in several]),
        "rank_entropy_ratio": np.array([t.entropies.mean() for t in several]),
        "ifd": np.array([t.surprisals_without_prompt.mean() for t in several]),
    }
    for name in ORACLES:
        metric = find_metric(name)
        values = np.array([metric.of(t) for t in several])
        above, below = metric.parts(values, avg_rank, avg_surprisal)
        assert ((metric.numerator or metric.denominator) is not None) == (name in lower)
        weights = lower.get(name, np.ones(len(several)))
        assert above.mean() / below.mean() == pytest.approx(np.average(values, weights=weights), rel=1e-9)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.registry, "_registry", dict(available_metrics()))


def greatest(tokens: TrajectoryTokens) -> float:
    return tokens.surprisals.max()


@pytest.mark.usefixtures("registry")
def test_a_registered_metric_is_known_by_its_name() -> None:
    mine = register_metric(Metric("greatest", greatest, "lower", "max s"))
    assert available_metrics()["greatest"] is mine and find_metric("greatest") is mine
    assert mine.of(TrajectoryTokens(np.ones(2, np.int32), np.array([1.0, 3.0]))) == 3.0
    assert register_metric(Metric("greatest", greatest, "lower", "max s")) == mine
    with pytest.raises(ValueError, match="'greatest' is registered; replace=True takes its place: max s"):
        register_metric(Metric("greatest", lambda tokens: tokens.surprisals.max(), "lower", "max s"))
    register_metric(Metric("greatest", greatest, "higher", "another"), replace=True)
    assert find_metric("greatest").direction == "higher"


@pytest.mark.usefixtures("registry")
def test_a_built_in_name_is_taken_for_good() -> None:
    for name in ("rsr", "perplexity"):
        with pytest.raises(ValueError, match=f"metric '{name}' is built in"):
            register_metric(Metric(name, greatest, "lower", "max s"), replace=True)
    for name in ("perplexity", "rank_pow"):  # the same in everything but the function
        other = dataclasses.replace(find_metric(name), compute=greatest)
        with pytest.raises(ValueError, match=f"metric '{name}' is built in"):
            register_metric(other)
        with pytest.raises(ValueError, match=f"two different ones are called '{name}'"):
            find_metrics([name, other])
        assert metrics.is_built_in(find_metric(name)) and not metrics.is_built_in(other)
    assert metrics.rank_power() == find_metric("rank_pow") != metrics.rank_power(2)


@pytest.mark.parametrize("name", ["", "Rank", "rank share", "num_tokens", "settings", "status", "token_ranks", "2nd"])
def test_names_that_cannot_be_columns(name: str) -> None:
    with pytest.raises(ValueError, match="name="):
        Metric(name, greatest, "lower", "max s")


def test_a_metric_that_is_declared_wrongly() -> None:
    with pytest.raises(ValueError, match="direction='up' of metric 'mine'"):
        Metric("mine", greatest, "up", "max s")
    with pytest.raises(ValueError, match=r"needs=\['logits'\] of metric 'mine'"):
        Metric("mine", greatest, "lower", "max s", needs=("logits",))
    undeclared = Metric("mine", lambda tokens: tokens.known("entropies").mean(), "lower", "mean h")
    with pytest.raises(ValueError, match=r"entropies are not known.*needs=\('entropies',\)"):
        undeclared.of(TrajectoryTokens(np.ones(1, np.int32), np.ones(1)))


def test_metrics_are_found_once_each_without_the_default_ones() -> None:
    found = find_metrics(["rsr", "perplexity", "avg_rank", "perplexity", metrics.token_top(0.2)])
    assert [metric.name for metric in found] == ["perplexity", "token_top20"]
    assert find_metrics(None) == find_metrics([]) == find_metrics(["avg_surprisal"]) == ()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("perplexity", r"give a list, \['perplexity'\]"),
        (
            ["perplexety"],
            r"metric 'perplexety': there is none of this name \(did you mean 'perplexity'\?\); there are",
        ),
        (["low_prob_share", metrics.low_probability_share(0.1)], "two different ones are called 'low_prob_share'"),
        ([Metric("avg_rank", greatest, "lower", "max s")], "'avg_rank' is the name of a default metric"),
    ],
)
def test_metrics_that_cannot_be_found(asked: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_metrics(asked)


def test_built_in_metrics_survive_pickling() -> None:
    for metric in available_metrics().values():
        again = pickle.loads(pickle.dumps(metric))
        tokens = TrajectoryTokens(np.array([1, 200], np.int32), np.array([0.5, 6.0]), CLIP, *np.ones((3, 2)))
        assert again == metric and again.of(tokens) == metric.of(tokens)
