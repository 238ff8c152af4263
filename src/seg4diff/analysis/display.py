"""The finder's verdict on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from seg4diff.analysis.evidence import MEASURES
from seg4diff.screen import screen


def print_verdict(finder: Mapping[str, Any]) -> None:
    """Print the ranking of the blocks and the verdict; the numbers of all studies would not fit, and the report shows them.

    Args:
        finder: see `seg4diff.analysis.finder.find_expert`.
    """
    console = screen()
    if finder["ranking"]:
        by_masks = finder["rule"] == "masks"
        trained = [name for name in finder["ranking"][0]["evidence"] if name not in MEASURES]
        table = Table(title="blocks, the best first")
        for column in ("block", "mIoU (%)" if by_masks else "mean rank", "wins (%)", *trained):
            table.add_column(column, justify="right")
        for row in finder["ranking"]:
            factor = 100 if by_masks else 1
            low, high = (factor * end for end in row["interval"])
            score = f"{factor * row['score']:.1f} [{low:.1f}, {high:.1f}]"
            table.add_row(str(row["block"]), score, f"{100 * row['wins']:.0f}", *(_short(row["evidence"][name]) for name in trained))
        console.print(table)
    console.print(finder["sentence"])
    if other := finder.get("without_masks"):
        console.print(f"From the evidence without masks: {other['sentence']}")


def _short(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"
