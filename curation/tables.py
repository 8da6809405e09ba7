"""Plain tables for a terminal."""

from collections.abc import Collection, Sequence

__all__ = ["text_table"]


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """Return lines with aligned columns.

    Args:
        head: Names of the columns.
        rows: Cells.
        left: Columns that are aligned to the left; numbers stand to the right.
    """
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
