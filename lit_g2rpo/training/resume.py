"""What a resumed run needs from a checkpoint: matching weights, and a partially trained rollout as plain tensors."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Experience, Prompt, RolloutTable, to_score
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.rollout.sampling import prompt_key
from lit_g2rpo.training.logprobs import ref_logprobs
from lit_g2rpo.training.resumed_optimizer import NEW_RUN
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.saved_completions import completions_state, cut, padded, read_completions

TABLE = tuple(field.name for field in fields(RolloutTable))


def experience_state(experience: Experience, max_tokens: int, ranks: Ranks) -> dict[str, Any]:
    """Write a rollout as tensors; all ranks must call this.

    Args:
        experience: this rank's part of the rollout.
        max_tokens: longest completion.
        ranks: the ranks that hold the other parts.

    Returns:
        Tensors ``[P, G, ...]`` by name.
    """
    table = experience.table
    total = len(table.lengths)
    state = completions_state(experience.prompts, experience.completions, total, max_tokens, ranks)
    shape = (len(experience.prompts), table.lengths.shape[1])
    for name in ("old_logprobs", "ref_logprobs"):
        if (rows := getattr(experience, name)) is not None:
            state[name] = ranks.gather_prompts(padded(rows, shape, max_tokens), total)
    return state | {name: getattr(table, name) for name in TABLE} | {"refills": experience.refills}


def restore_experience(run: Run, state: dict[str, Any] | None, prompts: list[Prompt]) -> Experience:
    """Read back this rank's part of a rollout.

    Args:
        state: as returned by ``experience_state``; None if the checkpoint has none.
        prompts: this rank's prompts, from the data.

    Returns:
        The experience, not yet cut into micro-batches.

    Raises:
        UserError: if the data no longer yields the prompts of the rollout, or there is no state.
    """
    if state is None:
        raise UserError("the checkpoint was written inside a rollout but holds no experience; start from another one")
    rank, world = run.ranks.rank, run.ranks.count
    table = RolloutTable(**{name: state[name] for name in TABLE})
    own = {name: tensor[rank::world] for name, tensor in state.items() if name not in (*TABLE, "refills")}
    if table.lengths.shape[1] != run.rollout.group_size:
        raise UserError(
            f"the checkpoint was saved within a rollout of groups of {table.lengths.shape[1]}, but "
            f"model.rollout.group_size is {run.rollout.group_size}; finish the rollout with the same, or resume from "
            "between two rollouts"
        )
    prompts = _refilled(run, state["refills"], table, prompts)
    if own["prompt_keys"].tolist() != [prompt_key(p.id) for p in prompts]:
        raise UserError(
            "the data has changed since the checkpoint: it gives other prompts for the rollout being resumed"
        )
    lengths = table.lengths[rank::world]

    def rows(name: str) -> list[Tensor] | None:
        return cut(own[name], lengths) if name in own else None

    completions = read_completions(own, lengths, run.policy.decode)
    with generation_context(run.trainer.strategy, run.policy):
        run.policy.prepare_features(prompts)
    experience = Experience(
        prompts=prompts,
        completions=completions,
        rewards=run.scorer.count(run.scorer.attempt(to_score(prompts, completions), run.rollout.group_size)),
        old_logprobs=rows("old_logprobs"),
        ref_logprobs=rows("ref_logprobs"),
        table=table,
        rank=rank,
        world_size=world,
        refills=state["refills"],
    )
    # KL was off until now; the reference has not changed since the rollout was sampled.
    if run.reference_needed and experience.ref_logprobs is None:
        experience.ref_logprobs = ref_logprobs(run, experience)
    return experience


def _refilled(run: Run, refills: list[list[int]], table: RolloutTable, prompts: list[Prompt]) -> list[Prompt]:
    """Redraw the prompts that replaced others, which the position in the stream determines."""
    names, rank, world = list(run.tasks), run.ranks.rank, run.ranks.count
    prompts = list(prompts)
    if not refills:
        return prompts
    owned = [[i for i, slot in enumerate(slots) if slot % world == rank] for slots in refills]
    waves = [
        ([names[int(table.task_ids[slot])] for slot in slots], own) for slots, own in zip(refills, owned, strict=True)
    ]
    drawn = run.loader.refill_again(waves)
    for slots, own, fresh in zip(refills, owned, drawn, strict=True):
        for i, prompt in zip(own, fresh, strict=True):
            prompts[slots[i] // world] = prompt
    return prompts


def check_checkpoint(module: nn.Module, policy_path: str, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not match this policy's.

    Args:
        module: the module with its policy built.
        policy_path: name or folder that the policy came from, for the message.
        checkpoint: the checkpoint being read; without weights if the strategy has read and checked them.

    Raises:
        UserError: if names or shapes differ.
    """
    if "g2rpo" not in checkpoint:
        raise UserError("--ckpt_path is not a checkpoint of this trainer (it has no rollout state)")
    if "state_dict" in checkpoint:
        check_weights(
            module, policy_path, {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
        )


def check_weights(module: nn.Module, policy_path: str, saved: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights that do not match this policy's.

    Args:
        module: the module with its policy built.
        policy_path: name or folder that the policy came from, for the message.
        saved: shape of each weight by name; frozen weights and second names of shared ones may be missing.

    Raises:
        UserError: if names or shapes differ.
    """
    # DeepSpeed keeps the shape of a split weight in an attribute of its own
    own = {
        name: tuple(getattr(weight, "ds_shape", weight.shape))
        for name, weight in module.named_parameters(remove_duplicate=False)
    }
    learned = {name for name, weight in module.named_parameters() if weight.requires_grad}
    differ = sorted(name for name in learned | saved.keys() if own.get(name) != saved.get(name))
    if differ:
        name = differ[0]
        raise UserError(
            f"--ckpt_path is a checkpoint of another model than model.policy.path '{policy_path}': "
            f"{len(differ)} weights differ, the first is {name} ({saved.get(name)} saved, {own.get(name)} here)"
        )


def resume_state(run: Run) -> dict[str, Any]:
    """Return the state that a resumed run must match: the optimizer, and the optimizer steps per rollout."""
    return {"optimizer": run.optimizer_settings.state_dict(), "pace": _pace(run)}


def check_resume(run: Run, checkpoint: dict[str, Any]) -> None:
    """Refuse to resume from a checkpoint whose state does not fit, and drop from it what the settings replace.

    Args:
        run: the resumed run.
        checkpoint: its checkpoint, modified in place.

    Raises:
        UserError: if the trained weights, the optimizer, or the number of steps per rollout differ.
    """
    if "optimizer" not in checkpoint["g2rpo"]:
        raise UserError(f"--ckpt_path was written before checkpoints kept their optimizer's settings; {NEW_RUN}")
    if "version" not in checkpoint["g2rpo"].get("experience", ("version",)):
        raise UserError(
            "--ckpt_path was written inside a rollout before checkpoints kept which weights wrote a completion; resume "
            f"from between two rollouts, or {NEW_RUN}"
        )
    _check_learning(run, checkpoint.get("state_dict", ()))
    _check_pace(run, checkpoint)
    saved, settings = checkpoint["g2rpo"]["optimizer"], run.optimizer_settings
    settings.check(saved)
    if settings.reschedules(saved):
        # a schedule of another class could not read it
        checkpoint["lr_schedulers"] = []


def _check_learning(run: Run, saved: Iterable[str]) -> None:
    """Refuse to resume from a checkpoint in which more weights were trained, since its optimizer state does not fit."""
    learning = {f"policy.{name}" for name, w in run.policy.named_parameters(remove_duplicate=False) if w.requires_grad}
    fixed = sorted(set(saved) - learning)
    if fixed:
        raise UserError(
            f"--ckpt_path was written by a run in which {len(fixed)} weights learned that model.policy.freeze keeps "
            f"from learning here, the first is {fixed[0]}; resume with the same freeze, or "
            f"{NEW_RUN}"
        )


def _pace(run: Run) -> dict[str, int]:
    return {"steps": run.steps_per_rollout, "microbatches": run.microbatches_per_rollout}


def _check_pace(run: Run, checkpoint: dict[str, Any]) -> None:
    """Convert the trainer's count of micro-batches to this run's, and refuse a different number of optimizer steps."""
    saved, now = checkpoint["g2rpo"]["pace"], _pace(run)
    if saved["steps"] != now["steps"]:
        raise UserError(
            f"a rollout of the checkpoint is {saved['steps']} optimizer steps, here it is {now['steps']} "
            "(model.update.epochs x microbatches / trainer.accumulate_grad_batches), and the run is counted in them; "
            f"resume with the same number, or {NEW_RUN}"
        )
    if saved["microbatches"] == now["microbatches"]:
        return
    if "experience" in checkpoint["g2rpo"]:
        raise UserError(
            f"the checkpoint was saved within a rollout of {saved['microbatches']} micro-batches, but "
            f"model.update.epochs x microbatches is {now['microbatches']}; resume with the same number"
        )
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        # saved at the end of a batch that does not count as completed yet
        more = counts["ready"] * now["microbatches"] // saved["microbatches"] - counts["ready"]
        counts.update({key: value + more for key, value in counts.items() if isinstance(value, int)})
