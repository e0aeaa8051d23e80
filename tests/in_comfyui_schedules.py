"""Checks of schedule nodes inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_schedules.py COMFYUI_ROOT`."""
import importlib
import json
import math
from types import SimpleNamespace

from comfyui_pack import (
    KINDS,
    NAME,
    ROOT,
    build,
    close,
    comfy,
    expect_error,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
    word,
)

sampling = comfy.model_sampling


def part(name):
    return importlib.import_module(f"{NAME}.{name}")


def golden(name):
    return json.loads((ROOT / "tests" / "golden" / "schedules" / f"{name}.json").read_text())


def core_node(name, **inputs):
    """The result of a core node of either form."""
    import comfy_extras.nodes_custom_sampler
    import comfy_extras.nodes_gits
    import comfy_extras.nodes_model_advanced
    import comfy_extras.nodes_optimalsteps

    extras = comfy_extras
    for module in (extras.nodes_gits, extras.nodes_optimalsteps, extras.nodes_custom_sampler,
                   extras.nodes_model_advanced):
        cls = getattr(module, name, None)
        if cls is not None:
            return cls.execute(**inputs).args[0] if hasattr(cls, "define_schema") else getattr(
                cls(), cls.FUNCTION)(**inputs)[0]
    raise AssertionError(f"this ComfyUI has no {name}")


def model_of(kind, prediction, **settings):
    """Enough of a MODEL to read its levels."""
    made = type("Made", (kind, prediction), {})(SimpleNamespace(sampling_settings=settings))
    return SimpleNamespace(get_model_object=lambda name: made)


def every_sampling():
    """ComfyUI's own classes, by the names of the recorded conversions."""
    return {"sd": model_of(sampling.ModelSamplingDiscrete, sampling.EPS),
            "sd zsnr": model_of(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION, zsnr=True),
            "sd3 flow": model_of(sampling.ModelSamplingDiscreteFlow, sampling.CONST, shift=3.0),
            "wan flow": model_of(sampling.ModelSamplingDiscreteFlow, sampling.CONST, shift=8.0),
            "flux": model_of(sampling.ModelSamplingFlux, sampling.CONST),
            "edm": model_of(sampling.ModelSamplingContinuousEDM, sampling.EDM, sigma_data=0.5),
            "svd": model_of(sampling.ModelSamplingContinuousEDM, sampling.V_PREDICTION, sigma_max=700.0),
            "continuous v": model_of(sampling.ModelSamplingContinuousV, sampling.V_PREDICTION, sigma_min=0.03,
                                     sigma_max=500.0),
            "cosmos rflow": model_of(sampling.ModelSamplingCosmosRFlow, sampling.COSMOS_RFLOW, sigma_max=80.0),
            "stable cascade": model_of(sampling.StableCascadeSampling, sampling.EPS, shift=2.0)}


def check_timesteps_of_every_model():
    """Both nodes on ComfyUI's own classes: there and back, and told what the network is told."""
    recorded = {run["settings"]["model_sampling"].split(" (")[0] for run in golden("sigma_timestep_conversion")["runs"]}
    models = every_sampling()
    assert recorded == set(models)
    for name, model in models.items():
        own = model.get_model_object("model_sampling")
        low, high = float(own.sigma_min), float(own.sigma_max)
        sigmas = torch.tensor([0.97 * high, 0.5 * high, math.sqrt(low * high), 1.3 * low, 0.0])
        for kind in part("schedules.timesteps").KINDS:
            if kind == "t01" and (name in ("edm", "svd", "stable cascade")):
                continue  # no such time, or one that says nothing at the top
            text = build("OdeonSigmasToTimesteps", model=model, sigmas=sigmas, kind=kind)["result"][0]
            back, = build("OdeonSigmasFromTimesteps", model=model, timesteps=text, kind=kind, append_zero=True)
            # Cascade's own float32 cosine tells levels near its top apart by so much
            error = (back[:-1] / sigmas[:-1] - 1.0).abs().max().item()
            assert error < (2e-3 if name == "stable cascade" else 2e-6), f"{kind} on {name}: {error:.3g}"
        text = build("OdeonSigmasToTimesteps", model=model, sigmas=sigmas, kind="index")["result"][0]
        told = own.timestep(sigmas[:-1]).double()
        ours = torch.tensor([float(value) for value in text.split(", ")], dtype=torch.float64)
        close(ours, told, 0.5001 if name in ("sd", "sd zsnr") else 1e-4, f"what the network of {name} is told")


