"""Hardware that Lightning does not cover: importing this registers strategies and accelerators under their names."""

from lit_g2rpo.strategies.deepspeed import ShardedPolicyStrategy
from lit_g2rpo.strategies.neuron import NeuronAccelerator, NeuronDDPStrategy

__all__ = ["NeuronAccelerator", "NeuronDDPStrategy", "ShardedPolicyStrategy"]
