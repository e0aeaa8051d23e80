"""The table of solvers: errors fall, budgets hold, every deterministic sampler node has a row."""
import inspect

import pytest

from odeon import NODE_CLASS_MAPPINGS
from odeon.bench import solvers, solvers_page
from odeon.bench.solvers_problems import problem, rms
from odeon.bench.solvers_rows import (
    ADAPTIVE,
    COMFYUI,
    COMFYUI_ADAPTIVE,
    DIFFERENT,
    DIFFUSERS,
    ELSEWHERE,
    FITTED,
    LEFT_OUT,
    NFES,
    REASONS,
    ROWS,
    Row,
    steps_within,
)

BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture(scope="module", params=["exact-ve", "exact-flow"])
def on(request):
    return problem(request.param, 1)._replace(reference_steps=400)


@pytest.fixture(scope="module")
def target(on):
    return on.reference()[0]


@pytest.mark.parametrize("name", ["DDIM", "DPM-Solver++ 2M to the end"])
def test_errors_fall_and_calls_stay_within_the_budget(on, target, name):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return on.denoise(x, sigma)

    figures = solvers.measure_row(BY_NAME[name], on._replace(denoise=denoise), target)
    assert list(figures) == list(NFES)
    assert [figure.calls for figure in figures.values()] == list(NFES) and len(calls) == sum(NFES)
    errors = [figure.error for figure in figures.values()]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[0]


def test_every_row_fits_every_budget(on):
    for row in ROWS:
        for nfe in NFES:
            steps = solvers.largest_plan(row, on, nfe)
            assert (steps is None) == (on.process.name in row.not_for), row.name
            assert steps is None or 0 < solvers.calls_of(steps) <= nfe, row.name
            assert steps is None or not any(step.is_noisy for step in steps), row.name
    for row in (*COMFYUI.values(), *(form for forms in DIFFUSERS.values() for form in forms)):
        for nfe in NFES:
            assert 2 <= steps_within(row, nfe) <= nfe and row.calls * steps_within(row, nfe) + row.more <= nfe


def test_rows_may_end_elsewhere(on):
    sigmas = on.sigmas(6)
    ends = {end: solvers.levels_of(Row("", "", {}, end=end), sigmas) for end in ("zero", "0.001", "noise")}
    assert ends["zero"] == sigmas and ends["0.001"] == [*sigmas[:-1], 0.001]
    assert len(ends["noise"]) == 7 and ends["noise"][::6] == [sigmas[0], sigmas[-2]]
    steps = solvers.largest_plan(next(row for row in ROWS if row.end == "noise"), on, 6)
    assert solvers.calls_of(steps) == 6 and steps[-1].sigma_next == pytest.approx(sigmas[-2])


def test_a_plan_met_before_is_not_run_again(on, target):
    done = {}
    first = solvers.measure_row(BY_NAME["DDIM"], on, target, nfes=(5, 8), done=done)
    again = on._replace(denoise=lambda x, sigma: pytest.fail("ran again"))
    same = solvers.measure_row(BY_NAME["Exponential Adams 1"], again, target, nfes=(5, 8), done=done)
    assert same == first and len(done) == 2


def test_reference_is_converged(on, target):
    finer, moved = on._replace(reference_steps=800).reference()
    assert rms(finer - target).mean().item() < 1e-5 and moved < 1e-5


def test_order_is_measured():
    assert solvers.order_of_row(BY_NAME["EDM Heun"]) == pytest.approx(2.0, abs=0.1)


def is_deterministic(node):
    """Whether a sampler node adds no noise as it comes or at eta 0; one that can't be planned so counts as it does."""
    if not hasattr(node, "PLAN"):
        return True
    options = {"eta": 0.0} if "eta" in inspect.signature(node.PLAN).parameters else {}
    row, on = Row("", node.__name__, options), problem("exact-ve", 1)
    try:
        return not any(step.is_noisy for step in solvers.largest_plan(row, on, 5))
    except (TypeError, ValueError):
        return True


