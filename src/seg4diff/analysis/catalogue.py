"""All studies by name."""

import difflib
from collections.abc import Sequence

from seg4diff.analysis.affinity import Affinity
from seg4diff.analysis.budget import Budget
from seg4diff.analysis.causal import Causal
from seg4diff.analysis.empty_prompt import EmptyPrompt
from seg4diff.analysis.features import Features
from seg4diff.analysis.granularity import Granularity
from seg4diff.analysis.grounding import Grounding
from seg4diff.analysis.norms import Norms
from seg4diff.analysis.study import Study
from seg4diff.errors import UserError

STUDIES: dict[str, type[Study]] = {
    "budget": Budget,
    "norms": Norms,
    "features": Features,
    "segmentation": Grounding,
    "granularity": Granularity,
    "empty_prompt": EmptyPrompt,
    "affinity": Affinity,
    "causal": Causal,
}
"""In the order in which they are reported."""


def choose(studies: str | Sequence[str]) -> list[str]:
    """The names of the chosen studies, in the order of `STUDIES`; "all" = every one.

    Raises:
        UserError: there is no such study, or none is chosen.
    """
    names = list(STUDIES) if studies == "all" else [studies] if isinstance(studies, str) else list(studies)
    for name in names:
        if name not in STUDIES:
            near = difflib.get_close_matches(name, STUDIES, n=1)
            meant = f"did you mean {near[0]}?" if near else f"choose from {', '.join(STUDIES)}, or all."
            raise UserError(f"`studies` names '{name}', which is none: {meant}")
    if not names:
        raise UserError(f"`studies` is empty: choose from {', '.join(STUDIES)}, or all.")
    return [name for name in STUDIES if name in names]
