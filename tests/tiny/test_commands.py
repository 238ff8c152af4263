"""The command that measures the evaluator of the toy world: what it prints, and what it says to bad input."""

import pytest

from seg4diff.tiny import __main__ as calibration


def test_the_evaluator_is_measured_under_every_change(capsys):
    calibration.main(["--scenes", "2"])
    printed = capsys.readouterr().out
    assert all(row in printed for row in ("as rendered", "blurred", "noised", "re-encoded"))
    assert "2 validation scenes" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scenes", "0"], "the number of scenes must be at least 1, found 0"),
        (["--scenes", "many"], "invalid int value: 'many'"),
        (["--model", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_bad_input_ends_in_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        calibration.main(arguments)
    assert end.value.code == 2 and sentence in capsys.readouterr().err