def test_every_deterministic_sampler_node_has_a_row_or_a_reason():
    samplers = {name for name, node in NODE_CLASS_MAPPINGS.items()
                if "SAMPLER" in node.RETURN_TYPES and is_deterministic(node)
                and not node.CATEGORY.startswith("Odeon/editing")}  # which end elsewhere on purpose
    listed = {row.node for row in (*ROWS, *FITTED, *ADAPTIVE)}
    assert samplers - listed - set(LEFT_OUT) == set(), "give these a row in bench/solvers_rows.py, or a reason why not"
    assert not listed & set(LEFT_OUT)
    assert (listed | set(LEFT_OUT)) - set(NODE_CLASS_MAPPINGS) == set()


def test_names_are_known_and_everything_is_shown():
    assert len(BY_NAME) == len(ROWS)
    named = [name for row in ROWS for name in (*row.same, *row.beside)]
    assert sorted(named) == sorted([*COMFYUI, *DIFFUSERS])
    assert [name for row in ADAPTIVE for name in row.same] == list(COMFYUI_ADAPTIVE)
    assert all(theirs in COMFYUI and ours in BY_NAME for theirs, ours, _ in DIFFERENT)
    assert all(theirs in BY_NAME[ours].same for ours, theirs in REASONS)
    assert set(ELSEWHERE) <= {theirs for theirs, *_ in DIFFERENT}


def made_up(on, ours=0.1, theirs=0.1):
    """What a measurement with one namesake of DDIM gives."""
    both = [{nfe: solvers.Figure(error, nfe) for nfe in NFES} for error in (ours, theirs)]
    adaptive = {row.name: {0: solvers.Figure(0.01, 44)} for row in ADAPTIVE}
    names = [row.name for row in (*ROWS, *FITTED)]
    return (solvers.Found(on, 1e-5, 1.0, {**dict.fromkeys(names, both[0]), **adaptive}, {"euler": both[1]}, {}),
            solvers.Setting("0.0", None, {"DDIM": 1.0}, {"euler": 1.0}, ["uni_pc"]))


def test_worse_pairs_are_found(on):
    assert solvers.worse([made_up(on, 0.1019, 0.1)[0]]) == []
    bad = solvers.worse([made_up(on, 0.103, 0.1)[0]])
    assert [(pair.ours, pair.theirs, pair.nfe) for pair in bad] == [("DDIM", "ComfyUI euler", nfe) for nfe in NFES]
    assert bad[0].excess == pytest.approx(0.03)
    assert solvers.worse([made_up(on, float("nan"), 0.1)[0]])


def test_page_has_every_figure_in_tables_of_even_rows(on):
    found, setting = made_up(on, 0.123, 0.1)
    page = solvers_page.page([found], setting)
    assert "diffusers not installed" in page and "ComfyUI 0.0" in page
    assert page.count("| 0.123 |") >= len(ROWS) and "&emsp;ComfyUI euler | **0.100** |" in page
    assert "5: 0.123 0.100 (+23%)" in page
    lines = page.splitlines()
    for above, line in zip(lines, lines[1:]):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line
    assert all(table.row_count for table in solvers_page.tables([found], setting))


def test_figures_on_other_levels_stand_in_the_paragraph_of_what_differs(on):
    found, setting = made_up(on, 0.123, 0.1)
    both = [{nfe: solvers.Figure(error, nfe) for nfe in NFES} for error in (0.456, 0.0789)]
    parts = solvers_page.differences([found._replace(elsewhere={("ipndm_v", "beta"): both})], setting)
    table = next(part for before, part in zip(parts, parts[1:]) if before.startswith("**ipndm_v**"))
    assert f"| ComfyUI ipndm_v | {on.title}, levels 'beta' | 0.456 |" in table
    assert f"| &emsp;iPNDM-V | {on.title}, levels 'beta' | 0.0789 |" in table


def test_a_problem_is_named():
    with pytest.raises(ValueError, match="problem must be one of exact-ve"):
        problem("exact", 1)
