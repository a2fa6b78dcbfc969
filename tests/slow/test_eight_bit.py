"""An optimizer with states of eight bits, named in YAML, from a package that may not be there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS

from lit_g2rpo.cli.trainer import TrainerCLI

OVERLAY = """
model:
  optimizer:
    class_path: bitsandbytes.optim.AdamW8bit
    init_args:
      lr: 2.0e-3
      betas: [0.9, 0.99]
      weight_decay: 0.01
"""


class Built(TrainerCLI):
    """Build the model from the configuration, and run nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


def train(optimizer: torch.optim.Optimizer, layer: torch.nn.Linear) -> list[float]:
    torch.manual_seed(1)
    inputs, targets = torch.randn(64, layer.in_features), torch.randn(64, layer.out_features)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def layer() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(128, 128)


def test_eight_bit_states_by_yaml_learn_like_full_ones(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    (tmp_path / "eight_bit.yaml").write_text(OVERLAY)
    cli = Built("fit", ["--config", str(CONFIGS / "g2rpo.yaml"), "--config", str(tmp_path / "eight_bit.yaml")])
    first, second = layer(), layer()
    optimizer: Any = cli.model.optimizer([{"params": list(first.parameters())}])
    losses = train(optimizer, first)
    plain = torch.optim.AdamW(second.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    torch.testing.assert_close(losses, train(plain, second), rtol=5e-3, atol=0)
    assert losses[-1] < 0.8 * losses[0]
    state = optimizer.state[first.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    # A checkpoint is read with weights_only, so that states must be plain tensors.
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    restored = cli.model.optimizer([{"params": list(first.parameters())}])
    restored.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    torch.testing.assert_close(restored.state[first.weight]["state1"], state["state1"])
