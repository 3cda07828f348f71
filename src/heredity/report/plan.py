"""What a section is called and which tables it is drawn from."""

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """A section of a page before its tables are known.

    Attributes:
        anchor: id of the section and name of its template.
        title: its heading.
        tables: all must be there; a section without tables is always drawn.
        waits_for: what is not made yet while a table is missing, ending a sentence; a section without it is
            then left out.
    """

    anchor: str
    title: str
    tables: tuple[str, ...] = ()
    waits_for: str = ""
