"""The gate in front of a server: keys, leases, and one push at a time."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from lit_g2rpo.rollout.vllm.server.gate import CLIENT, LEASE, Gate, sizes


class Engine:
    """What is behind the gate, which records what reaches it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.finished = 0
        self.state = SimpleNamespace(args=SimpleNamespace(api_key=["key"]), engine_client=self, server=None)

    async def finish_weight_update(self) -> None:
        self.finished += 1
        raise RuntimeError("no update has been started")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


class Door:
    """A gate and its engine, with requests as methods."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.gate = Gate(self.engine)

    def scope(self, path: str, client: str, key: str, method: str) -> dict[str, Any]:
        path, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {key}".encode()), (CLIENT.encode(), client.encode())]
        asked = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}
        return asked | {"app": self.engine}

    async def ask(self, path: str, client: str = "", key: str = "key", method: str = "POST") -> tuple[int, Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.gate(self.scope(path, client, key, method), receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"] or b"null")

    async def lease(self, run: str, client: str) -> Any:
        """Hold a lease, and return a function that ends it."""
        gone, given = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            given.set()

        scope = self.scope(f"{LEASE}?run={run}&client={client}&name=process+7", client, "key", "GET")
        task = asyncio.ensure_future(self.gate(scope, receive, send))
        await given.wait()

        async def end() -> None:
            gone.set()
            await task

        return end


@pytest.mark.parametrize("path", ["/collective_rpc", "/v1/models", "/lit_g2rpo", "/metrics", LEASE])
def test_every_path_asks_for_the_key(path: str) -> None:
    door = Door()
    assert asyncio.run(door.ask(path, key="guess"))[0] == 401
    assert door.engine.paths == []


def test_health_needs_no_key() -> None:
    assert asyncio.run(Door().ask("/health", key=""))[0] == 200


def test_a_lease_keeps_other_runs_out_until_it_ends() -> None:
    async def scenario() -> None:
        door = Door()
        end = await door.lease("one", "one/0")
        other_rank = await door.lease("one", "one/1")
        assert await door.ask(f"{LEASE}?run=two&client=two/0&name=other", method="GET") == (409, {"error": "process 7"})
        assert await door.ask("/update_weights", "two/0") == (409, {"error": "process 7"})
        assert (await door.ask("/v1/completions", "two/0"))[0] == 200
        await end()
        assert (await door.ask("/update_weights", "two/0"))[0] == 409
        await other_rank()
        assert (await door.ask("/update_weights", "two/0"))[0] == 200
        await (await door.lease("two", "two/0"))()

    asyncio.run(scenario())


def test_ranks_push_one_after_the_other() -> None:
    async def scenario() -> None:
        door = Door()
        for rank in (0, 1):
            await door.lease("one", f"one/{rank}")
        assert (await door.ask("/pause", "one/0"))[0] == 200
        for path in ("/pause", "/start_weight_update", "/resume"):
            assert (await door.ask(path, "one/1"))[0] == 503
        assert (await door.ask("/resume", "one/0"))[0] == 200
        assert (await door.ask("/pause", "one/1"))[0] == 200
        assert door.engine.finished == 0

    asyncio.run(scenario())


def test_what_a_dead_client_left_half_done_is_ended() -> None:
    async def scenario() -> None:
        door = Door()
        end = await door.lease("one", "one/0")
        await door.ask("/pause", "one/0")
        await end()
        await door.lease("two", "two/0")
        assert (await door.ask("/pause", "two/0"))[0] == 200
        assert door.engine.finished == 1
        # its own, after an error
        assert (await door.ask("/pause", "two/0"))[0] == 200
        assert door.engine.finished == 2

    asyncio.run(scenario())


def test_a_server_that_is_to_end_does_not_wait_for_leases() -> None:
    async def scenario() -> None:
        door = Door()
        end = await door.lease("one", "one/0")
        door.engine.state.server = SimpleNamespace(should_exit=True)
        await asyncio.sleep(0.6)
        assert (await door.ask("/update_weights", "two/0"))[0] == 200
        await end()

    asyncio.run(scenario())


def test_sizes_are_the_whole_numbers_of_a_config() -> None:
    config = {"vocab_size": 7, "tie": True, "eps": 1e-6, "text_config": {"layers": 2, "rope": {"section": [1, 2]}}}
    assert sizes(config) == {"vocab_size": 7, "text_config.layers": 2}
