"""The nodes that search by evolution, through the seam: what comes out, what is told, what is refused, what goes on."""
import pytest
import torch
from test_measuring import build, model

from odeon import NODE_CLASS_MAPPINGS
from odeon.host.embedded.sampling import Guider, Noise
from odeon.samplers.usf_decisions import decisions_of_text

WORD = [[torch.zeros(1, 2, 3), {}]]
LATENT = torch.zeros(1, 4, 8, 8)
SIGMAS = torch.tensor([14.6 * (1.0 - i / 20) ** 3 for i in range(20)] + [0.0])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEON_FOLDER", str(tmp_path))
    return tmp_path


def asked(name, **changes):
    given = {"model": model(), "positive": WORD, "negative": WORD, "sigmas": SIGMAS, "samples": 6, "cfg": 3.0,
             "latent": {"samples": LATENT}, "start_seed": 3, "batch": 4, "several_prompts": "combined",
             "teacher_steps": 8}
    return NODE_CLASS_MAPPINGS[name]().run(**{**given, **changes})["result"]


def evolved(**changes):
    return asked("OdeonOptimizeAutoDiffusion", **{
        "sampler": build("OdeonSamplerDDIM"), "steps": 4, "population": 5, "epochs": 3, "top_k": 2, "mutation": 3,
        "crossover": 1, "m_prob": 0.3, "near": 0.9, "fitness": "mean", **changes})


def searched(**changes):
    return asked("OdeonOptimizeUSF", **{"nfe": 4, "budget": 24, "fitness": "mean", "predictor": False, **changes})


def test_levels_of_the_schedule_come_out_with_a_report_and_a_plot():
    sigmas, report, plot, about = evolved()
    assert sigmas.dtype == torch.float32 and len(sigmas) == 5 and sigmas[-1] == 0.0 and (sigmas.diff() < 0.0).all()
    assert set(sigmas.tolist()) <= set(SIGMAS.tolist())
    assert "on 2 pictures that nothing was chosen by" in report and "on the 4 pictures it was searched on" in report
    assert "best of 15" in report and about["report"] == report and about["population"] == 5 and plot.std() > 0.01
    assert torch.equal(evolved()[0], sigmas)


def drawn(sampler, sigmas):
    noise = Noise(3).generate_noise({"samples": LATENT})
    return Guider(model(), WORD, WORD, 3.0).sample(noise, LATENT, sampler, sigmas)


def test_a_solver_comes_out_that_runs_and_its_text_gives_it_back():
    sampler, sigmas, text, report, plot, about = searched()
    decisions = decisions_of_text(text)
    assert decisions.nfe == 4 and decisions.sigmas == pytest.approx(sigmas.tolist(), rel=1e-6)
    assert sigmas[0] == SIGMAS[0] and sigmas[-1] == 0.0 and about["nfe"] == 4 and plot.std() > 0.01
    assert report.count("prediction, order") == len(sigmas) - 1 and "of the best known solver there" in report
    picture = drawn(sampler, sigmas)
    assert torch.equal(picture, drawn(build("OdeonSamplerUSF", decisions=text), sigmas))
    with pytest.raises(ValueError, match="these decisions were found for sigmas"):
        drawn(sampler, sigmas * 0.9)
    lower = build("OdeonSamplerUSF", decisions=text, strict=False)
    assert torch.isfinite(drawn(lower, sigmas * 0.9)).all()
    assert torch.equal(drawn(build("OdeonSamplerUSF", decisions=" unipc_3 "), SIGMAS),
                       drawn(build("OdeonSamplerUSF", decisions="unipc_3", strict=False), SIGMAS))


def test_an_interrupted_search_goes_on(folder, monkeypatch):
    from odeon.schedules.optimize import usf

    whole, add, left = searched(), usf._Pool.add, [17]

    def stopping(self, *given):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return add(self, *given)

    monkeypatch.setattr(usf._Pool, "add", stopping)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        searched()
    left[0] = 10  # of the 24 candidates 16 are there
    assert searched()[2] == whole[2]
    assert left[0] == 2


@pytest.mark.parametrize(("call", "message"), [
    (lambda: evolved(mutation=9), r"mutation \+ crossover within population, got 3, 5, 2 and 9 \+ 1"),
    (lambda: evolved(sampler=build("OdeonSamplerDDIM", eta=1.0)), "this sampler adds noise"),
    (lambda: evolved(steps=21), "21 of 20 levels can be chosen in 0 ways"),
    (lambda: searched(sigmas=SIGMAS[-2:]), "need a schedule of at least two levels above 0"),
    (lambda: build("OdeonSamplerUSF", decisions="heun"), "must be JSON from Search a solver .* got 'heun'"),
    (lambda: build("OdeonSamplerUSF", decisions="{"), "decisions must be JSON: .* line 1, column 2"),
])
def test_what_can_t_work_is_said_before_a_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()