def check_conversions_by_comfyui_s_own():
    """The recorded timesteps again, by this ComfyUI's sigma(), against our lists."""
    models = every_sampling()
    for name, kind, times in (("sd", "index", [999.0, 500.5, 20.25]), ("sd zsnr", "index", [990.0, 500.5, 20.25]),
                              ("sd3 flow", "t01", [0.999, 0.5, 0.02]), ("flux", "t01", [0.999, 0.5, 0.02]),
                              ("edm", "index", [1.1, 0.0, -1.0]), ("continuous v", "index", [0.9, 0.5, 0.05]),
                              ("cosmos rflow", "index", [0.9, 0.5, 0.05])):
        own = models[name].get_model_object("model_sampling")
        scale = 1000.0 if name == "sd3 flow" else 1.0
        theirs = torch.stack([own.sigma(torch.tensor(time * scale)) for time in times])
        ours, = build("OdeonSigmasFromTimesteps", model=models[name], timesteps=", ".join(map(str, times)), kind=kind,
                      append_zero=False)
        assert torch.allclose(ours, theirs, rtol=3e-6), f"{name}: {ours} and {theirs}"


def check_lcm_counts_in_stable_diffusion_s_places():
    model = core_node("ModelSamplingDiscrete", model=real("eps")[0], sampling="lcm", zsnr=False)
    own = model.get_model_object("model_sampling")
    ours, = build("OdeonSigmasFromTimesteps", model=model, timesteps="999, 759, 500, 259", kind="index",
                  append_zero=False)
    theirs = torch.stack([own.sigma(torch.tensor(float(value))) for value in (999, 759, 500, 259)])
    assert torch.allclose(ours, theirs, rtol=1e-6)
    text = build("OdeonSigmasToTimesteps", model=model, sigmas=ours, kind="index")["result"][0]
    assert [round(float(value), 3) for value in text.split(",")] == [999.0, 759.0, 500.0, 259.0]


def check_tables_are_comfyui_s():
    for coeff in [round(0.8 + 0.05 * i, 2) for i in range(15)]:
        for steps in [*range(2, 24), 40]:
            ours, = build("OdeonSigmasGITSTable", steps=steps, coeff=coeff, denoise=1.0, end="zero")
            assert torch.equal(ours, core_node("GITSScheduler", coeff=coeff, steps=steps, denoise=1.0)), (coeff, steps)
    for table in ("FLUX", "Wan", "Chroma"):
        for steps in (3, 7, 10, 20, 40, 55):
            for denoise in (1.0, 0.6):
                ours, = build("OdeonSigmasOSSTable", steps=steps, table=table, denoise=denoise, end="zero")
                core = core_node("OptimalStepsScheduler", model_type=table, steps=steps, denoise=denoise)
                assert torch.equal(ours, core), (table, steps, denoise)


def check_beta_is_comfyui_s():
    for prediction in KINDS:
        model, _ = toy(prediction)
        for steps, alpha, beta in ((1, 0.6, 0.6), (20, 0.6, 0.6), (20, 0.5, 1.7), (300, 0.2, 0.2)):
            ours, = build("OdeonSigmasBeta", model=model, steps=steps, alpha=alpha, beta=beta, denoise=1.0,
                          repeats="drop", space="index")
            core = core_node("BetaSamplingScheduler", model=model, steps=steps, alpha=alpha, beta=beta)
            assert torch.equal(ours, core), (prediction, steps)
        halved, = build("OdeonSigmasBeta", model=model, steps=9, alpha=0.6, beta=0.6, denoise=0.4, repeats="drop",
                        space="index")
        core = core_node("BasicScheduler", model=model, scheduler="beta", steps=9, denoise=0.4)
        assert torch.equal(halved, core)


