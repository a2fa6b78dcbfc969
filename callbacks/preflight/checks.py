"""The parts of the pre-flight check that compute: memory, log-probabilities, rewards; each returns a message."""

import torch
from torch import Tensor

from lit_g2rpo.data.loader import PromptDataset
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.planning.largest_prompts import spread
from lit_g2rpo.rewards.gold import gold_completion, gold_error
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.training.engine_gap import gap, gap_error, gap_line
from lit_g2rpo.training.memory_trial import in_step, largest_microbatch, trial_pass
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.tags import tags_error

NONSENSE = "I would rather not say."
TOKENS = 32
"""Longest completion for comparing log-probabilities."""
ROWS = 8
"""Number of gold answers to try before a task is reported as unscorable."""
CPU_TOKENS = 512
"""Longest completion in the largest micro-batch on the CPU. There, too little memory leads to swapping or a killed
process, so full length would not find more, and would take minutes."""


def check_memory(run: Run, prompts: list[Prompt]) -> str:
    """Run forward and backward of the largest micro-batch for each of the prompts that need the most memory.

    Raises:
        UserError: if memory is insufficient, or the loss is not finite.
    """
    cuda = run.device.type == "cuda"
    tokens = min(run.max_tokens, CPU_TOKENS) if run.device.type == "cpu" else run.max_tokens
    said: dict[str, list[str]] = {}
    for prompt in prompts:
        microbatch = largest_microbatch(run, prompt, tokens)
        length, rows = len(run.policy.encode(prompt).input_ids), len(microbatch.token_ids)
        completions, of = f"{rows} completions of {tokens} tokens to prompts of", f"{length}"
        what = f"{completions} {of}"
        if cuda:
            torch.cuda.reset_peak_memory_stats(run.device)
        try:
            loss = trial_pass(run, microbatch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"out of memory with {what} (row {prompt.id}); raise model.update.microbatches, lower "
                "data.max_completion_tokens or model.policy.max_pixels, or take a strategy that shards more"
            ) from error
        if not torch.tensor(loss).isfinite():
            raise UserError(f"the loss of {what} (row {prompt.id}) is {loss}; check the weights and trainer.precision")
        if cuda:
            of += f" (peak {torch.cuda.max_memory_allocated(run.device) / 2**30:.2f} GiB)"
        said.setdefault(completions, []).append(of)
    if cuda:
        torch.cuda.empty_cache()
    return "; ".join(f"{completions} {' and '.join(of)}" for completions, of in said.items())


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted."""
    words = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in words for sign in ("out of memory", "can't allocate memory", "resource_exhausted")
    )


def check_parity(run: Run, prompts: list[Prompt]) -> str:
    """Sample a few completions of prompts and compare their log-probabilities with the trainer's.

    Raises:
        UserError: if the differences are too large.
    """
    gaps = logprob_gaps(run, prompts, min(run.max_tokens, TOKENS))
    found = float(gaps.mean()), float(gaps.max()), len(gaps)
    if wrong := gap_error(run, *found):
        raise UserError(wrong)
    return gap_line(run, *found)


def logprob_gaps(run: Run, prompts: list[Prompt], tokens: int) -> Tensor:
    """Sample completions and compare their log-probabilities with the trainer's; all ranks must call this together.

    Args:
        tokens: longest completion.

    Returns:
        Absolute difference of each token, nats.
    """
    size, sampling = 4, Sampling(tokens, run.rollout.temperature, seed=run.rollout.seed)

    def gaps() -> Tensor:
        with generation_context(run.trainer.strategy, run.policy):
            run.engine.push()
            completions = run.engine.generate(prompts, size, sampling)
            run.policy.prepare_features(prompts)
        rows = [prompt for prompt in prompts for _ in range(size)]
        own, _ = run.policy.token_stats(rows, [completion.token_ids for completion in completions])
        engine = torch.cat([completion.logprobs for completion in completions])
        return gap(own, engine)

    # outside the step, since a wrapper that expects a backward would wait for it
    with torch.no_grad():
        return in_step(run, gaps)


def check_tags(run: Run) -> str:
    """Check that a completion can have the form that the reward expects, and report what the chat template opens.

    Raises:
        UserError: if it cannot, so that format would always be 0.
    """
    if wrong := tags_error(run.policy, run.reward):
        raise UserError(wrong)
    tag = run.policy.opened.strip()
    return f"the chat template opens {tag} at the end of each prompt; it counts as written" if tag else ""


def check_rewards(run: Run, dataset: PromptDataset) -> str:
    """Score the gold answer of a training row from each task, and nonsense, like the run's completions.

    Raises:
        UserError: if a gold answer does not score 1, nonsense scores the same, or a reward fails.
    """
    rows: dict[str, list[int]] = {}
    for index, task in enumerate(dataset.task_names()):
        rows.setdefault(task, []).append(index)
    said = []
    for task, indices in sorted(rows.items()):
        gold, nonsense = _scores(run, task, [indices[i] for i in spread(len(indices), ROWS)], dataset)
        if (gold, nonsense) != (1, 0):
            said.append(f"{task} {gold:g} and {nonsense:g}")
    usual = len(rows) - len(said)
    if usual:
        said.insert(0, f"1 and 0 in {usual} task{'s' * (usual > 1)}")
    return "gold answers and nonsense score " + ", ".join(said)


def _scores(run: Run, task: str, indices: list[int], dataset: PromptDataset) -> tuple[float, float]:
    own = run.tasks[task].reward
    reasons = []
    for index in indices:
        try:
            prompt = dataset[index]
            for video in prompt.videos:
                run.policy.processor.frames(video)
        except ImageError as error:
            reasons.append(str(error))
            continue
        if own is None and (wrong := gold_error(prompt.sample, run.reward)):
            reasons.append(f"row {prompt.id}: {wrong}")
            continue
        texts = [gold_completion(prompt.sample, run.reward), NONSENSE]
        token_ids = [run.tokenizer(text)["input_ids"] for text in texts]
        batch = Batch(texts, [prompt.sample] * 2, [task] * 2, [prompt.text] * 2, token_ids, [prompt.pictures] * 2)
        with run.scorer.uncounted():
            gold, nonsense = run.scorer.score(batch)
            failure = run.scorer.last_failure
        if own is not None:
            for result in (gold, nonsense):
                if result.error not in (None, "not_applicable"):
                    raise UserError(f"task {task}: its reward fails on row {prompt.id}: {failure or result.error}")
            return gold.total, nonsense.total
        if gold.accuracy >= 1 > nonsense.accuracy:
            return gold.accuracy, nonsense.accuracy
        reasons.append(
            f"row {prompt.id}: its gold answer has accuracy {gold.accuracy:g}, nonsense {nonsense.accuracy:g}"
        )
    raise UserError(f"task {task}: no gold answer of {len(indices)} rows scores 1; the first reason: {reasons[0]}")
