"""The moment as of which a run works."""

from datetime import datetime, timedelta

from actors import Context

KEPT = timedelta(hours=1)
"""What was cut short longer ago begins anew."""


async def moment(ctx: Context) -> datetime:
    """Now; but when an earlier attempt was cut short, the moment of that one, which its checkpoint says.

    So a job that leaves alone what was done as of this moment goes on where it stopped, and the outcome is that of a
    run that was never cut short.
    """
    now = ctx.now()
    kept = ctx.task.checkpoint
    if isinstance(kept, dict) and isinstance(kept.get("at"), str):
        begun = datetime.fromisoformat(kept["at"])
        if begun <= now <= begun + KEPT:
            return begun
    await ctx.save({"at": now.isoformat()})
    return now
