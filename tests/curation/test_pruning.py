"""The rule by which candidates are read no further: arithmetic on arrays, without a student."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_datasets.curation.pruning import RULES, Sample, choose_rule, lowest, quota


def make_sample(rng, problems, candidates, keep=1, noise=2.0):
    """Ratios whose logarithms walk at random from token to token around each candidate's own level."""
    shape = problems, candidates
    tokens = rng.lognormal(6, 0.5, shape).astype(np.int64) + 20
    means = tokens.mean(axis=1, keepdims=True)
    lengths = [np.minimum(tokens, (share * means).astype(np.int64)) for share in (0.05, 0.2)]
    level = rng.normal(1, 0.15, shape)
    steps = np.diff([np.zeros_like(tokens), *lengths, tokens], axis=0)
    walks = np.cumsum(rng.normal(size=(3, *shape)) * noise * np.sqrt(steps), axis=0)
    ratios = [np.exp(level + walk / length) for walk, length in zip(walks, [*lengths, tokens], strict=True)]
    return Sample(
        problems=np.repeat(np.arange(problems), candidates),
        rsr=ratios[2].ravel(),
        tokens=tokens.ravel(),
        prefix_rsr=np.stack([ratio.ravel() for ratio in ratios[:2]], axis=1),
        prefix_tokens=np.stack([length.ravel() for length in lengths], axis=1),
        keep=keep,
    )


def part(sample, chosen):
    rows = np.isin(sample.problems, list(chosen))
    numbers = np.unique(sample.problems[rows], return_inverse=True)[1]
    arrays = {name: getattr(sample, name)[rows] for name in ("rsr", "tokens", "prefix_rsr", "prefix_tokens")}
    return Sample(problems=numbers, keep=sample.keep, **arrays)


rows_of_problems = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1.0, 2.0, 2.5, 3.0])), min_size=1, max_size=30
)


@given(rows=rows_of_problems, places=st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_the_lowest_of_each_problem_go_on_and_ties_go_to_the_earlier_row(rows, places):
    problems, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    expected = set()
    for problem in range(4):
        own = sorted((score, i) for i, (of, score) in enumerate(rows) if of == problem)
        expected |= {i for _, i in own[: places[problem]]}
    assert set(np.flatnonzero(lowest(scores, problems, np.array(places)))) == expected


@given(sizes=st.lists(st.integers(1, 100), min_size=1), share=st.floats(0.01, 1), keep=st.integers(1, 5))
def test_a_quota_is_a_share_rounded_up_and_more_than_what_is_kept(sizes, share, keep):
    found = quota(np.array(sizes), share, keep)
    assert (found > keep).all()
    assert (found >= share * np.array(sizes) - 1e-6).all() and (found < share * np.array(sizes) + 1 + keep).all()


def test_a_trajectory_that_degenerates_later_is_not_the_only_one_read_to_its_end():
    rsr, beginnings = np.array([9.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0])
    tokens, prefixes = np.full(4, 100), np.full((4, 2), [5, 20])
    sample = Sample(np.zeros(4, dtype=int), rsr, tokens, np.stack([beginnings, beginnings], axis=1), prefixes, keep=1)
    chosen, read = sample.simulate((0.4, 0.1), sample.prefix_rsr)
    assert (chosen.tolist(), read) == ([2.0], 4 * 5 + 2 * 20 + 2 * 100)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(RULES), keep=st.integers(1, 3))
def test_a_rule_never_finds_better_candidates_than_are_there(seed, rule, keep):
    sample = make_sample(np.random.default_rng(seed), 6, 9, keep)
    chosen, read = sample.simulate(rule, sample.prefix_rsr)
    assert (chosen >= sample.best).all()
    assert read >= sample.prefix_tokens[:, 0].sum()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(RULES), keep=st.integers(1, 3))
def test_nothing_is_lost_where_beginnings_order_candidates_as_the_whole_does(seed, rule, keep):
    sample = make_sample(np.random.default_rng(seed), 6, 9, keep)
    chosen, _ = sample.simulate(rule, np.stack([sample.rsr, sample.rsr], axis=1))
    np.testing.assert_array_equal(chosen, sample.best)


def test_a_greater_regret_reads_fewer_tokens():
    sample = make_sample(np.random.default_rng(1), 100, 30)
    rules = [choose_rule(sample, 1000, regret, 0.9, np.random.default_rng(0)) for regret in (0.005, 0.02, 0.08)]
    read = [sample.simulate(rule, sample.prefix_rsr)[1] for rule in rules]
    assert read == sorted(read, reverse=True) and len(set(read)) == 3


@pytest.mark.parametrize("problems", [1, 3, 60])
def test_without_regret_no_rule_keeps_the_promise(problems):
    sample = make_sample(np.random.default_rng(1), problems, 20)
    assert choose_rule(sample, 1000, 0.0, 0.9, np.random.default_rng(0)) is None


def test_a_small_sample_without_a_loss_proves_nothing():
    sample = make_sample(np.random.default_rng(1), 20, 20, noise=0.0)
    chosen, _ = sample.simulate(RULES[-1], sample.prefix_rsr)
    np.testing.assert_array_equal(chosen, sample.best)
    random = np.random.default_rng(0)
    assert choose_rule(part(sample, range(19)), 1000, 0.5, 0.9, random) is None
    assert choose_rule(sample, 1000, 0.5, 0.9, random) == RULES[-1]
    assert choose_rule(sample, 1000, 0.001, 0.9, random) is None  # losses by chance are greater


@pytest.mark.parametrize(("problems", "calibration", "keep"), [(60, 25, 1), (300, 40, 1), (300, 40, 4)])
def test_the_promise_holds_at_its_confidence(problems, calibration, keep):
    rng = np.random.default_rng(7)
    kept, shares = [], []
    for _ in range(60):
        population = make_sample(rng, problems, 20, keep)
        drawn = rng.choice(problems, calibration, replace=False)
        sample, rest = part(population, drawn), part(population, np.setdiff1d(np.arange(problems), drawn))
        rule = choose_rule(sample, problems - calibration, 0.02, 0.9, rng)
        chosen, read = rest.simulate(rule, rest.prefix_rsr) if rule else (rest.best, rest.tokens.sum())
        best = sample.best.sum() + rest.best.sum()
        kept.append(chosen.sum() + sample.best.sum() <= 1.02 * best)
        shares.append(read / rest.tokens.sum())
    assert np.mean(kept) >= 0.9
    assert np.mean(shares) < 0.9  # and not by reading everything
