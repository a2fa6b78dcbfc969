"""Seconds that the phases of a rollout take on one device, from its rates: a floor times what code usually attains."""

from dataclasses import dataclass, replace

from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.planning.devices import Device
from lit_g2rpo.planning.engines import Decoding
from lit_g2rpo.planning.memory import cache_bytes, weight_bytes
from lit_g2rpo.planning.simulation import Phantom

BANDWIDTH = 0.7
"""Share of a device's memory bandwidth that decoding attains while it reads weights, keys and values: an assumption."""
ARITHMETIC = 0.45
"""Share of a device's arithmetic that forward and backward attain: an assumption."""
LINK = 0.7
"""Share of the link between devices that collectives attain: an assumption."""
HOST = 25e9
"""Bytes per second between a device and the host's memory, PCIe 4 x16: an assumption."""


@dataclass(slots=True, frozen=True)
class Work:
    """What one device does in a rollout.

    Args:
        prompts: prompts of this rank.
        group_size: completions per prompt.
        prompt_tokens: mean tokens of a prompt, images included.
        image_patches: mean patches of a prompt's images.
        completion_tokens: mean tokens of a completion.
        longest: most tokens of a completion.
        epochs: passes over the rollout.
        passes: micro-batches per rank and epoch.
        forwards: forwards without a gradient, for old and reference log-probabilities.
    """

    prompts: int
    group_size: int
    prompt_tokens: float
    image_patches: float
    completion_tokens: float
    longest: int
    epochs: int
    passes: int
    forwards: int

    @property
    def rows(self) -> int:
        """Number of completions."""
        return self.prompts * self.group_size

    @property
    def sampled(self) -> float:
        """Number of sampled tokens."""
        return self.rows * self.completion_tokens

    @property
    def context(self) -> float:
        """Mean number of tokens that a sampled token sees."""
        return self.prompt_tokens + self.completion_tokens / 2


@dataclass(slots=True, frozen=True)
class Phase:
    """A phase of a rollout.

    Args:
        name: name of the phase.
        seconds: its time.
        how: what it does, in numbers.
    """

    name: str
    seconds: float
    how: str


class Costs:
    """Operations and bytes of a policy on a device.

    Args:
        recomputed: True if the backward runs the forward of each layer again.
    """

    def __init__(self, phantom: Phantom, sharding: Sharding, device: Device, recomputed: bool) -> None:
        backbone = phantom.backbone
        self.sharding, self.device = sharding, device
        self.text = backbone.text.config
        self.layers = sum(weight.numel() for weight in backbone.layers.parameters())
        self.head = backbone.head.numel()
        self.tower = sum(weight.numel() for weight in backbone.family.tower(backbone.model).parameters())
        self.tower_learns = backbone.tower_learns
        self.weights, self.cache = weight_bytes(phantom, computing=True), cache_bytes(phantom)
        self.width = self.weights / sum(weight.numel() for weight in phantom.parameters.values())
        # a backward is two forwards, or one if the weights do not learn
        frozen = sum(w.numel() for w in phantom.learning) < 0.5 * self.layers
        self.backward = (1 if frozen else 2) + recomputed
        self.learning = sum(weight.numel() for weight in phantom.learning)

    def forward(self, work: Work) -> float:
        """Operations of the text model on prompts and completions, each prompt once per group, with the head."""
        tokens = work.prompts * work.prompt_tokens + work.sampled
        pairs = work.prompts * work.prompt_tokens**2 / 2 + work.sampled * work.context
        return 2 * self.layers * tokens + self.attention(pairs) + 2 * self.head * work.sampled

    def reading(self, work: Work) -> float:
        """Operations of the text model on the prompts."""
        pairs = work.prompts * work.prompt_tokens**2 / 2
        return 2 * self.layers * work.prompts * work.prompt_tokens + self.attention(pairs)

    def images(self, work: Work) -> float:
        """Operations of the vision tower on the images of all prompts, each once."""
        return 2 * self.tower * work.prompts * work.image_patches

    def attention(self, pairs: float) -> float:
        """Operations of attention between pairs of tokens."""
        text = self.text
        return 4 * pairs * float(text.num_hidden_layers * text.num_attention_heads * text.head_dim)

    def computed(self, operations: float) -> float:
        """Seconds of matrix products."""
        return operations / (ARITHMETIC * self.device.flops)

    def gathered(self, count: int) -> float:
        """Seconds to gather all weights from the other ranks a number of times; 0 if every rank has them."""
        if not self.sharding.weights:
            return 0.0
        share = (self.sharding.ranks - 1) / self.sharding.ranks
        return count * share * self.weights / (LINK * self.device.link)


