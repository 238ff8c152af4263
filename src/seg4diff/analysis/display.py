"""The finder's verdict on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from seg4diff.screen import screen


def print_verdict(finder: Mapping[str, Any]) -> None:
    """Print the ranking of the blocks with the evidence, and the verdict.

    Args:
        finder: see `seg4diff.analysis.finder.find_expert`.
    """
    console = screen()
    if finder["ranking"]:
        by_masks = finder["rule"] == "masks"
        table = Table(title="blocks, the best first", padding=(0, 0), show_edge=False)
        for column in ("block", "mIoU (%)" if by_masks else "mean rank", "wins (%)", *finder["ranking"][0]["evidence"]):
            table.add_column(column.replace(" ", "\n"), justify="right")
        for row in finder["ranking"]:
            factor = 100 if by_masks else 1
            low, high = (factor * end for end in row["interval"])
            score = f"{factor * row['score']:.1f}\n[{low:.1f}, {high:.1f}]"
            table.add_row(str(row["block"]), score, f"{100 * row['wins']:.0f}", *map(_short, row["evidence"].values()))
        console.print(table)
    console.print(finder["sentence"])
    if other := finder.get("without_masks"):
        console.print(f"From the evidence without masks: {other['sentence']}")


def _short(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"
