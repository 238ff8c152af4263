"""A report of an evaluation, with figures that are easy to find again."""

from typing import Any

from seg4diff.evaluation.report import Estimate, Report, Score

BASE = Score(0.5, 0.4, 0.6, 0.45, 0.55, 0.8, 0.7, {"sky": 0.7, "sand": 0.3}, flow_loss=0.2229)
LORA = Score(0.625, 0.6, 0.65, 0.6, 0.7, 0.9, 0.8, {"sky": 0.8, "sand": 0.45}, flow_loss=0.2255)
GAIN = Estimate(0.125, 0.05, 0.25)


def make_report(**changes: Any) -> Report:
    """Oracle prompts, base and LoRA, two blocks; with these fields instead."""
    plain = {"protocol": "oracle", "matching": None, "expert_layer": 3, "dtype": "float32", "precision": "32-true", "images": 7}
    scores = {"base": BASE, "lora": LORA, "gain": GAIN, "miou_per_block": {1: 0.25, 3: 0.5}}
    bounds = {"baseline": {"constant": 0.1, "random": 0.05}, "upper_bound": 0.9}
    return Report(**plain | scores | bounds | changes)
