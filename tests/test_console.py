"""What a root script says when its job has failed."""

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from seg4diff.commands.console import PlainErrors, main
from seg4diff.errors import UserError


def ended(mode, status, value):
    job = JobReturn(overrides=["expert_layer=9", "seed=1"], status=status)
    job.return_value = value
    PlainErrors().on_job_end(OmegaConf.create({"hydra": {"mode": mode}}), job_return=job)
    return job


@pytest.mark.parametrize(("mode", "rest"), [(RunMode.RUN, ""), (RunMode.MULTIRUN, " (This was the run expert_layer=9 seed=1.)")])
def test_a_failed_job_says_nothing_but_its_error(mode, rest, capsys):
    job = ended(mode, JobStatus.FAILED, UserError("block 9 does not exist."))
    with pytest.raises(SystemExit):
        main(lambda: job.return_value)
    assert capsys.readouterr().err == f"error: block 9 does not exist.{rest}\n"


def test_a_job_that_is_done_has_its_result():
    assert ended(RunMode.MULTIRUN, JobStatus.COMPLETED, 0.5).return_value == 0.5
