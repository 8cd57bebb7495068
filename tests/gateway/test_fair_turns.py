"""Turns go round robin by owner."""

import asyncio

from ko_asr.gateway.engine.fair_turns import FairTurns


def test_a_long_queue_does_not_delay_a_newcomer() -> None:
    order: list[str] = []

    async def work(turns: FairTurns, owner: str) -> None:
        async with turns.turn(owner):
            order.append(owner)

    async def run() -> None:
        turns = FairTurns(1)
        async with turns.turn("held while all of them queue"):
            long = [asyncio.create_task(work(turns, "long")) for _ in range(5)]
            await asyncio.sleep(0)
            short = [asyncio.create_task(work(turns, "short")) for _ in range(2)]
            await asyncio.sleep(0)
        await asyncio.gather(*long, *short)

    asyncio.run(run())
    assert order == ["long", "short", "long", "short", "long", "long", "long"]


def test_who_gives_up_takes_no_turn_with_him() -> None:
    async def run() -> None:
        turns = FairTurns(1)

        async def hold(event: asyncio.Event, owner: int) -> None:
            async with turns.turn(owner):
                await event.wait()

        stay = asyncio.Event()
        first = asyncio.create_task(hold(stay, 1))
        waiting = [asyncio.create_task(hold(asyncio.Event(), owner)) for owner in (2, 2, 3)]
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
