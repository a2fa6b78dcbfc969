"""Rewards of the user's in processes of their own: calls that hang, crash or reach for the trainer cost one score."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.processes import Commands, alive, children_seconds, eventually, read_until
from PIL import Image

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import RewardConfig
from lit_g2rpo.rewards.running import isolated
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.isolated import IsolatedReward
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.outcome import Failure
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.rewards.running.user import UserReward

EXAMPLE = ROOT / "examples" / "custom_reward.py"
ROW = {"problem": "2+3?", "problem_type": "math", "answer": "<answer>5</answer>", "data_source": "sums", "level": 3}

BAD = """
import asyncio, ctypes, os, re, signal, subprocess, sys, time
def bad(word):
    if word == "regex":
        re.match(r"(a+)+$", "a" * 40 + "b")
    if word == "power":
        len(str(9 ** 9 ** 9))
    if word == "loop":
        while True:
            pass
    if word == "wait":
        time.sleep(10_000)
    if word == "child":
        subprocess.run(["sleep", "10000"])
    if word == "leave":
        os._exit(3)
    if word == "crash":
        ctypes.string_at(0)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "exit":
        sys.exit(1)
    if word == "raise":
        raise ValueError("a fault")
    if word == "close":
        os.closerange(3, 256)
        time.sleep(10_000)
    if word == "take":
        taken = []
        while True:
            taken.append(bytearray(2**26))
    return {"nan": float("nan"), "high": 2.0, "text": "x", "odd": object(), "none": None}.get(word, 0.5)
"""
FORMS = {
    "one": "def f(completion, sample):\n    return bad(completion)",
    "batch": "def f(completions, **columns):\n    return [bad(c) for c in completions]",
    "awaited": "async def f(completion, sample):\n    await asyncio.sleep(0)\n    return bad(completion)",
    "awaited batch": "async def f(completions):\n    return [bad(c) for c in completions]",
}
CODES = {
    "regex": "timeout", "power": "timeout", "loop": "timeout", "leave": "crashed", "crash": "crashed",
    "kill": "crashed", "exit": "SystemExit", "raise": "ValueError", "take": "MemoryError", "nan": "not_finite",
    "high": "out_of_range", "text": "bad_value", "odd": "bad_value",
}  # fmt: skip


def batch(*completions: str, **rest: Any) -> Batch:
    return Batch(completions, [ROW] * len(completions), ["t"] * len(completions), **rest)


def totals(outcomes: list[Any]) -> list[Any]:
    return [one.code if isinstance(one, Failure) else one.total for one in outcomes]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., IsolatedReward]]:
    made: list[IsolatedReward] = []
    monkeypatch.setattr(isolated, "GRACE_SECONDS", 1.0)

    def build(source: str, seconds: float = 1.0, memory: int = 1024) -> IsolatedReward:
        path = tmp_path / f"mine{len(made)}.py"
        path.write_text(textwrap.dedent(source))
        limits = Limits(user_seconds=seconds, user_memory=memory)
        made.append(IsolatedReward(f"{path}:f", RewardConfig(), limits, "data.tasks.t.reward"))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.mark.filterwarnings("ignore:reward .* gave no value")
@pytest.mark.parametrize("form", FORMS)
def test_what_goes_wrong_costs_one_completion(form: str, make: Callable[..., IsolatedReward]) -> None:
    reward = make(BAD + FORMS[form], memory=400)
    # the quick ones in one batch, so that what follows each of them is scored
    quick = [word for word, code in CODES.items() if code != "timeout"]
    words = [part for word in quick for part in ("good", word)] + ["good"]
    assert totals(reward(batch(*words))) == [CODES.get(word, 0.5) for word in words]
    used = children_seconds()
    for word in ("regex", "power", "loop"):
        assert totals(reward(batch("good", word, "good"))) == [0.5, "timeout", 0.5]
    reward.close()
    assert children_seconds() - used < 60, "they are ended, and used no more than a few seconds of the machine"


@pytest.mark.filterwarnings("ignore:reward .* gave no value")
@pytest.mark.parametrize("word", ["wait", "child", "close"])
def test_a_call_that_waits_for_ever_is_ended_by_the_clock(word: str, make: Callable[..., IsolatedReward]) -> None:
    reward = make(BAD + FORMS["one"], seconds=0.2)
    assert totals(reward(batch("good", word, "good"))) == [0.5, "timeout", 0.5]


def test_how_a_process_ended_is_said(make: Callable[..., IsolatedReward]) -> None:
    reward = make(BAD + FORMS["one"])
    messages = [outcome.message for outcome in reward(batch("leave", "crash", "kill"))]
    assert messages == [
        "its process ended (exit code 3)", "its process ended (SIGSEGV)",
        "its process ended (SIGKILL, out of memory?)",
    ]  # fmt: skip
    assert reward.restarts == 6, "each is tried once more, since it may have been killed from outside"


FORKS = """
import os, time
def bad(word):
    if word == "fork":
        # both return; the child's value comes first
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return 1.0 if child else 0.0
    if word == "behind":
        if not os.fork():
            time.sleep(600)
        os._exit(4)
    if word == "shell":
        os.system("sleep 600 &")
        os._exit(4)
    return 0.5
