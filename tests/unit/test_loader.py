"""The training loader and the evaluation batches, without Lightning."""

import logging
import threading
from types import SimpleNamespace

import pytest

from lit_g2rpo.data.evaluation_batches import ShardedBatches
from lit_g2rpo.data.loader import RolloutLoader
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.data.order.mixture import Mixture
from lit_g2rpo.data.order.sampler import shard
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt


class Rows:
    """Rows of two tasks; those in ``broken`` do not open."""

    def __init__(self, size: int = 20, broken: frozenset[int] = frozenset()) -> None:
        self.size, self.broken = size, broken
        self.opened: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return self.size

    def task_names(self) -> list[str]:
        return ["ab"[i % 2] for i in range(self.size)]

    def __getitem__(self, index: int) -> Prompt:
        self.opened.append((index, threading.current_thread().name))
        if index in self.broken:
            raise ImageError(f"file.json, row {index + 1}: cut off")
        return Prompt(str(index), "ab"[index % 2], "math", [], [], {})


def loader(rows: Rows | None = None, **sizes: object) -> RolloutLoader:
    defaults: dict[str, object] = {"prompts": 4, "microbatches": 3, "rollouts_per_epoch": 2, "seed": 5}
    return RolloutLoader(rows or Rows(), **(defaults | sizes))  # type: ignore[arg-type]


def flat(batches: object) -> list[tuple[list[str], int]]:
    return [([prompt.id for prompt in prompts], k) for prompts, k in batches]  # type: ignore[attr-defined]


def test_each_rollout_is_repeated() -> None:
    batches = list(loader())
    assert len(batches) == len(loader()) == 6
    assert [k for _, k in batches] == [0, 1, 2, 0, 1, 2]
    assert batches[0][0] is batches[1][0] is batches[2][0]
    assert batches[0][0] is not batches[3][0]
    assert {prompt.task for prompt in batches[0][0][:2]} == {prompt.task for prompt in batches[0][0][2:]} == {"a", "b"}


def test_epochs_go_on_where_the_last_one_stopped() -> None:
    one, long = loader(), loader(rollouts_per_epoch=6)
    assert flat(one) + flat(one) + flat(one) == flat(long)


