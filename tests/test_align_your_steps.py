import math

import pytest
import torch
from golden_runs import load

from odeon.schedules.align_your_steps import TABLES, align_your_steps_sigmas

GOLDEN = load("align_your_steps")["runs"]
NAMES = {"SD1": "SD1.5", "SDXL": "SDXL", "SVD": "SVD"}


@pytest.mark.parametrize("i", range(len(GOLDEN)))
def test_golden_parity(i):
    settings = GOLDEN[i]["settings"]
    ours = align_your_steps_sigmas(settings["steps"], NAMES[settings["model_type"]], settings["denoise"])
    golden = torch.tensor(GOLDEN[i]["sigmas"])  # recorded as float32
    assert torch.equal(ours.float(), golden)


@pytest.mark.parametrize("table", list(TABLES))
def test_the_table_itself_and_its_refinement(table):
    whole = align_your_steps_sigmas(10, table, end="sigma_min")
    assert whole.tolist() == list(TABLES[table])
    assert align_your_steps_sigmas(10, table, end="append_zero").tolist() == [*TABLES[table], 0.0]
    assert align_your_steps_sigmas(10, table).tolist() == [*TABLES[table][:-1], 0.0]
    assert align_your_steps_sigmas(20, table, end="sigma_min")[::2].tolist() == list(TABLES[table])
    for steps in (1, 3, 7, 40, 999):
        sigmas = align_your_steps_sigmas(steps, table)
        assert len(sigmas) == steps + 1
        assert (sigmas.diff() < 0).all()


def test_what_the_end_skips_is_as_the_help_page_says():
    skipped = {name: math.log(table[-2] / table[-1]) for name, table in TABLES.items()}
    assert min(skipped.items(), key=lambda item: item[1]) == ("SDXL", pytest.approx(1.34, abs=0.01))
    assert max(skipped.items(), key=lambda item: item[1]) == ("SVD", pytest.approx(2.83, abs=0.01))


def test_denoise_keeps_the_end():
    whole = align_your_steps_sigmas(20)
    assert torch.equal(align_your_steps_sigmas(20, denoise=0.25), whole[-6:])
    assert align_your_steps_sigmas(20, denoise=0.0).shape == (0,)


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps must be at least 1"), ({"table": "Flux"}, "table must be one of SD1.5"),
    ({"denoise": 1.5}, r"denoise must lie in \[0, 1\]"), ({"end": "x"}, "end must be"),
])
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        align_your_steps_sigmas(**options)
