"""What a study showed on this model, in a sentence or two with numbers; all at the noise level at which the model is read."""

import numpy as np

from seg4diff.analysis.plans import PERCENT, Columns
from seg4diff.analysis.stored import Analysis


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


def budget(analysis: Analysis) -> str:
    """Attention of image queries on text."""
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


def norms(analysis: Analysis) -> str:
    """Where values are longest."""
    found = {label: _values(analysis, "norms", {"quantity": "norm", "tokens": value}) for label, value in NORMS.items()}
    parts = [f"the mean norm of the values of {label} is {best_two(own, '.1f')}" for label, own in found.items() if ranked(own)]
    return f"T{'; '.join(parts)[1:]}." if parts else ""


NORMS = {"image tokens": "image", "all text tokens": "text", "the prompt's own tokens": "prompt"}


def features(analysis: Analysis) -> str:
    """Where position, and where content, explains most."""
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


def segmentation(analysis: Analysis) -> str:
    """Which block segments best, and in which direction."""
    rows = analysis.tables["segmentation"].rows
    own = {"quantity": "miou", **{key: rows[0][key] for key in ("direction", "scores", "normalisation")}}
    sentences = [f"The mIoU of I2T maps, in %, is {_miou(analysis, 'segmentation', own)}."] if _miou(analysis, "segmentation", own) else []
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
    if guesses := _guesses(analysis, "segmentation", "direction"):
        sentences.append(f"Guesses that do not look at the image score {guesses}.")
    return " ".join(sentences)


def _guesses(analysis: Analysis, study: str, column: str) -> str:
    """The mIoU of guesses that do not look at the image, which a column names."""
    rows = analysis.tables[study].where({"quantity": "baseline"}).rows
    return " and ".join(f"{PERCENT * row['value']:.1f} % ({row[column]})" for row in rows)


def granularity(analysis: Analysis) -> str:
    """Where maps are most concentrated."""
    heads, mean = (_values(analysis, "granularity", {"quantity": "entropy", "maps": maps}) for maps in ("single heads", "head mean"))
    if not ranked(mean):
        return ""
    lowest = ranked(mean)[::-1]
    finer = [block for block in ranked(mean) if heads[block] < mean[block]]
    regions, single = (_values(analysis, "granularity", {"quantity": "components", "maps": maps}) for maps in ("head mean", "single heads"))
    return (
        f"Maps are most concentrated at block {lowest[0]} (entropy {mean[lowest[0]]:.2f}), then block {lowest[min(1, len(lowest) - 1)]}. "
        f"Maps of single heads are more concentrated than the mean over the heads {_at(finer, len(lowest))}; entropy "
        "is concave, so a mean over different maps is almost always flatter. "
        f"At block {analysis.expert} "
        f"a map has {regions[analysis.expert]:.1f} connected regions, that of a single head {single[analysis.expert]:.1f}."
    )


def empty(analysis: Analysis) -> str:
    """Which block groups without words."""
    found, proposals = _miou(analysis, "empty_prompt", {"quantity": "miou"}), _values(analysis, "empty_prompt", {"quantity": "proposals"})
    if not found:
        return ""
    first = ranked(_values(analysis, "empty_prompt", {"quantity": "miou"}))[0]
    return (
        f"The mIoU of proposals, matched with the masks, in %, is {found}; at block {first} an image has {proposals[first]:.1f} proposals. "
        f"Proposals that do not look at the image score {_guesses(analysis, 'empty_prompt', 'proposals')}."
    )


def affinity(analysis: Analysis) -> str:
    """Which block's affinity helps."""
    gain = _values(analysis, "affinity", {"quantity": "gain"}, PERCENT)
    if not ranked(gain):
        return ""
    intervals = analysis.gain_intervals
    over = f"The gain in mIoU, in points, over the maps of block {analysis.expert} is"
    if intervals is None:
        return f"{over} {best_two(gain, '+.1f')}."
    better = [block for block in ranked(gain) if intervals[block][0] > 0]
    return (
        f"{over} {best_two(gain, '+.1f', PERCENT * intervals)}. "
        f"Attention among image tokens improves the maps, with an interval above 0, {_at(better, len(ranked(gain)))}."
    )


def causal(analysis: Analysis) -> str:
    """Which blocks matter most."""
    sentences = []
    for task, quantity in (("segmenting", "velocity"), ("generating", "pixels")):
        own = analysis.tables["causal"].where({"task": task, "quantity": quantity})
        sigma = analysis.sigma if task == "segmenting" else None
        kinds = dict.fromkeys(row["perturbation"] for row in own.rows)
        values = {kind: own.where({"perturbation": kind}).of_blocks(sigma) for kind in kinds}
        parts = [f"{kind} at block {order[0]} ({found[order[0]]:.3f})" for kind, found in values.items() if (order := ranked(found))]
        if parts:
            sentences.append(f"While {task}, the change of the {quantity} is largest for {', '.join(parts)}.")
    clean = _values(analysis, "causal", {"quantity": "miou"}, PERCENT)
    if ranked(clean):
        sentences.append(f"Without a perturbation, the mIoU of these images, in %, is {best_two(clean, '.1f')}.")
    return " ".join(sentences)
