"""The exact evaluator as a judge of the images of causal tests."""

import pytest
from PIL import Image

from seg4diff.tiny.answers import answer
from seg4diff.tiny.find import find
from seg4diff.tiny.judge import ToyJudge
from seg4diff.tiny.prompts import held_out_prompts


def test_an_image_is_judged_by_what_its_prompt_names():
    judge, grey = ToyJudge(prompts=7, seed=3), Image.new("RGB", (64, 48), "grey")
    own = held_out_prompts(7, 3)
    assert judge.prompts == [prompt.text for prompt in own]
    assert judge([grey, grey], judge.prompts[:2]) == [pytest.approx(answer(prompt, find(grey))["presence"]) for prompt in own[:2]]
