"""M-18: SQLite and one worker, killed time and again: the file is whole, nothing is lost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.books import Books, audit, keeping


@dataclass(frozen=True)
class Form:
    """How often it is killed, how long it lives before, and who calls."""

    kills: int
    least_s: float
    most_s: float
    callers: int
    seed: int


LONG = Form(kills=100, least_s=0.5, most_s=4, callers=6, seed=18)
SHORT = Form(kills=2, least_s=0.2, most_s=0.6, callers=3, seed=18)


async def run(form: Form) -> Verdict:
    """Call, kill everything, look at the file, start again."""
    verdict = Verdict("M-18 SQLite killed")
    dice = random.Random(form.seed)
    async with keeping(server={"workers": 1}) as books:
        await books.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        callers = [
            loop.create_task(books.keep_calling(number, form.seed, stop))
            for number in range(form.callers)
        ]
        for _ in range(form.kills):
            await asyncio.sleep(dice.uniform(form.least_s, form.most_s))
            await books.kill_all()
            said = await asyncio.to_thread(check, books)
            verdict.require(said == "ok", f"integrity_check: {said}")
            await books.start()
        stop.set()
        await asyncio.gather(*callers)
        await books.stop()
        await audit(books, verdict)
    return verdict


def check(books: Books) -> str:
    """Give what SQLite says of the file."""
    database = sqlite3.connect(books.url.removeprefix("sqlite:///"))
    try:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        database.close()


if __name__ == "__main__":
    main(run, LONG, SHORT)
