"""The named objectives: their advantages, their token loss, and what their signatures accept."""

import inspect

import jsonargparse
import pytest
import torch

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives import (
    G2RPO,
    GDPO,
    GOPO,
    GRPO,
    RLOO,
    DrGRPO,
    EmaGRPO,
    GaussianGDPO,
    Objective,
    ReinforcePP,
    Supervised,
)
from lit_g2rpo.objectives.advantages import (
    EmaStandardized,
    centered,
    decoupled,
    gaussian,
    gaussian_decoupled,
    leave_one_out,
    linear_ranks,
    standardized,
    whitened,
)
from lit_g2rpo.objectives.fields import ScoredBatch, TokenFields
from lit_g2rpo.objectives.losses import ppo
from lit_g2rpo.objectives.settings import ObjectiveSettings
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.table import build_table, usable_groups

DOUBLE = torch.float64


@pytest.fixture
def batch():
    torch.manual_seed(0)
    groups = torch.arange(8).repeat_interleave(4)
    components = {name: torch.rand(32) for name in ("accuracy", "format")} | {"length": torch.arange(1.0, 33)}
    return ScoredBatch(
        rewards=torch.rand(32),
        components=components,
        group_ids=groups,
        task_ids=groups % 2,
        problem_type_ids=groups // 4,
        valid=groups != 5,
    )


def token_fields(tokens, **changes):
    torch.manual_seed(1)
    fields = {
        "advantages": torch.randn(tokens, dtype=DOUBLE),
        "old_logprobs": -torch.rand(tokens, dtype=DOUBLE),
        "ref_logprobs": -torch.rand(tokens, dtype=DOUBLE),
        "weight": torch.full((tokens,), 1 / tokens, dtype=DOUBLE),
        "entropy_weight": torch.zeros(tokens, dtype=DOUBLE),
        "task_ids": torch.zeros(tokens, dtype=torch.long),
    }
    return TokenFields(**fields | changes)


@pytest.mark.parametrize(
    ("objective", "estimator"),
    [(DrGRPO, centered), (RLOO, leave_one_out), (ReinforcePP, whitened), (GOPO, linear_ranks)],
)
def test_each_objective_has_its_estimator(batch, objective, estimator):
    expected = estimator(batch.rewards, batch.group_ids, valid=batch.valid)
    assert torch.equal(objective().advantages(batch), expected)


def test_dr_grpo_does_not_divide_by_lengths():
    assert (DrGRPO().mean, GRPO().mean) == ("constant", "token")


def test_ema_grpo_keeps_its_moments_by_answer_format(batch):
    objective = EmaGRPO(decay=0.5)
    expected = EmaStandardized(0.5)
    for _ in range(2):
        found = objective.advantages(batch)
        assert torch.equal(found, expected(batch.rewards, batch.group_ids, batch.problem_type_ids, valid=batch.valid))
    resumed = EmaGRPO(decay=0.5)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed.advantages(batch), objective.advantages(batch))
    assert GRPO().state_dict() == {}


def test_gaussian_gdpo_maps_its_components(batch):
    present = {name: batch.components[name] for name in ("accuracy", "format")}
    expected = gaussian_decoupled(present, batch.group_ids, batch.problem_type_ids, valid=batch.valid)
    assert torch.equal(GaussianGDPO().advantages(batch), expected)


def test_importance_weighs_the_policy_loss_alone():
    fields = token_fields(5, importance=torch.tensor([0.5, 1, 1, 1, 2.0], dtype=DOUBLE))
    logprobs, entropy = -torch.rand(5, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE)
    with_kl = GRPO(kl_coefficient=0.1)
    plain = token_fields(5)
    policy = GRPO().token_loss(logprobs, entropy, plain)[0]
    penalty = with_kl.token_loss(logprobs, entropy, plain)[0] - policy
    found, metrics = with_kl.token_loss(logprobs, entropy, fields)
    torch.testing.assert_close(found, fields.importance * policy + penalty)
    assert torch.equal(metrics["importance"], fields.importance)


