"""``python -m lit_g2rpo.mini build``: build the embedded policy from scratch."""

import argparse
from pathlib import Path


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m lit_g2rpo.mini", description="The embedded policy.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="train it from nothing: vision, lessons, demonstrations")
    build.add_argument("--output", type=Path, default=Path(__file__).parent / "weights", help="folder of the policy")
    control = verbs.add_parser("control", help="repeat the last stage with flawless demonstrations, for comparison")
    for verb in (build, control):
        verb.add_argument("--work", type=Path, default=Path("runs/mini-build"), help="folder of the stages")
    arguments = parser.parse_args()

    from lit_g2rpo.cli import quiet

    quiet.apply()
    from lit_g2rpo.mini import build as stages

    if arguments.verb == "build":
        metrics = stages.build(arguments.output, arguments.work)
    else:
        metrics = stages.control(arguments.work)
    for name, value in metrics.items():
        if name.startswith("val/accuracy"):
            print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
