"""The rank-to-normal map and the estimators it is compared with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lit_g2rpo.objectives.advantages import centered, decoupled, gaussian, leave_one_out, normal_scores, standardized

DOUBLE = torch.float64
levels = st.lists(st.integers(-5, 5), min_size=1, max_size=24)


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def slow_reference(rewards):
    """Quantiles by rank, averaged over exact ties, with SciPy."""
    n = len(rewards)
    ranked = sorted(rewards)
    quantiles = norm.ppf([(i + 0.5) / n for i in range(n)])
    classes = {r: [q for x, q in zip(ranked, quantiles, strict=True) if x == r] for r in rewards}
    return tensor([sum(classes[r]) / len(classes[r]) for r in rewards])


def binary_groups(correct, size=8):
    rewards = tensor([float(i < k) for k in correct for i in range(size)])
    return rewards, torch.arange(len(correct)).repeat_interleave(size)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0, 0, 0, 0, 1], [-0.320] * 4 + [1.282]),
        ([0, 0, 1, 1, 1], [-0.903] * 2 + [0.602] * 3),
        ([0.1, 0.1, 0.1, 0.2, 1], [-0.602] * 3 + [0.524, 1.282]),
        ([0.81, 0.81, 0.82, 0.82, 0.83], [-0.903] * 2 + [0.262] * 2 + [1.282]),
        (list(range(8)), [-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534]),
        ([3.0], [0.0]),
        ([2.0] * 6, [0.0] * 6),
        ([], []),
    ],
)
def test_normal_scores_by_hand(rewards, expected):
    torch.testing.assert_close(normal_scores(tensor(rewards)), tensor(expected), atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("correct", "right", "wrong"),
    [
        (1, 1.534, -0.219),
        (2, 1.211, -0.404),
        (3, 0.970, -0.582),
        (4, 0.767, -0.767),
        (5, 0.582, -0.970),
        (6, 0.404, -1.211),
        (7, 0.219, -1.534),
    ],
)
def test_k_of_eight_correct(correct, right, wrong):
    rewards, groups = binary_groups([correct])
    scores = gaussian(rewards, groups, groups, scope="group")
    torch.testing.assert_close(scores, tensor([right] * correct + [wrong] * (8 - correct)), atol=6e-4, rtol=0)


@given(levels)
def test_equals_scipy(rewards):
    torch.testing.assert_close(normal_scores(tensor(rewards)), slow_reference(rewards), atol=1e-12, rtol=1e-12)


@given(levels)
def test_mean_is_zero_and_largest_quantile_bounds(rewards):
    scores = normal_scores(tensor(rewards))
    assert abs(scores.mean()) < 1e-12
    assert scores.abs().max() <= norm.ppf((len(rewards) - 0.5) / len(rewards)) + 1e-12


@given(levels)
def test_only_order_matters(rewards):
    scores = normal_scores(tensor(rewards))
    for increasing in (lambda x: 3 * x + 7, lambda x: x.exp(), lambda x: x**3, lambda x: 1e4 * x):
        assert torch.equal(normal_scores(increasing(tensor(rewards))), scores)


@given(levels)
def test_sign_symmetry_is_exact(rewards):
    torch.testing.assert_close(normal_scores(-tensor(rewards)), -normal_scores(tensor(rewards)), atol=1e-15, rtol=0)


@given(levels, st.randoms())
def test_permutation(rewards, random):
    order = list(range(len(rewards)))
    random.shuffle(order)
    assert torch.equal(normal_scores(tensor(rewards)[order]), normal_scores(tensor(rewards))[order])


def test_all_tied_is_exactly_zero():
    for size in range(1, 200):
        assert not normal_scores(torch.full((size,), 0.7)).any()


def test_ties_survive_float_noise():
    noisy = torch.tensor([0.1 + 0.2, 0.3, 0.3 + 3e-8, 0.9, 0.9 * (1 + 1e-7)])
    assert torch.equal(normal_scores(noisy), normal_scores(torch.tensor([0.3, 0.3, 0.3, 0.9, 0.9])))
    assert normal_scores(tensor([0.0, 1e-9]), tie_tolerance=0)[1] > 0
    assert normal_scores(tensor([1.0, 1.0]), tie_tolerance=0).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype):
    assert normal_scores(torch.tensor([0, 1, 2], dtype=dtype)).dtype == dtype
    assert normal_scores(torch.tensor([0, 1, 2])).tolist()[2] == pytest.approx(0.967, abs=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_refused_with_its_index(bad):
    rewards, ids = tensor([0.0, bad, 1.0]), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"rewards not finite at 1 indices: \[1\]"):
        normal_scores(rewards)
    for estimator in (gaussian, standardized, centered, leave_one_out):
        with pytest.raises(ValueError, match=r"\[1\]"):
            estimator(rewards, ids, ids)
        assert estimator(rewards, ids, ids, valid=torch.tensor([True, False, True]))[1] == 0
    with pytest.raises(ValueError, match=r"accuracy not finite.*\[1\]"):
        decoupled({"accuracy": rewards}, ids)


def test_tied_group_gets_a_sign_from_its_task():
    # Why tied groups are dropped before the second pass.
    rewards, groups = binary_groups([8, 7, 6, 5])
    tasks = torch.zeros_like(groups)
    torch.testing.assert_close(gaussian(rewards, groups, tasks)[:8], tensor([-0.50] * 8), atol=5e-3, rtol=0)
    rewards, groups = binary_groups([0, 1, 2])
    tasks = torch.zeros_like(groups)
    torch.testing.assert_close(gaussian(rewards, groups, tasks)[:8], tensor([0.57] * 8), atol=5e-3, rtol=0)


def test_valid_rows_are_as_if_alone():
    torch.manual_seed(0)
    rewards, groups = torch.rand(64, dtype=DOUBLE).round(decimals=1), torch.arange(64) // 8
    tasks, valid = groups % 3, groups % 4 != 1
    for scope in ("group", "task", "group_then_task", "group_unit_rms"):
        whole = gaussian(rewards, groups, tasks, scope=scope, valid=valid)
        assert torch.equal(whole[valid], gaussian(rewards[valid], groups[valid], tasks[valid], scope=scope))
        assert not whole[~valid].any()
    components = {"a": rewards, "b": rewards.flip(0)}
    assert torch.equal(
        decoupled(components, groups, valid=valid)[valid],
        decoupled({k: v[valid] for k, v in components.items()}, groups[valid]),
    )
    assert not gaussian(rewards, groups, tasks, valid=torch.zeros(64, dtype=torch.bool)).any()


def test_scopes_are_the_map_in_sequence():
    torch.manual_seed(1)
    rewards, groups = torch.rand(48, dtype=DOUBLE), torch.arange(6).repeat(8)
    tasks = groups // 3
    inside = gaussian(rewards, groups, tasks, scope="group")
    both = gaussian(rewards, groups, tasks)
    unit = gaussian(rewards, groups, tasks, scope="group_unit_rms")
    for g in range(6):
        torch.testing.assert_close(inside[groups == g], normal_scores(rewards[groups == g]))
    for t in range(2):
        rows = tasks == t
        torch.testing.assert_close(both[rows], normal_scores(inside[rows]))
        torch.testing.assert_close(
            gaussian(rewards, groups, tasks, scope="task")[rows], slow_reference(rewards[rows].tolist())
        )
        assert unit[rows].square().mean() == pytest.approx(1)
    assert torch.equal(unit.sign(), inside.sign())
    with pytest.raises(ValueError, match="unknown scope"):
        gaussian(rewards, groups, tasks, scope="batch")
    with pytest.raises(ValueError, match="do not match"):
        gaussian(rewards, groups[:-1], tasks)


def test_second_pass_restores_unit_variance_of_binary_tasks():
    torch.manual_seed(2)
    rewards, groups = (torch.rand(1024) < 0.5).double(), torch.arange(128).repeat_interleave(8)
    tasks = torch.zeros_like(groups)
    assert gaussian(rewards, groups, tasks, scope="group").square().mean().sqrt() < 0.78
    assert gaussian(rewards, groups, tasks).square().mean().sqrt() == pytest.approx(0.98, abs=0.02)


def test_group_of_one_and_tied_group_are_zero():
    rewards, groups = tensor([5.0, 2.0, 2.0, 2.0]), torch.tensor([9, 4, 4, 4])
    for estimator in (standardized, centered, leave_one_out):
        assert estimator(rewards, groups).tolist() == [0, 0, 0, 0]
    for scope in ("group", "group_then_task", "group_unit_rms"):
        assert gaussian(rewards, groups, torch.zeros(4, dtype=torch.long), scope=scope).tolist() == [0, 0, 0, 0]


def test_baselines_by_hand():
    rewards, groups = tensor([0.0, 1.0, 2.0, 10.0, 20.0]), torch.tensor([0, 0, 0, 1, 1])
    assert centered(rewards, groups).tolist() == [-1, 0, 1, -5, 5]
    torch.testing.assert_close(leave_one_out(rewards, groups), tensor([-1.5, 0, 1.5, -10, 10]))
    torch.testing.assert_close(
        standardized(rewards, groups), tensor([-1, 0, 1, -(0.5**0.5), 0.5**0.5]), atol=2e-6, rtol=0
    )
    whitened = decoupled({"accuracy": rewards, "format": tensor([1.0, 1, 1, 1, 1])}, groups)
    torch.testing.assert_close(whitened, tensor([-1, 0, 1, -(0.5**0.5), 0.5**0.5]) / 0.75**0.5, atol=5e-6, rtol=0)


def test_decoupled_weights_and_refusals():
    rewards, groups = tensor([0.0, 1.0, 3.0, 2.0]), torch.zeros(4, dtype=torch.long)
    components = {"a": rewards, "b": rewards.flip(0)}
    assert torch.equal(decoupled(components, groups, weights={"b": 0.0}), decoupled({"a": rewards}, groups))
    with pytest.raises(ValueError, match="weights for"):
        decoupled(components, groups, weights={"c": 1.0})
    with pytest.raises(ValueError, match="components"):
        decoupled({}, groups)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4)), min_size=2, max_size=40))
def test_every_estimator_has_zero_mean_in_a_group(rows):
    rewards, groups = tensor([r for r, _ in rows]), torch.tensor([g for _, g in rows])
    for estimator in (standardized, centered, leave_one_out):
        scores = estimator(rewards, groups)
        for g in groups.unique():
            assert abs(scores[groups == g].mean()) < 1e-8
