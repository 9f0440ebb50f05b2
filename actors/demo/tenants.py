"""The three tenants, and what they remember."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the memory service."""

    id: str
    idle: int
    """How many of its memories nobody has used for long: the backlogs differ."""
    note: str
    """A short memory, with places for one of ``things`` and a number."""
    things: tuple[str, ...]
    topic: tuple[str, ...]
    """What a whole cluster is about."""

    def text(self, number: int) -> str:
        return self.note.format(thing=self.things[number % len(self.things)], number=number)


HERBARIUM = Tenant(
    id="demo-herbarium",
    idle=30,
    note="Sheet {number}: {thing}, mounted and labelled, waits to be photographed.",
    things=("sea holly", "marsh gentian", "bog myrtle", "common juniper", "grass of Parnassus", "round-leaved sundew"),
    topic=(
        "The press needs fresh blotting paper every second day, or the petals turn brown.",
        "Thick stems are split before they go into the press, so that they dry as fast as the leaves.",
        "Each sheet carries the collector, the day and the place: without them it is only a dried plant.",
        "Labels are printed on paper without acid, with an ink that water does not dissolve.",
        "A sheet is frozen for three days at thirty below zero before it may enter the cabinet.",
        "The freezer is the only remedy against the drugstore beetle that does not harm the collector.",
        "Seeds and loose parts go into a folded paper packet that is glued to the upper right corner.",
        "Photographs of sheets are taken with a ruler and a colour chart beside the plant.",
        "The name on a label is never erased; a new determination is added below, with its date.",
        "Sheets are lent for six months, flat between boards, and are frozen again when they return.",
        "Place names of old labels are kept as they were written, and coordinates are added beside them.",
        "A duplicate of each sheet goes to the museum in town, in case the cabinet burns.",
    ),
)
LANTERN = Tenant(
    id="demo-lantern",
    idle=12,
    note="Tide table {number}: {thing} is checked against the harbour's own board.",
    things=("Saint-Malo", "Granville", "Roscoff", "Brest", "Concarneau"),
    topic=(
        "High water comes about fifty minutes later each day, since the moon has moved on meanwhile.",
        "A tide table in local time is wrong for an hour when the clocks change, so instants are kept in UTC.",
        "The weekly page took one offset for all seven days; each day needs the offset of its own.",
        "Spring tides follow the full and the new moon by a day and a half on this coast.",
        "Heights are above the chart datum, which is the lowest tide that can be foreseen.",
        "The rule of twelfths is good enough for a walk on the sand, and not for a keel.",
        "Wind from the west holds the water in the bay, and low water is higher than the table says.",
        "A low pressure of one hectopascal less lifts the sea by about a centimetre.",
        "The lantern at the end of the pier is lit an hour before sunset, and on the table that is a row of its own.",
        "The printed table is made in November, when the predictions of the next year are released.",
        "Harbours without a gauge take their times from the nearest one and add a fixed difference.",
        "A prediction that is off by more than ten minutes is reported to the harbour master.",
    ),
)
CROSSWORD = Tenant(
    id="demo-crossword",
    idle=5,
    note="Draft {number}: {thing} still lacks a clue that two people liked.",
    things=("ALMANAC", "OBOE", "PARALLAX", "TERN"),
    topic=(
        "A grid is symmetrical by half a turn, and nobody notices unless it is not.",
        "Every letter belongs to an across word and to a down word, or the solver has no second chance.",
        "No word appears twice in a grid, and no clue gives away another answer of the same grid.",
        "A clue with a question mark promises a joke, and has to keep it.",
        "Abbreviations in the clue ask for an abbreviation in the answer.",
        "The longest answers carry the theme, and are placed before anything else.",
        "Words that live only in crosswords are allowed twice in a grid of fifteen by fifteen.",
        "Monday is the easiest, Saturday the hardest, and Sunday is only larger.",
        "Test solvers mark where they were stuck for longer than a minute.",
        "A clue is rewritten when two of three test solvers did not smile.",
        "The list of words is sorted by how often a setter has used them, and the rare ones come first.",
        "An answer that was in the news this week may be a name that nobody wants to read at breakfast.",
    ),
)
TENANTS = (HERBARIUM, LANTERN, CROSSWORD)
