"""What a report says about each study: what is measured, the formula, the paper's figure, and what it showed on this model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from seg4diff.analysis.figures import PERCENT, Columns, Lines, plans
from seg4diff.analysis.stored import Analysis


@dataclass(frozen=True)
class Section:
    """The words of a section.

    Attributes:
        measured: what is measured.
        formula: as plain text.
        paper: the figures or tables of the paper that show the same.
        found: what it showed, in a sentence or two with numbers; "" = nothing.
    """

    measured: str
    formula: str
    paper: str
    found: Callable[[Analysis], str]


def ranked(values: np.ndarray) -> list[int]:
    """Blocks that have a value, the highest first."""
    return [int(block) for block in np.argsort(-values, kind="stable") if np.isfinite(values[block])]


def _values(analysis: Analysis, study: str, columns: Columns, factor: float = 1.0) -> np.ndarray:
    return factor * analysis.tables[study].where(columns).of_blocks(analysis.sigma)


def best_two(values: np.ndarray, form: str, intervals: np.ndarray | None = None) -> str:
    """The two highest blocks: "highest at block 3 (73.4 [72.1, 74.8]), next block 5 (60.1 [58.9, 61.2])"."""

    def show(block: int) -> str:
        interval = "" if intervals is None else f" [{intervals[block][0]:{form}}, {intervals[block][1]:{form}}]"
        return f"block {block} ({values[block]:{form}}{interval})"

    return "highest at " + ", next ".join(map(show, ranked(values)[:2]))


def _miou(analysis: Analysis, study: str, columns: Columns) -> str:
    values, intervals = _values(analysis, study, columns, PERCENT), analysis.miou_intervals.get(study)
    return best_two(values, ".1f", None if intervals is None else PERCENT * intervals) if ranked(values) else ""


def _budget(analysis: Analysis) -> str:
    of = {name: _values(analysis, "budget", {"quantity": "relative", "quadrant": name}) for name in ("i2i", "i2t", "t2i", "t2t")}
    mass = _values(analysis, "budget", {"quantity": "mass", "quadrant": "i2t"})
    if not ranked(mass):
        return "This model's image tokens give text tokens no attention that could be measured."
    uniform = _values(analysis, "budget", {"quantity": "uniform", "quadrant": "i2t"})
    first = ranked(mass)[0]
    more = [block for block in ranked(mass) if of["i2t"][block] > of["i2i"][block]]
    sentence = (
        f"The share of image queries' attention that falls on text is {best_two(mass, '.3f')}; "
        f"uniform attention would give {uniform[first]:.3f}. "
        f"For each key, text gets more of it than the image {_at(more, len(ranked(mass)))}."
    )
    if not ranked(of["t2i"]):
        return f"{sentence} Text queries do not look at the image in this model."
    return sentence


def _at(blocks: list[int], count: int) -> str:
    if not blocks:
        return "at no block"
    if len(blocks) == count:
        return "at every block"
    return f"at {len(blocks)} of {count} blocks ({', '.join(map(str, sorted(blocks)[:12]))}{', …' if len(blocks) > 12 else ''})"


def _norms(analysis: Analysis) -> str:
    found = {label: _values(analysis, "norms", {"quantity": "norm", "tokens": value}) for label, value in NORMS.items()}
    parts = [f"the mean norm of the values of {label} is {best_two(own, '.1f')}" for label, own in found.items() if ranked(own)]
    return f"{'; '.join(parts)}.".capitalize() if parts else ""


NORMS = {"image tokens": "image", "all text tokens": "text", "the prompt's own tokens": "prompt"}


def _features(analysis: Analysis) -> str:
    sentences = []
    for quantity, name in (("position", "Position explains most"), ("masks", "The true masks explain most")):
        best = []
        for part, label in (("query", "the queries"), ("key", "the keys"), ("value", "the values")):
            own = _values(analysis, "features", {"quantity": quantity, "features": part, "by_chance": False})
            if order := ranked(own):
                best.append(f"of {label} at block {order[0]} (R² {own[order[0]]:.2f})")
        if best:
            sentences.append(f"{name} {', '.join(best)}.")
    return " ".join(sentences)


def _segmentation(analysis: Analysis) -> str:
    rows = analysis.tables["segmentation"].rows
    own = {"quantity": "miou", **{key: rows[0][key] for key in ("direction", "scores", "normalisation")}}
    sentences = [f"The mIoU of I2T maps is {_miou(analysis, 'segmentation', own)} %."] if _miou(analysis, "segmentation", own) else []
    i2t, t2i = (
        np.fmax.reduce(
            [
                _values(analysis, "segmentation", {"quantity": "miou", "direction": way, "scores": "joint", "normalisation": kind}, PERCENT)
                for kind in ("none", "minmax")
            ]
        )
        for way in ("i2t", "t2i")
    )
    if (ours := ranked(i2t)) and (theirs := ranked(t2i)):
        better = [block for block in ours if i2t[block] > t2i[block]]
        sentences.append(
            f"T2I maps reach {t2i[theirs[0]]:.1f} % at block {theirs[0]}; I2T maps are the better ones {_at(better, len(ours))}, "
            "each in the better of its normalisations."
        )
    guesses = [f"{PERCENT * row['value']:.1f} % ({row['direction']})" for row in rows if row["quantity"] == "baseline"]
    if guesses:
        sentences.append(f"Guesses that do not look at the image score {' and '.join(guesses)}.")
    return " ".join(sentences)


def _granularity(analysis: Analysis) -> str:
    heads, mean = (_values(analysis, "granularity", {"quantity": "entropy", "maps": maps}) for maps in ("single heads", "head mean"))
    if not ranked(mean):
        return ""
    lowest = ranked(mean)[::-1]
    finer = [block for block in ranked(mean) if heads[block] < mean[block]]
    regions, single = (_values(analysis, "granularity", {"quantity": "components", "maps": maps}) for maps in ("head mean", "single heads"))
    return (
        f"Maps are most concentrated at block {lowest[0]} (entropy {mean[lowest[0]]:.2f}), then block {lowest[min(1, len(lowest) - 1)]}. "
        f"Maps of single heads are more concentrated than the mean over the heads {_at(finer, len(lowest))}. At block {analysis.expert} "
        f"a map has {regions[analysis.expert]:.1f} connected regions, that of a single head {single[analysis.expert]:.1f}."
    )


def _empty(analysis: Analysis) -> str:
    found, proposals = _miou(analysis, "empty_prompt", {"quantity": "miou"}), _values(analysis, "empty_prompt", {"quantity": "proposals"})
    if not found:
        return ""
    first = ranked(_values(analysis, "empty_prompt", {"quantity": "miou"}))[0]
    return f"The mIoU of proposals, matched with the masks, is {found} %; at block {first} an image has {proposals[first]:.1f} proposals."


def _affinity(analysis: Analysis) -> str:
    gain = _values(analysis, "affinity", {"quantity": "gain"}, PERCENT)
    if not ranked(gain):
        return ""
    better = [block for block in ranked(gain) if gain[block] > 0]
    return (
        f"The gain in mIoU, in points, over the maps of block {analysis.expert} is {best_two(gain, '+.1f')}; "
        f"attention among image tokens improves the maps {_at(better, len(ranked(gain)))}."
    )


SECTIONS: Mapping[str, Section] = {
    "budget": Section(
        "How much of the joint attention falls into each quadrant: image or text queries (first word), image or text keys (second word). "
        "Dotted: the share under uniform attention, which is the share of the keys. Attention for each key is the share divided by that.",
        "share(I→T) = mean over image queries i and heads of Σ over text keys t of softmax(q_i · k / √d)_t",
        "Figure 2",
        _budget,
    ),
    "norms": Section(
        "How long the values are that tokens bring into the attention. Tokens of the prompt alone are text tokens without padding.",
        "norm = 1/N Σ_i ‖v_i‖₂ over the N tokens of a part, all heads side by side; heat maps: of each head",
        "Figures 4 and 28",
        _norms,
    ),
    "features": Section(
        "What queries, keys and values of image tokens hold: position or content. The variance in three principal components, and how much "
        "of the variance a linear map of the token's row and column explains, or of the shares of the true classes in its cell. "
        "Dotted: what features without any structure would give.",
        "R² = 1 - Σ‖x - x̂‖² / Σ‖x - mean x‖², x̂ = the best linear map of the regressors",
        "Figures 3 and 29, which show pictures and no numbers",
        _features,
    ),
    "segmentation": Section(
        "How well the maps of the prompt's words segment the image: the class of a pixel is the one with the highest map. I2T: attention "
        "of image queries on the tokens of a word. T2I: attention of these tokens on the image. Below, four normalisations of I2T maps.",
        "class(pixel) = argmax over classes c of the upsampled mean over the tokens of c, and over heads, of softmax(q_i · k / √d)_t",
        "Figures 8, 15, 16 and 17, table 5",
        _segmentation,
    ),
    "granularity": Section(
        "How coarse the map of a word is: its entropy, the connected regions in which it is above half of its maximum, and their area; of "
        "the mean over the heads, and of single heads.",
        "entropy = - Σ_i p_i log p_i / log N, p = the map over its sum",
        "Figures 9 a, 26 and 27, which show pictures and no numbers",
        _granularity,
    ),
    "empty_prompt": Section(
        "What a block groups without any word: the maps of all tokens of the empty prompt, merged to proposals, each matched with one "
        "class of the image.",
        "mIoU after the best one-to-one matching of proposals with the classes of each image",
        "Figures 9 b and 30",
        _empty,
    ),
    "affinity": Section(
        "Which block's attention among image tokens groups what belongs together: it is applied to the class maps of the expert block.",
        "refined = A m, A = the block's I2I attention, m = the expert's class maps",
        "no figure of the paper",
        _affinity,
    ),
}


def plain_section(study: str) -> Section:
    """The words for a study that has none of its own."""

    def found(analysis: Analysis) -> str:
        sentences = []
        for row in plans(study, analysis.tables[study])[study]:
            assert isinstance(row, Lines)
            for label, columns in row.series.items():
                values = _values(analysis, study, columns)
                if ranked(values):
                    sentences.append(f"{row.axis}, {label}: {best_two(values, '.3g')}.")
        return " ".join(sentences)

    return Section("", "", "", found)