@pytest.mark.parametrize("cut", range(13))
def test_a_state_taken_after_any_batch_continues(cut: int) -> None:
    whole = flat(loader(rollouts_per_epoch=8))
    first = loader()
    seen = []
    while len(seen) < cut:
        for batch in first:
            seen += flat([batch])
            if len(seen) == cut:
                break
    second = loader()
    second.load_state_dict(first.state_dict())
    assert seen + flat(second) == whole[: cut + 6]
    assert second.drawn == -(-(cut + 6) // 3) * 4


def test_a_state_inside_a_rollout_needs_the_same_microbatches() -> None:
    first = loader()
    next(iter(first))
    with pytest.raises(UserError, match=r"3 micro-batches.*is 4"):
        loader(microbatches=4).load_state_dict(first.state_dict())


def test_loading_a_state_moves_an_iterator_that_is_under_way() -> None:
    first, second = loader(), loader()
    batches = iter(second)
    next(batches)
    list(first)
    second.load_state_dict(first.state_dict())
    assert flat([next(batches)]) == flat(loader(rollouts_per_epoch=3))[6:7]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_a_rollout(world_size: int) -> None:
    ranks = [flat(loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for parts, (together, k) in zip(zip(*ranks, strict=True), flat(loader()), strict=True):
        assert [id for ids in zip(*(ids for ids, _ in parts), strict=True) for id in ids] == together
        assert {part for _, part in parts} == {k}
    assert shard(range(12), 1, 3) == [1, 4, 7, 10]


def test_the_first_ranks_have_a_prompt_more_where_the_ranks_do_not_divide_a_rollout() -> None:
    ranks = [flat(loader(prompts=6, rank=rank, world_size=4)) for rank in range(4)]
    for parts, (together, _) in zip(zip(*ranks, strict=True), flat(loader(prompts=6)), strict=True):
        shares = [ids for ids, _ in parts]
        assert [len(ids) for ids in shares] == [2, 2, 1, 1]
        assert [ids[0] for ids in shares] + [ids[1] for ids in shares[:2]] == together


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"rollout.prompts is 3; give at least 4, a prompt for each rank"):
        loader(prompts=3, world_size=4)
    with pytest.raises(UserError, match=r"rollout.prompts is 0"):
        loader(prompts=0)


def test_the_next_rollout_is_opened_in_a_thread() -> None:
    rows = Rows()
    one = loader(rows)
    list(one)
    order = one.sampler.stream.rows(0, 8)
    assert [row for row, _ in rows.opened[:8]] == order
    assert all(name.startswith("prompts") for _, name in rows.opened[4:])
    assert not any(name.startswith("prompts") for _, name in rows.opened[:4])


@pytest.mark.parametrize("microbatches", [1, 3])
def test_the_prompts_of_the_next_rollout_are_known_early(microbatches: int) -> None:
    one = loader(microbatches=microbatches, rollouts_per_epoch=4)
    told, came = [], []
    for prompts, k in one:
        if k == 0:
            if microbatches == 3:
                # more prompts for this rollout are not those of the next one
                one.refill(["a", "b"], [0])
            came.append(prompts)
            told.append(one.ahead())
    assert all(early is late for early, late in zip(told, came[1:], strict=False))
    assert flat((prompts, 0) for prompts in came[:2]) == flat(loader(microbatches=1))[:2]


def test_a_broken_row_is_replaced_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sound = flat(loader(rollouts_per_epoch=1))
    broken = int(sound[0][0][1])
    replacement = str((broken + 2) % 20)
    one = loader(Rows(broken=frozenset({broken})), rollouts_per_epoch=1)
    expected = [replacement if id == str(broken) else id for id in sound[0][0]]
    assert flat(one) == [(expected, k) for k in range(3)]
    assert (one.drawn, one.failures) == (5, 1)
    assert [record.getMessage() for record in caplog.records] == [f"row replaced: file.json, row {broken + 1}: cut off"]


def test_replacement_skips_rows_that_are_broken_too() -> None:
    one = loader(Rows(broken=frozenset(range(0, 18, 2))), rollouts_per_epoch=1)
    prompts, _ = next(iter(one))
    assert {prompt.id for prompt in prompts if prompt.task == "a"} == {"18"}
    assert one.failures > 1


def test_a_resumed_rollout_is_not_counted_twice() -> None:
    rows = Rows(broken=frozenset({0}))
    straight = loader(rows, rollouts_per_epoch=10)
    list(straight)
    resumed = loader(rows, rollouts_per_epoch=10)
    batches = iter(straight_again := loader(rows, rollouts_per_epoch=10))
    for _ in range(13):
        next(batches)
    resumed.load_state_dict(straight_again.state_dict())
    for _, _ in zip(range(17), resumed, strict=False):
        pass
    assert (resumed.drawn, resumed.failures) == (straight.drawn, straight.failures)


def test_too_many_failures_stop_the_run() -> None:
    rows = Rows(200, broken=frozenset(range(0, 200, 20)))
    sized = {"prompts": 20, "microbatches": 1, "rollouts_per_epoch": 20}
    with pytest.raises(UserError, match=r"of 1\d\d rows failed to open, more than data.max_failure_rate 0.01"):
        list(loader(rows, **sized))
    tolerant = loader(rows, **sized, max_failure_rate=0.5)
    list(tolerant)
    assert tolerant.failures > 10


def test_a_task_without_any_row_that_opens() -> None:
    with pytest.raises(UserError, match=r"no row of task a can be used; the last reason: file.json, row"):
        next(iter(loader(Rows(broken=frozenset(range(0, 20, 2))))))


@pytest.mark.parametrize(
    ("size", "batch_size", "world_size"), [(10, 4, 1), (10, 4, 3), (2, 4, 3), (12, 2, 4), (7, 3, 2)]
)
def test_evaluation_counts_every_row_once(size: int, batch_size: int, world_size: int) -> None:
    ranks = [list(ShardedBatches(Rows(size), batch_size, rank, world_size)) for rank in range(world_size)]
    assert len({tuple(len(prompts) for prompts, _ in batches) for batches in ranks}) == 1
    assert len(ranks[0]) == len(ShardedBatches(Rows(size), batch_size, 0, world_size))
    counted = [
        (number, int(prompt.id))
        for batches in ranks
        for prompts, numbers in batches
        for prompt, number in zip(prompts, numbers, strict=True)
        if number is not None
    ]
    assert sorted(counted) == [(i, i) for i in range(size)]


def test_evaluation_leaves_a_broken_row_out(caplog: pytest.LogCaptureFixture) -> None:
    batches = ShardedBatches(Rows(4, frozenset({1})), 4)
    for _ in range(2):
        [(prompts, numbers)] = batches
        assert [prompt.id for prompt in prompts] == ["0", "2", "2", "3"]
        assert numbers == [0, None, 2, 3]
        assert batches.failures == 1
    assert caplog.messages == ["row left out of the evaluation: file.json, row 2: cut off"] * 2
    with pytest.raises(UserError, match="no evaluation row"):
        list(ShardedBatches(Rows(3, frozenset({0, 1, 2})), 4))


def test_evaluation_needs_rows_and_a_size() -> None:
    with pytest.raises(UserError, match="no rows"):
        ShardedBatches(Rows(0), 4)
    with pytest.raises(UserError, match="val_batch_size is 0"):
        ShardedBatches(Rows(3), 0)


def test_evaluation_of_the_first_rows_and_of_those_not_done() -> None:
    def numbers(**options: object) -> list[list[int]]:
        ranks = [list(ShardedBatches(Rows(10), 2, rank, 2, **options)) for rank in range(2)]  # type: ignore[arg-type]
        assert len({tuple(len(prompts) for prompts, _ in batches) for batches in ranks}) == 1
        return [[n for _, rows in batches for n in rows if n is not None] for batches in ranks]

    assert numbers(limit=5) == [[0, 2, 4], [1, 3]]
    assert numbers(limit=50) == numbers()
    assert numbers(limit=7, done={0, 3}) == [[1, 4, 6], [2, 5]]
    assert numbers(done=range(10)) == [[], []]
    with pytest.raises(UserError, match=r"data.limit is 0; it must be at least 1"):
        ShardedBatches(Rows(10), 2, limit=0)


def test_a_broken_row_may_stop_the_run() -> None:
    with pytest.raises(ImageError, match="row 2: cut off"):
        list(ShardedBatches(Rows(4, frozenset({1})), 4, image_errors="raise"))
    with pytest.raises(ImageError, match=r"row \d+: cut off"):
        list(loader(Rows(broken=frozenset(range(10))), image_errors="raise"))


def prepare(prompt: Prompt) -> None:
    """Encode a prompt as so many tokens as its row's number."""
    prompt.encoded = SimpleNamespace(input_ids=range(int(prompt.id)), thread=threading.current_thread().name)


def test_prompts_are_prepared_in_the_thread() -> None:
    batches = list(loader(prepare=prepare))
    assert all(len(prompt.encoded.input_ids) == int(prompt.id) for prompts, _ in batches for prompt in prompts)
    assert all(prompt.encoded.thread.startswith("prompts") for prompt in batches[3][0])


def test_long_prompts_are_refused_or_replaced(caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"prepare": prepare, "max_prompt_tokens": 15, "rollouts_per_epoch": 5, "max_failure_rate": 0.0}
    with pytest.raises(UserError, match=r"row 1\d: its prompt has 1\d tokens .* data.max_prompt_tokens allows 15"):
        list(loader(**sizes))
    one = loader(**sizes, long_prompts="skip")
    seen = [id for ids, k in flat(one) if k == 0 for id in ids]
    assert max(map(int, seen)) <= 15
    assert {int(id) % 2 for id in seen} == {0, 1}
    assert (one.failures, one.drawn) == (0, len(seen) + one.too_long)
    assert one.too_long == sum("its prompt has" in message for message in caplog.messages) > 0
    with pytest.raises(UserError, match=r"no row of task \w can be used; the last reason: row \d+: its prompt has"):
        list(loader(**(sizes | {"max_prompt_tokens": -1}), long_prompts="skip"))


@pytest.mark.parametrize("cut", [0, 1, 4, 5])
def test_refills_are_of_the_task_and_resume_exactly(cut: int) -> None:
    def run(one: RolloutLoader, batches: int) -> list[tuple[list[str], list[str]]]:
        found = []
        for _, (prompts, k) in zip(range(batches), one, strict=False):
            extra = one.refill(["b", "a", "b", "a"], range(4)) if k == 0 else []
            assert [prompt.task for prompt in extra] in ([], ["b", "a", "b", "a"])
            found.append(([prompt.id for prompt in prompts], [prompt.id for prompt in extra]))
        return found

    size = {"rollouts_per_epoch": 4, "prompts": 2}
    whole = run(loader(**size), 12)
    first = loader(**size)
    # the batch after the last one that was taken, as Lightning saves it
    seen = run(first, cut)
    state = first.state_dict()
    second = loader(**size)
    second.load_state_dict(state)
    assert seen + run(second, 12 - cut) == whole
    drawn = [row for prompts, extra in whole[::3] for row in prompts + extra]
    assert len(set(drawn[:20])) == 20


def test_groups_of_one_prompt_are_told_apart() -> None:
    """Completions are seeded by the id: two rows of a task in four groups would be sampled alike, two by two."""

    def ids(rank: int = 0, world_size: int = 1) -> list[list[str]]:
        own = loader(Rows(4), prompts=8, microbatches=1, rank=rank, world_size=world_size)
        rollouts = [[prompt.id for prompt in prompts] for prompts, _ in own]  # the second one is opened ahead
        return [*rollouts, [prompt.id for prompt in own.refill(["a"] * 3, [0, 1, 2])]]

    for rollout in ids()[:2]:
        assert sorted(rollout) == ["0", "0#2", "1", "1#2", "2", "2#2", "3", "3#2"]
    assert sorted(ids()[2]) in (["0", "0#2", "2"], ["0", "2", "2#2"])
    for whole, *shares in zip(ids(), ids(0, 2), ids(1, 2), strict=True):
        if len(whole) == 8:
            assert whole == [id for pair in zip(*shares, strict=True) for id in pair]


def test_a_mixture_reaches_the_rollouts() -> None:
    one = loader(mixture=Mixture(quotas={"a": 3, "b": 1}), microbatches=1)
    assert [sorted(p.task for p in prompts) for prompts, _ in one] == [["a", "a", "a", "b"]] * 2


def test_a_loaded_state_forgets_what_was_opened_ahead() -> None:
    size = {"rollouts_per_epoch": 4, "prompts": 2, "microbatches": 1}
    first, second = loader(**size), loader(**size)
    batches, other = iter(first), iter(second)
    next(batches)
    first.refill(["a", "b"], [0, 1])
    for _ in range(2):
        next(batches)
    for _ in range(3):
        next(other)
    # what first has next lies behind its refills, at the position that second has opened without them
    second.load_state_dict(first.state_dict())
    expected = first.sampler.rows()
    assert [int(prompt.id) for prompt in next(other)[0]] == expected
    assert expected != first.sampler.stream.rows(6, 2)


def test_a_rank_opens_its_own_refills_alone_and_all_agree_on_them() -> None:
    tasks = ["b", "a", "b", "a", "a"]
    whole, first, second = loader(), loader(rank=0, world_size=2), loader(rank=1, world_size=2)
    together = whole.refill(tasks, range(5))
    assert [p.id for p in first.refill(tasks, [0, 3])] == [together[i].id for i in (0, 3)]
    assert [p.id for p in second.refill(tasks, [1, 2, 4])] == [together[i].id for i in (1, 2, 4)]


def test_refills_of_a_rollout_can_be_drawn_again() -> None:
    one = loader()
    waves = [(["a", "b", "a"], [0, 2]), (["b"], []), (["a"], [0])]
    drawn = [[p.id for p in one.refill(tasks, own)] for tasks, own in waves]
    counts = one.state_dict()
    assert [[p.id for p in prompts] for prompts in one.refill_again(waves)] == drawn
    assert one.state_dict() == counts
