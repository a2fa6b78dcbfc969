"""Paths in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
CONFIGS = ROOT / "configs"
WEIGHTS = ROOT / "lit_g2rpo" / "mini" / "weights"
# next to the checkout; tests that need it are skipped if it is missing
RELEASED = ROOT.parent / "shared" / "data" / "openvlthinker_v2_sample_train.json"
CASES = ROOT.parent / "shared" / "cases"
