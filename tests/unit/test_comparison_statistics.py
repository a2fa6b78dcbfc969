"""Statistics over seeds, against scipy and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lit_g2rpo.comparison.statistics import bands, estimate, paired_difference, sign_flip_p

VALUES = [0.741, 0.7262, 0.7533, 0.7391, 0.7488]


def test_an_interval_is_that_of_student() -> None:
    found = estimate(VALUES)
    low, high = stats.t.interval(0.95, 4, np.mean(VALUES), stats.sem(VALUES))
    assert found.n == 5
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert (found.mean, found.sd) == pytest.approx((np.mean(VALUES), np.std(VALUES, ddof=1)), abs=1e-12)


def test_an_interval_by_hand() -> None:
    # t of 0.975 with one degree of freedom is tan(0.475 pi); mean 2, sd sqrt(2), so sd / sqrt(n) is 1
    found = estimate([1.0, 3.0])
    assert (found.low, found.high) == pytest.approx(
        (2 - math.tan(0.475 * math.pi), 2 + math.tan(0.475 * math.pi)), abs=1e-9
    )


def test_one_seed_has_no_interval() -> None:
    found = estimate([0.7])
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.7, None, None, None)


def test_bands_leave_out_what_a_seed_lacks() -> None:
    n, mean, half = bands([[1.0, 2.0, np.nan, np.nan], [3.0, np.nan, np.nan, 5.0], [8.0, 4.0, np.nan, np.nan]])
    assert n.tolist() == [3, 2, 0, 1]
    assert mean == pytest.approx([4.0, 3.0, np.nan, 5.0], nan_ok=True)
    first, second = estimate([1.0, 3.0, 8.0]), estimate([2.0, 4.0])
    assert half == pytest.approx([first.high - first.mean, second.high - second.mean, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_permutation_test_counts_every_pattern(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    patterns = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=n)]
    p, exact = sign_flip_p(differences)
    assert exact
    assert p == sum(value >= patterns[0] - 1e-9 for value in patterns) / 2**n


def test_the_permutation_test_is_that_of_scipy() -> None:
    first, second = np.random.default_rng(3).normal(size=(2, 10))

    def mean_difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(a - b, axis=axis)

    found = stats.permutation_test(
        (first, second), mean_difference, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert sign_flip_p(first - second)[0] == pytest.approx(found.pvalue, abs=1e-12)


def test_ties_count_despite_rounding() -> None:
    # |0.1 + 0.2 - 0.3| and |-0.1 - 0.2 + 0.3| are 0 in truth and 5.6e-17 in float64; every pattern is as far off as 0
    assert sign_flip_p([0.1, 0.2, -0.3])[0] == 1.0
    assert sign_flip_p([0.0, 0.0, 0.0])[0] == 1.0


def test_many_pairs_are_not_called_exact() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 30)
    p, exact = sign_flip_p(differences)
    assert not exact
    # 30 pairs are enough for the t-test to be a good approximation
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.1)
    assert sign_flip_p(np.ones(30))[0] > 0


def test_twenty_pairs_are_exact() -> None:
    assert sign_flip_p(np.ones(20)) == (2 / 2**20, True)


def test_pairs_are_the_seeds_that_both_groups_have() -> None:
    found = paired_difference({0: 0.7, 2: 0.8, 5: 0.1}, {0: 0.5, 2: 0.7, 1: 0.9})
    assert found is not None
    assert found.seeds == (0, 2)
    assert found.differences == pytest.approx((0.2, 0.1))
    assert (found.estimate.n, found.p, found.exact) == (2, 0.5, True)
    assert found.estimate.low == pytest.approx(stats.ttest_1samp([0.2, 0.1], 0).confidence_interval(0.95).low)


def test_one_pair_has_neither_interval_nor_p_value() -> None:
    found = paired_difference({0: 0.8}, {0: 0.7})
    assert found is not None
    assert (found.estimate.low, found.p) == (None, None)


def test_groups_without_a_common_seed_are_not_paired() -> None:
    assert paired_difference({0: 0.8}, {1: 0.7}) is None
