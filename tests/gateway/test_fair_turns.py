"""Turns go round robin by caller, and of one caller by request."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
from gateway_keys import Keys
from gateway_process import GatewayProcess
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.audio.read import read_audio
from ko_asr.gateway.engine.fair_turns import FairTurns


def order_of(queued: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The order in which (caller, owner), who queue in this one, get the only turn."""
    order: list[tuple[str, str]] = []

    async def work(turns: FairTurns, caller: str, owner: str) -> None:
        async with turns.turn(owner, caller):
            order.append((caller, owner))

    async def run() -> None:
        turns = FairTurns(1)
        async with turns.turn("held while all of them queue"):
            tasks = []
            for one in queued:
                tasks.append(asyncio.create_task(work(turns, *one)))
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    return order


def test_a_long_queue_does_not_delay_a_newcomer() -> None:
    order = order_of([*[("us", "long")] * 5, *[("us", "short")] * 2])
    owners = [owner for _, owner in order]
    assert owners == ["long", "short", "long", "short", "long", "long", "long"]


def test_many_requests_of_a_caller_do_not_delay_another() -> None:
    many = [("many", f"file {number}") for number in range(20)]
    order = order_of([*many, *many, ("few", "file")])
    assert order.index(("few", "file")) == 1
    assert [one for one in order if one[0] == "many"] == [*many, *many]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), max_size=30))
def test_everybody_has_one_turn_in_each_round(queued: list[tuple[str, str]]) -> None:
    order = order_of(queued)
    assert sorted(order) == sorted(queued)
    callers = [caller for caller, _ in order]
    for turn, caller in enumerate(callers):
        for other in set(callers[turn:]) - {caller}:  # who waits behind is never more than a turn behind
            assert callers[: turn + 1].count(caller) <= callers[: turn + 1].count(other) + 1
    for _, own in groupby(sorted(order), key=lambda one: one[0]):
        turns = [one for one in order if one in set(own)]
        for turn, one in enumerate(turns):
            for other in set(turns[turn:]) - {one}:
                assert turns[: turn + 1].count(one) <= turns[: turn + 1].count(other) + 1


def test_who_gives_up_takes_no_turn_with_him() -> None:
    async def run() -> None:
        turns = FairTurns(1)

        async def hold(event: asyncio.Event, owner: int) -> None:
            async with turns.turn(owner, owner % 2):
                await event.wait()

        stay = asyncio.Event()
        first = asyncio.create_task(hold(stay, 1))
        waiting = [asyncio.create_task(hold(asyncio.Event(), owner)) for owner in (2, 2, 3, 4)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        stay.set()
        await first  # its turn goes to an owner of those that are left, at the moment that all are cancelled
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(5), turns.turn(4):
            pass

    asyncio.run(run())


def test_twenty_files_of_one_caller_do_not_delay_that_of_another(
    asr_server: str, files: list[Path], tmp_path: Path
) -> None:
    pause, long = np.zeros(16_000, np.float32), tmp_path / "long.flac"
    clips = [part for file in files[:10] for part in (pause, read_audio(file))]
    soundfile.write(long, np.concatenate(clips), 16_000)

    def ask(caller: str, path: Path) -> str:
        headers, audio = {"authorization": f"Bearer {caller}"}, {"audio": path.read_bytes()}
        answer = gateway.post("/v1/transcribe", headers=headers, files=audio)
        return answer.raise_for_status().json()["text"]

    keys = Keys(f"sqlite:///{tmp_path / 'gateway.db'}")
    many_key, few_key = keys.create(), keys.create()
    options = ("--in-flight", "1", "--keys", "--database", keys.database)
    with (
        GatewayProcess(asr_server, tmp_path / "g", *options) as gateway,
        ThreadPoolExecutor(20) as pool,
    ):
        many = [pool.submit(ask, many_key, long) for _ in range(20)]
        while gateway.figure("audio_seconds_total") < 20 * soundfile.info(long).duration - 1:
            assert not any(one.done() for one in many)
        text = ask(few_key, long)  # begun last; in turns by request alone it would end last
        assert not any(one.done() for one in many)
        assert {one.result() for one in many} == {text}
