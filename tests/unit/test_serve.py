"""``serve``: the flags of a recipe, and who may reach the server."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.paths import CONFIGS, WEIGHTS

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.verbs.serve import loopback, reachable
from lit_g2rpo.rollout.vllm.server.command import server_command

RECIPE = ["serve", "--config", str(CONFIGS / "g2rpo.yaml"), "--dry_run", "true"]


@pytest.fixture(autouse=True)
def _nothing_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    # what a process settles once
    monkeypatch.setattr("lit_g2rpo.cli.quiet.apply", lambda: None)
    monkeypatch.setattr("lit_g2rpo.hardware.parent.end_with_first_rank", lambda: None)


def test_a_recipe_becomes_a_command_and_says_how_to_use_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "secret")
    own = ["--port", "8001", "--api_key_env", "OURS", "--vllm=--block-size 32", "--model.rollout.max_rows", "64"]
    assert main([*RECIPE, *own, "--trainer.precision", "bf16-mixed"]) == 0
    command, use = capsys.readouterr().out.splitlines()[-2:]
    words = shlex.split(command)
    assert "VLLM_SERVER_DEV_MODE=1" in words
    assert "secret" not in command
    given = dict(pairwise(words))
    assert {name: given[name] for name in ("--model", "--host", "--port", "--dtype", "--max-num-seqs")} == {
        "--model": str(WEIGHTS),
        "--host": "127.0.0.1",
        "--port": "8001",
        "--dtype": "bfloat16",
        "--max-num-seqs": "64",
    }
    # as many as the embedded policy has positions for
    assert given["--max-model-len"] == "1024"
    assert given["--logits-processors"] == "lit_g2rpo.rollout.vllm.processor:CounterDraw"
    assert given["--kv-cache-memory-bytes"] == str(2**30)
    assert given["--weight-transfer-config"] == '{"backend": "lit_g2rpo"}'
    assert {
        "--no-mm-device-do-normalize",
        "--enable-scale-out",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
    } <= set(words)
    assert words[-2:] == ["--block-size", "32"]
    assert use.startswith("once it is up: python -m lit_g2rpo fit --config ")
    assert use.endswith(
        "--model.rollout.max_rows 64 --trainer.precision bf16-mixed --model.rollout.engine vllm_server "
        "--model.rollout.engine_options.urls '[http://127.0.0.1:8001]' "
        "--model.rollout.engine_options.api_key_env OURS"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, who could change the weights; give a key"),
        (["--api_key_env", "NOWHERE"], "--api_key_env is 'NOWHERE', which the environment lacks"),
    ],
)
def test_a_server_that_would_be_open_is_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RECIPE, *words]) == 2
    assert reason in capsys.readouterr().err


def test_vllm_is_asked_for_before_anything_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(RECIPE[:3]) == 2
    assert "serve, but vLLM is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "own", "name"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("localhost", True, "localhost"),
        ("::1", True, "[::1]"),
        ("10.0.0.7", False, "10.0.0.7"),
    ],
)
def test_addresses(host: str, own: bool, name: str) -> None:
    assert loopback(host) is own
    assert reachable(host) == name


def test_settings_become_flags() -> None:
    words = server_command("m", {"a_b": True, "c": False, "d": [1, 2], "e": {"f": 1}}, "h", 1, ["--last"])
    assert words[-8:] == ["--a-b", "--no-c", "--d", "1", "2", "--e", '{"f": 1}', "--last"]
