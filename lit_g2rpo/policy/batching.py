"""Distribution of rows over passes."""

from collections.abc import Callable, Iterator

from torch import Tensor

from lit_g2rpo.experience import Experience
from lit_g2rpo.policy.encoding import EncodedPrompt


def packs(
    rows: list[EncodedPrompt], size: Callable[[EncodedPrompt], int], most: float
) -> Iterator[list[EncodedPrompt]]:
    """Split prompts, in order, into packs to compute one at a time, which bounds activation memory.

    Args:
        size: size of a prompt.
        most: largest size of a pack; a larger prompt gets its own.
    """
    pack: list[EncodedPrompt] = []
    total = 0
    for row in rows:
        if pack and total + size(row) > most:
            yield pack
            pack, total = [], 0
        pack.append(row)
        total += size(row)
    if pack:
        yield pack


def balanced_bins(experience: Experience, chosen: Tensor, bins: int) -> list[list[int]]:
    """Distribute this rank's completions over bins of about equal token counts, keeping groups whole where they fit.

    Args:
        experience: the rollout of this rank.
        chosen: the completions to distribute, among those of all ranks, ``[P, G]`` bool.
        bins: number of bins.

    Returns:
        For each bin, indices of this rank's completions, with those of a group adjacent; some bins may be empty.
    """
    group_size = chosen.shape[1]
    own = slice(experience.rank, None, experience.world_size)
    lengths = experience.table.lengths[own].flatten().tolist()
    rows_of: dict[int, list[int]] = {}
    for row in chosen[own].flatten().nonzero().flatten().tolist():
        rows_of.setdefault(row // group_size, []).append(row)
    encoded = {group: experience.prompts[group].encoded for group in rows_of}
    prompts = {group: len(one.input_ids) for group, one in encoded.items() if one is not None}
    sizes = {group: prompts[group] + sum(lengths[i] for i in rows) for group, rows in rows_of.items()}
    mean = sum(sizes.values()) / bins
    parts: list[tuple[int, list[int]]] = []
    for group, rows in rows_of.items():
        # A split repeats the prompt, so only a group well above the mean is worth splitting.
        pieces = min(round(sizes[group] / mean), len(rows)) if sizes[group] > 1.5 * mean else 1
        parts += [(prompts[group] + sum(lengths[i] for i in piece), piece) for piece in _split(rows, lengths, pieces)]
    filled: list[list[int]] = [[] for _ in range(bins)]
    tokens_in = [0] * bins
    for tokens, rows in sorted(parts, key=lambda part: (-part[0], part[1])):
        emptiest = tokens_in.index(min(tokens_in))
        filled[emptiest] += rows
        tokens_in[emptiest] += tokens
    return filled


def _split(rows: list[int], lengths: list[int], pieces: int) -> list[list[int]]:
    """Split a group into pieces of about equal token counts, longest completions first."""
    cut: list[list[int]] = [[] for _ in range(pieces)]
    for i in sorted(rows, key=lambda i: (-lengths[i], i)):
        min(cut, key=lambda piece: (sum(lengths[j] for j in piece), len(piece))).append(i)
    return [sorted(piece) for piece in cut]