def real(prediction):
    """A MODEL that is told whole places, by ComfyUI's own sampling classes."""
    model, network = toy(prediction)
    if prediction != "flow":
        made = type("Made", (sampling.ModelSamplingDiscrete, sampling.EPS if prediction == "eps" else
                             sampling.V_PREDICTION), {})
        model.add_object_patch("model_sampling", made())
    return model, network


def check_zero_snr_is_comfyui_s():
    model, _ = real("v")
    ours, = build("OdeonZeroSNR", model=model, prediction="v_prediction", top_sigma=4518.7637)
    core = core_node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)
    tables = [each.get_model_object("model_sampling").sigmas for each in (ours, core)]
    assert torch.allclose(*tables, rtol=1e-4), (tables[0] / tables[1] - 1.0).abs().max()
    assert torch.equal(model.get_model_object("model_sampling").sigmas[-1:], torch.tensor([14.614641189575195]))
    sigmas, = build("OdeonSigmasTimestepSpacing", model=ours, steps=5, spacing="trailing", offset=1)
    assert abs(sigmas[0].item() - 4518.76) < 0.01 and len(sigmas) == 6
    close(*(sample(each, sampler(1), sigmas, torch.zeros(1, 4, 8, 8)) for each in (ours, core)), 1e-4, "both zsnr")
    noisy, _ = real("eps")
    velocity, = build("OdeonZeroSNR", model=noisy, prediction="v_prediction", top_sigma=4518.7637)
    own = velocity.get_model_object("model_sampling")
    assert isinstance(own, sampling.V_PREDICTION) and isinstance(own, sampling.ModelSamplingDiscrete)
    x, output, sigma = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 0.3), torch.tensor([2.0])
    close(own.calculate_denoised(sigma, output, x),
          core.get_model_object("model_sampling").calculate_denoised(sigma, output, x), 1e-7, "a velocity's D")
    expect_error("flow models start from pure noise", build, "OdeonZeroSNR", model=toy("flow")[0], prediction="keep",
                 top_sigma=4518.7637)


def check_fit_beta():
    for prediction in KINDS:
        sigmas, alpha, beta, plot, report = fitted_beta(prediction)
        assert len(sigmas) == 9 and (sigmas.diff() < 0.0).all() and sigmas[-1] == 0.0
        assert 0.05 <= alpha <= 20.0 and 0.05 <= beta <= 20.0 and f"{alpha:.4f}" in report
        assert plot.ndim == 4 and plot.shape[-1] == 3


def fitted_beta(prediction):
    model, _ = toy(prediction)
    with torch.inference_mode():
        return build("OdeonFitBeta", model=model, positive=word(0.3), negative=word(-0.2), cfg=3.0, start_seed=1,
                     sigmas=levels_for(prediction, 30), latent={"samples": torch.zeros(1, 4, 16, 16)}, steps=8,
                     samples=2, bins=4)["result"]


def check_one_more_step():
    """The mean prediction as a LATENT in the VAE's scale, and a run that starts around it."""
    model, network = toy("eps")
    model.model.latent_format.scale_factor = 0.18215
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    sigmas = levels_for("eps", 6)
    with torch.inference_mode():
        middle, noise = build("OdeonOneMoreStep", model=model, positive=word(0.3), negative=word(-0.2), sigmas=sigmas,
                              latent=latent, cfg=1.0, start_seed=3, samples=12, noise="deterministic", batch=5)
    assert network.calls == 3
    x = comfy.sample.prepare_noise(torch.zeros(12, 4, 8, 8), 3) * math.sqrt(1.0 + sigmas[0].item() ** 2)
    expected = torch.tanh(x * 0.5 + 0.3).mean(0, keepdim=True).expand(2, 4, 8, 8)
    close(middle["samples"] * 0.18215, expected, 1e-4, "the mean in the model's scale")
    seen = []

    def spy(model, x, sigmas, **_):
        seen.append(x)
        return x

    drawn = noise.generate_noise(middle)
    sample(model, comfy.samplers.KSAMPLER(spy), sigmas, middle["samples"], noise=drawn, seed=3)
    own = comfy.sample.prepare_noise(torch.zeros(2, 4, 8, 8), 3)
    close(seen[0], expected + sigmas[0] * own, 1e-4, "the state that a run starts from")


if __name__ == "__main__":
    run_checks(globals())