"""


@pytest.mark.parametrize("form", ["one", "batch"])
def test_what_a_reward_starts_neither_answers_nor_hides_its_end(form: str, make: Callable[..., IsolatedReward]) -> None:
    reward = make(FORKS + FORMS[form], seconds=20.0)
    for _ in range(2):
        assert totals(reward(batch("good", "fork", "good"))) == [0.5, 1.0, 0.5]
    # at once, and not when the time by the clock is over
    assert totals(reward(batch("good", "behind", "good", "shell"))) == [0.5, "crashed", 0.5, "crashed"]


@pytest.mark.parametrize("full", [False, True])
def test_a_print_that_goes_nowhere_is_no_failure(full: bool, make: Callable[..., IsolatedReward]) -> None:
    before = os.dup(2)
    if full:
        theirs = os.open("/dev/full", os.O_WRONLY)
    else:
        ours, theirs = os.pipe()
        os.close(ours)
    os.dup2(theirs, 2)
    try:
        reward = make("def f(completion, sample):\n    print(completion, flush=True)\n    return 0.5")
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(theirs)
    assert totals(reward(batch("a", "b"))) == [0.5, 0.5]


@pytest.mark.parametrize("raised", ["Odd()", "Odd(Odd())"])
def test_an_exception_that_cannot_be_shown_is_a_failure(raised: str, make: Callable[..., IsolatedReward]) -> None:
    source = f"""
        class Odd(Exception):
            def __str__(self):
                raise self
        def f(completion, sample):
            raise {raised}
    """
    reward = make(source)
    here = UserReward(reward.name, RewardConfig())
    for one in (reward, here):
        assert totals(one(batch("a"))) == ["Odd"]
    assert reward.restarts == 0


def test_a_process_that_was_killed_from_outside_costs_nothing(make: Callable[..., IsolatedReward]) -> None:
    reward = make("def f(completion, sample):\n    return 0.5")
    assert reward._process
    os.kill(reward._process.process.pid, signal.SIGKILL)
    assert totals(reward(batch("a", "b"))) == [0.5, 0.5]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        os.kill(reward._process.process.pid, number)
        assert totals(reward(batch("a"))) == [0.5]
    assert reward.restarts == 1, "signals that schedulers send to a whole job do not reach a reward"


def test_a_function_that_always_hangs_is_given_up(
    make: Callable[..., IsolatedReward], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "PATIENCE", 2)
    reward = make(BAD + FORMS["one"], seconds=0.3)
    with pytest.warns(UserWarning, match=r"gave no value within 0\.3 s of CPU time: its process is ended"):
        outcomes = reward(batch("loop", "good", "loop", "loop", "loop", "good"))
    assert totals(outcomes) == ["timeout", 0.5, *["timeout"] * 4]
    assert "not tried" in outcomes[-1].message
    assert totals(reward(batch("good"))) == [0.5], "another batch is tried again"


def test_the_same_scores_as_in_this_process(make: Callable[..., IsolatedReward]) -> None:
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    rows = [{**ROW, "image": image, "count": np.int64(3), "raw": b"bytes", "nested": {"a": [1, None]}}] * 3
    full = Batch(
        ["<thinking>r</thinking><answer>5</answer>", "5", ""], rows, ["sums"] * 3, ["p"] * 3,
        [[1, 2], [3], []], [[image]] * 3,
    )  # fmt: skip
    for name in ("short_and_right", "looked_up", "contains_solution", "compute_score", "overall"):
        path = f"{EXAMPLE}:{name}"
        one = IsolatedReward(path, RewardConfig(), Limits())
        assert one(full) == UserReward(path, RewardConfig())(full)
        one.close()
    reward = make(
        """
        def f(completion, sample, *, task, prompt, token_ids, images):
            assert images[0].size == (20, 10) and sample["image"].size == (20, 10) and sample["raw"] == b"bytes"
            return {"total": 0.1 * len(token_ids), "third": 1 / 3}
        """
    )
    assert [one.total for one in reward(full)] == [0.2, 0.1, 0.0]
    assert reward(full)[0].components["third"] == 1 / 3


def test_nothing_of_the_trainer_is_touched(
    make: Callable[..., IsolatedReward], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reward = make(
        """
        import os, signal, sys, threading
        os.chdir("/")
        os.environ["TOUCHED"] = "1"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        calls = 0
        def f(completion, sample):
            global calls
            calls += 1
            print("a word", calls)
            signal.alarm(1000)
            assert threading.current_thread() is threading.main_thread()
            return 0.1 * calls
        """
    )
    before = signal.getsignal(signal.SIGTERM)
    assert totals(reward(batch("a", "b"))) == [0.1, 0.2]
    assert totals(reward(batch("c"))) == [pytest.approx(0.3)], "its module is loaded once"
    assert (Path.cwd(), signal.getsignal(signal.SIGTERM)) == (tmp_path, before)
    assert "TOUCHED" not in os.environ
    said = capfd.readouterr()
    assert (said.out, "a word 3" in said.err) == ("", True)


def test_asynchronous_calls_wait_together(make: Callable[..., IsolatedReward]) -> None:
    reward = make(
        """
        import asyncio
        everyone = asyncio.Barrier(20)
        async def f(completion, sample):
            await everyone.wait()
            return 1.0
        """,
        seconds=60.0,
    )
    assert totals(reward(batch(*"abcdefghijklmnopqrst"))) == [1.0] * 20


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", r"^data\.tasks\.t\.reward is '.*mine0\.py:f', whose module cannot be imported \(ZeroDivisionError"),
        ("def f(text): pass", r"^data\.tasks\.t\.reward: .*f\(text\) fits none of the accepted signatures"),
        (
            "import os\nos._exit(4)",
            r"^data\.tasks\.t\.reward is .*cannot be imported \(its process ended \(exit code 4",
        ),
        ("import sys\nsys.exit('bye')", r"^data\.tasks\.t\.reward: its module ends the process \(SystemExit\)$"),
    ],
)
def test_mistakes_are_found_at_the_start(source: str, said: str, make: Callable[..., IsolatedReward]) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make(source)
    assert "\n" not in str(caught.value)


def test_mistakes_that_rows_show(make: Callable[..., IsolatedReward]) -> None:
    reward = make("def f(completions, shape):\n    return [0.0]")
    with pytest.raises(UserError, match=r"asks for the column 'shape', which no row has"):
        reward(batch("5"))
    reward = make("def f(completion, sample):\n    return 0.5")
    with pytest.raises(
        UserError, match=r"a row cannot be sent to its process \(.*; keep rows to plain data, or set in_"
    ):
        reward(Batch(["c"], [{**ROW, "lock": lambda: 0}], ["t"]))
    assert totals(reward(batch("5"))) == [0.5]


def test_it_starts_again_where_it_started_first(
    make: Callable[..., IsolatedReward], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.py").write_text("def f(completion, sample):\n    return 0.5\n")
    reward = IsolatedReward("here.py:f", RewardConfig(), Limits())
    monkeypatch.chdir("/")
    reward.close()
    assert totals(reward(batch("a"))) == [0.5]
    reward.close()


def test_rules_of_problem_types_from_outside_are_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = "from lit_g2rpo.rewards import ProblemType\n"
    rule += "def rule(answer, gold, row, config):\n    return {'good': 0.5, 'high': 2.0}.get(answer) or bad(answer)\n"
    rule += "KIND = ProblemType(rule=rule, answer_form='<answer>good</answer>', gold_form='a word')\n"
    (tmp_path / "outside_rules.py").write_text(BAD + rule)
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = Scorer(limits=Limits(user_seconds=0.5), failures_file=tmp_path / "failures.jsonl")
    words = ["good", "raise", "leave", "good", "high"]
    row = {"problem": "p", "problem_type": "outside_rules.KIND", "answer": "good"}
    letter = {"problem": "?", "problem_type": "multiple choice", "options": ["A. a", "B. b"], "answer": "B"}
    texts = [f"<thinking>r</thinking><answer>{word}</answer>" for word in [*words, "B"]]
    results = scorer.score(Batch(texts, [row] * 5 + [letter], ["t"] * 6))
    with pytest.warns(UserWarning, match="gave no value"):
        (late,) = scorer.score(Batch([texts[0].replace("good", "regex")], [row], ["t"]))
    scorer.close()
    codes = [None, "ValueError", "crashed", None, "out_of_range", None, "timeout"]
    assert [result.error for result in [*results, late]] == codes
    assert [result.failure is None for result in [*results, late]] == [code is None for code in codes]
    assert [result.accuracy for result in results] == [0.5, 0, 0, 0.5, 0, 1.0]
    assert (scorer.failures, scorer.recent) == (4, (4, 6))
    assert ", in bad\\n    raise ValueError" in (tmp_path / "failures.jsonl").read_text()


PARENT = """
import sys
from lit_g2rpo.rewards import RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.isolated import IsolatedReward
from lit_g2rpo.rewards.running.limits import Limits
reward = IsolatedReward(sys.argv[1], RewardConfig(), Limits(user_seconds=1))
print("pid", reward._process.process.pid, flush=True)
reward(Batch([sys.argv[2]], [{}], ["t"]))
"""


@pytest.mark.parametrize("word", ["regex", "wait"])
def test_no_process_outlives_its_trainer(word: str, tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "mine.py").write_text(BAD + FORMS["one"])
    parent = commands.start(sys.executable, "-c", PARENT, "mine.py:f", word, stderr=subprocess.STDOUT)
    pid = int(read_until(parent.stdout, "pid").rpartition(" ")[2])
    parent.kill()
    parent.wait()
    eventually(lambda: not alive(pid))
