"""What a run counts: its result, and the numbers of its line in the log."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counts:
    """The base of each job's counts: a dataclass of integers that begin at zero.

    @dataclass(slots=True)
    class ForgetCounts(Counts):
        scanned: int = 0
        decayed: int = 0
    """

    def result(self) -> dict[str, int]:
        """As the handler returns it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
