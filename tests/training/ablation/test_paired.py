"""Differences within seeds, against scipy and against a bootstrap that is written out."""

import math

import numpy as np
import pytest
from scipy import stats

from training.ablation.paired import paired_difference


@pytest.mark.parametrize(("seeds", "confidence"), [(2, 0.95), (3, 0.95), (5, 0.9), (12, 0.99)])
def test_the_interval_of_one_value_a_seed_is_that_of_the_paired_t_test(seeds: int, confidence: float) -> None:
    random = np.random.default_rng(seeds)
    first, second = random.random(seeds), random.random(seeds)
    found = paired_difference(first, second, confidence=confidence)
    expected = stats.ttest_rel(first, second).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.mean == pytest.approx((first - second).mean())
    assert (found.wins, found.seeds) == ((first > second).sum(), seeds)


def test_one_seed_says_nothing_of_others_and_a_draw_is_no_win() -> None:
    found = paired_difference([0.5], [0.5])
    assert math.isnan(found.low) and math.isnan(found.high)
    assert (found.mean, found.wins, found.seeds) == (0.0, 0, 1)


def _correct(shares: list[float], samples: int, seed: int) -> np.ndarray:
    """Whether each sample was right, in which seeds agree on what is hard."""
    random = np.random.default_rng(seed)
    hard = random.random(samples)
    return np.stack([(hard + 0.3 * random.random(samples) < share) for share in shares])


def test_the_bootstrap_draws_seeds_and_samples() -> None:
    first, second = _correct([0.7, 0.8, 0.75, 0.9], 200, 0), _correct([0.6, 0.75, 0.5, 0.6], 200, 1)
    found = paired_difference(first, second, resamples=4_000)
    differences, random = first.astype(float) - second, np.random.default_rng(7)
    drawn = [differences[random.integers(0, 4, 4)][:, random.integers(0, 200, 200)].mean() for _ in range(4_000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
    assert found.mean == pytest.approx(differences.mean()) and found.wins == (differences.mean(axis=1) > 0).sum()
    assert paired_difference(first, second) == paired_difference(first, second)
    assert paired_difference(first, second, seed=1) != paired_difference(first, second)


def test_each_group_of_seeds_has_samples_of_its_own() -> None:
    first, second = _correct([0.7, 0.8, 0.9], 100, 0), _correct([0.6, 0.7, 0.5], 100, 1)
    groups = np.array(["a", "b", "b"])
    found = paired_difference(first, second, groups=groups, resamples=4_000)
    differences, random = first.astype(float) - second, np.random.default_rng(7)
    drawn = [
        (
            differences[0, random.integers(0, 100, 100)].mean()
            + 2 * differences[1:][random.integers(0, 2, 2)][:, random.integers(0, 100, 100)].mean()
        )
        / 3
        for _ in range(4_000)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


@pytest.mark.parametrize(("first", "second"), [([0.5, 0.6], [0.5]), ([], []), (0.5, 0.5), ([[[1]]], [[[1]]])])
def test_shapes_that_do_not_fit_are_refused(first: object, second: object) -> None:
    with pytest.raises(ValueError, match="shape"):
        paired_difference(first, second)  # type: ignore[arg-type]


def test_a_group_is_given_for_each_seed() -> None:
    with pytest.raises(ValueError, match="group for each of 2 seeds"):
        paired_difference(np.ones((2, 3)), np.zeros((2, 3)), groups=[1])