def test_only_losses_of_whole_completions_are_not_elementwise():
    assert [GRPO(loss=loss).elementwise for loss in ("ppo", "cispo", "sapo", "gspo", "gspo_token")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_advantages_are_those_of_the_estimator(batch):
    ids = (batch.rewards, batch.group_ids)
    assert torch.equal(G2RPO().advantages(batch), gaussian(*ids, batch.problem_type_ids, valid=batch.valid))
    assert torch.equal(
        G2RPO(scope="task", advantage_key="task").advantages(batch),
        gaussian(*ids, batch.task_ids, scope="task", valid=batch.valid),
    )
    assert torch.equal(GRPO().advantages(batch), standardized(*ids, valid=batch.valid))
    present = {name: batch.components[name] for name in ("accuracy", "format")}
    assert torch.equal(GDPO().advantages(batch), decoupled(present, batch.group_ids, valid=batch.valid))
    batch.components["structure"] = torch.rand(32)
    present["structure"] = batch.components["structure"]
    assert torch.equal(GDPO().advantages(batch), decoupled(present, batch.group_ids, valid=batch.valid))


@pytest.mark.parametrize("objective", [G2RPO(), GRPO(), GDPO(), Supervised()])
def test_dropped_rows_are_zero_and_read_by_nobody(batch, objective):
    before = objective.advantages(batch)
    batch.rewards[~batch.valid] = float("nan")
    for component in batch.components.values():
        component[~batch.valid] = float("nan")
    assert torch.equal(objective.advantages(batch), before)
    assert not before[~batch.valid].any()
    assert before.shape == batch.rewards.shape


def test_gdpo_names_what_is_missing(batch):
    with pytest.raises(UserError, match="the rewards have"):
        GDPO(components=["fluency"]).advantages(batch)
    with pytest.raises(UserError, match="name parts"):
        GDPO(components=["accuracy", "length"])


def test_token_loss_is_the_policy_loss_plus_its_terms():
    fields = token_fields(50, entropy_weight=torch.randn(50, dtype=DOUBLE))
    logprobs, entropy = -torch.rand(50, dtype=DOUBLE), torch.rand(50, dtype=DOUBLE)
    plain, _ = G2RPO().token_loss(logprobs, entropy, fields)
    clips = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
    expected, metrics = ppo(logprobs, fields.old_logprobs, fields.advantages, **clips)
    torch.testing.assert_close(plain.sum(), expected.mean())
    assert set(metrics) == {"clip_fraction", "ratio", "approx_kl"}
    log_ratio = fields.ref_logprobs - logprobs
    with_kl, metrics = G2RPO(kl_coefficient=0.1).token_loss(logprobs, entropy, fields)
    torch.testing.assert_close(with_kl - plain, 0.1 / 50 * (log_ratio.exp() - 1 - log_ratio))
    torch.testing.assert_close(metrics["kl"], log_ratio.exp() - 1 - log_ratio)
    exact, _ = G2RPO(entropy_coefficient=0.02).token_loss(logprobs, entropy, fields)
    torch.testing.assert_close(exact - plain, fields.entropy_weight * entropy)
    sampled, _ = G2RPO(entropy_coefficient=0.02, entropy="sampled").token_loss(logprobs, entropy, fields)
    torch.testing.assert_close(sampled - plain, fields.entropy_weight * -logprobs)


@pytest.mark.parametrize("objective", [G2RPO(kl_coefficient=0.1, entropy_coefficient=0.02), Supervised()])
def test_token_loss_is_elementwise_and_its_metrics_carry_no_gradient(objective):
    logprobs = (-torch.rand(9, dtype=DOUBLE)).requires_grad_()
    entropy = torch.rand(9, dtype=DOUBLE, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: objective.token_loss(x, entropy, token_fields(9))[0], logprobs
    )
    assert torch.equal(jacobian, jacobian.diag().diag())
    loss, metrics = objective.token_loss(logprobs, entropy, token_fields(9))
    assert loss.shape == (9,)
    assert all(metric.shape == (9,) and not metric.requires_grad for metric in metrics.values())


def test_tokens_of_weight_zero_give_no_gradient():
    logprobs = (-torch.rand(6, dtype=DOUBLE)).requires_grad_()
    weight = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=DOUBLE)
    loss, _ = G2RPO(kl_coefficient=0.1).token_loss(logprobs, logprobs.detach(), token_fields(6, weight=weight))
    loss.sum().backward()
    assert not logprobs.grad[1::2].any()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_supervised_is_a_weighted_mean_over_tokens(batch, power):
    weights = Supervised(length_power=power).advantages(batch)
    lengths = batch.components["length"]
    torch.testing.assert_close((weights * lengths).sum() / lengths[batch.valid].sum(), torch.tensor(1.0))
    per_token = weights[batch.valid] * lengths[batch.valid] ** power
    torch.testing.assert_close(per_token, per_token[:1].expand_as(per_token))
    if power == 0:
        assert torch.equal(weights, batch.valid.float())


