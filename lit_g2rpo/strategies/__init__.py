"""Hardware that Lightning does not cover: importing this registers strategies and accelerators under their names."""

from lit_g2rpo.strategies.deepspeed import ShardedPolicyStrategy

__all__ = ["ShardedPolicyStrategy"]