def phases(costs: Costs, work: Work, decoding: Decoding) -> list[Phase]:
    """Estimate the phases of a rollout.

    Args:
        decoding: how the engine decodes.
    """
    device, sampled = costs.device, replace(work, prompts=decoding.prompts)
    read = costs.computed(costs.reading(sampled) + costs.images(sampled)) / decoding.devices
    steps, seconds = decoded(costs, sampled, decoding)
    each = f"{decoding.rows} rows at a time, {steps:,.0f} steps of {1000 * seconds / steps:.1f} ms"
    found = [
        Phase("reading prompts", read, f"{sampled.prompts} prompts of {work.prompt_tokens:,.0f} tokens"),
        Phase("decoding", seconds, each),
    ]
    push, ways = costs.gathered(1), ["gathered from the ranks"] if costs.sharding.weights else []
    if decoding.pushed:
        rate = BANDWIDTH * device.bandwidth if decoding.pushed == "device" else LINK * min(device.link, HOST)
        push += 2 * costs.weights / rate
        ways.append("copied on the device" if decoding.pushed == "device" else "written to the host's memory and read")
    if push:
        found.append(Phase("weights to the engine", push, f"{costs.weights / 2**30:.1f} GiB, " + " and ".join(ways)))
    forward, passes = costs.forward(work), work.passes
    tower = costs.images(work) if costs.tower_learns else 0.0
    tokens = work.prompts * work.prompt_tokens + work.sampled
    if work.forwards:
        compute = costs.computed(work.forwards * (forward + tower))
        found.append(
            Phase("log-probabilities", max(compute, costs.gathered(work.forwards * passes)), f"{tokens:,.0f} tokens")
        )
    compute = costs.computed(work.epochs * (1 + costs.backward) * (forward + tower))
    # a gathering in each forward, backward and recomputation, and the gradients once
    moved = costs.gathered(work.epochs * passes * 3)
    what = f"{tokens:,.0f} tokens in {passes} micro-batches" + (f", {work.epochs} times" if work.epochs > 1 else "")
    found.append(Phase("learning", max(compute, moved), what))
    return found


def decoded(costs: Costs, work: Work, decoding: Decoding) -> tuple[float, float]:
    """Count the steps of decoding, in each batch of which one completion reaches the limit, and their seconds."""
    device = costs.device
    batches = -(-work.rows // decoding.batch)
    of_batch = work.rows / batches
    steps = batches * (work.longest + max(of_batch / decoding.rows - 1, 0) * work.completion_tokens)
    read = costs.width * (costs.layers + costs.head) * steps
    seen = work.completion_tokens / 2
    if decoding.shares_prompts:
        held = of_batch / work.group_size
        read += costs.cache * (steps * held * work.prompt_tokens + work.sampled * seen)
    else:
        read += costs.cache * work.sampled * (work.prompt_tokens + seen)
    operations = 2 * (costs.layers + costs.head) * work.sampled + costs.attention(work.sampled * work.context)
    started = steps * costs.text.num_hidden_layers * decoding.kernels * device.call
    moved, computed = read / (BANDWIDTH * device.bandwidth), costs.computed(operations)
    return steps, started + max(moved, computed) / decoding.devices