def test_supervised_loss():
    fields = token_fields(5)
    logprobs = -torch.rand(5, dtype=DOUBLE)
    loss, metrics = Supervised().token_loss(logprobs, logprobs, fields)
    torch.testing.assert_close(loss, -fields.weight * fields.advantages * logprobs)
    torch.testing.assert_close(metrics["nll"], -logprobs)
    assert not Supervised.needs_groups
    assert Supervised().filtering == "off"
    assert G2RPO.needs_groups


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_low": 1.0},
        {"clip_low": -0.1},
        {"clip_high": -0.1},
        {"clip_high": float("inf")},
        {"kl_coefficient": float("nan")},
        {"entropy_coefficient": -0.02},
        {"length_weight": 1.0},
        {"overlong_weight": -0.5},
        {"overlong_share": 0.0},
        {"overlong_share": 1.5},
        {"dual_clip": 1.0},
        {"dual_clip": float("nan")},
        {"entropy": "full"},
        {"filtering": "some"},
        {"loss": "trpo"},
        {"mean": "row"},
        {"kl_estimator": "k4"},
        {"tau_negative": 0.0},
        {"importance_cap": 0.5},
        {"refill_waves": 0},
        {"accuracy_low": 0.99},
    ],
)
@pytest.mark.parametrize("objective", [G2RPO, GRPO, GDPO])
def test_coefficients_out_of_range_are_refused(objective, wrong):
    with pytest.raises(UserError, match=f"model.objective.{next(iter(wrong))} is"):
        objective(**wrong)


def test_other_arguments_out_of_range_are_refused():
    with pytest.raises(UserError, match="length_power"):
        Supervised(length_power=1.5)
    with pytest.raises(UserError, match="advantage_key"):
        G2RPO(advantage_key="domain")


@pytest.mark.parametrize(
    "objective", [G2RPO, GRPO, GDPO, GaussianGDPO, DrGRPO, EmaGRPO, RLOO, ReinforcePP, GOPO, Supervised]
)
def test_the_config_parser_reads_every_argument(objective):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    name = f"{objective.__module__}.{objective.__name__}"
    init = parser.parse_args([f"--objective={name}"]).objective.init_args
    if objective is not Supervised:
        assert set(inspect.signature(ObjectiveSettings.__init__).parameters) - {"self"} <= set(vars(init))
        changed = parser.parse_args([f"--objective={name}", "--objective.clip_high=0.28"])
        assert parser.instantiate(changed).objective.clip_high == 0.28
    else:
        assert set(vars(init)) == {"length_power"}
    with pytest.raises(jsonargparse.ArgumentError):
        parser.parse_args([f"--objective={name}", "--objective.clip_hihg=0.28"])


def test_the_config_parser_takes_a_list_of_components():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    name = "lit_g2rpo.objectives.GDPO"
    config = parser.parse_args([f"--objective={name}", "--objective.components=[accuracy, format]"])
    assert parser.instantiate(config).objective.components == ("accuracy", "format")
    assert "structure" in parser.dump(parser.parse_args([f"--objective={name}"]))


@pytest.mark.parametrize("objective", [GDPO(components=["accuracy"]), GaussianGDPO(components=["accuracy"])])
def test_a_group_whose_total_ties_teaches_its_components(objective):
    accuracy = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    columns = {"accuracy": accuracy, "format": 1 - accuracy, "structure": torch.zeros(1, 4)}
    columns |= {"reward": accuracy + columns["format"], "scored": torch.ones(1, 4)}
    columns |= {"task": torch.zeros(1, 4), "problem_type": torch.zeros(1, 4), "length": torch.ones(1, 4)}
    columns |= {"truncated": torch.zeros(1, 4), "entropy": torch.zeros(1, 4), "logprobs": torch.zeros(1, 4)}
    usable = usable_groups(columns, objective)
    table = build_table(columns, usable, objective, {"a": Task("a")})
    assert usable.tolist() == [True]
    if type(objective) is GDPO:
        # each over the group's unbiased deviation, sqrt(1/3)
        torch.testing.assert_close(table.advantages, 0.8660254 * torch.tensor([[1.0, 1.0, -1.0, -1.0]]))
    assert table.advantages.tolist()[0] == sorted(table.advantages.tolist()[0], reverse=True)
    assert table.advantages.abs().min() > 0.1
    assert usable_groups(columns, GRPO()).tolist() == [False]
