"""The two commands of the toy world: what they print, and what they say to bad input."""

import pytest

from seg4diff.tiny import __main__ as calibration
from seg4diff.tiny import score


def test_the_evaluator_is_measured_under_every_change(capsys):
    calibration.main(["--scenes", "2"])
    printed = capsys.readouterr().out
    assert all(row in printed for row in ("as rendered", "blurred", "noised", "re-encoded"))
    assert "2 validation scenes" in printed


def test_a_model_is_scored_by_category(capsys):
    score.main(["--prompts", "7", "--seeds", "1"])
    printed = capsys.readouterr().out
    assert "7 prompts x 1 seeds" in printed
    assert all(row in printed for row in ("presence", "ground", "counting", "shade", "size", "place", "extra"))


@pytest.mark.parametrize(
    ("main", "arguments", "sentence"),
    [
        (calibration.main, ["--scenes", "0"], "the number of scenes must be at least 1, found 0"),
        (calibration.main, ["--scenes", "many"], "invalid int value: 'many'"),
        (calibration.main, ["--model", "nowhere"], "no model folder at nowhere"),
        (score.main, ["--prompts", "0"], "the number of prompts must be in 1.."),
        (score.main, ["--seeds", "0"], "the number of seeds must be at least 1, found 0"),
        (score.main, ["--model", "nowhere", "--prompts", "7"], "no model folder at nowhere"),
    ],
)
def test_bad_input_ends_in_a_sentence(main, arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and sentence in capsys.readouterr().err
