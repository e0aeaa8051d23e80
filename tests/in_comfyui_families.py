"""Checks of the schedule families inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_families.py ROOT`."""
from comfyui_pack import KINDS, NODES, build, close, comfy, defaults, run_checks, sample, torch, toy
from in_comfyui_schedules import core_node, every_sampling


def family(name, **inputs):
    shown = {key: spec[1]["default"] for key, spec in NODES["OdeonSigmasFamily"].INPUT_TYPES()["required"].items()}
    return build("OdeonSigmasFamily", **{**shown, "family": name, **inputs})


def near(ours, theirs, tolerance, what):
    """theirs without its repeats, which we drop."""
    kept = theirs[[i for i in range(len(theirs)) if i == 0 or theirs[i] < theirs[i - 1]]]
    assert len(ours) == len(kept), f"{what}: {len(ours)} levels for {len(kept)}"
    error = ((ours - kept).abs() / kept.clamp(min=1e-9)).max().item() if kept[-1] > 0 else (
        (ours - kept)[:-1].abs() / kept[:-1]).max().item()
    assert error <= tolerance, f"{what}: off by {error:.3g}"


def check_families_are_the_schedulers_of_their_names():
    """Of every model and scheduler but beta, with denoise; karras and KL-optimal as far as ComfyUI's float32 goes."""
    for name, model in every_sampling().items():
        for scheduler in comfy.samplers.SCHEDULER_NAMES:
            if scheduler == "beta":
                continue
            tolerance = {"karras": 5e-6, "kl_optimal": 2e-4}.get(scheduler, 1e-6)
            for steps, denoise in ((2, 1.0), (7, 1.0), (33, 1.0), (7, 0.6)):
                theirs = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler,
                                                         int(steps / denoise))
                ours, count = family(scheduler, model=model, steps=steps, denoise=denoise)
                near(ours, theirs if denoise == 1.0 else theirs[-(steps + 1):], tolerance, f"{scheduler} on {name}")
                assert count == len(ours) - 1


def check_families_with_nodes_of_their_own():
    model = every_sampling()["sd"]
    for steps, denoise in ((1, 1.0), (4, 1.0), (10, 0.7), (2, 0.3)):
        theirs = core_node("SDTurboScheduler", model=model, steps=steps, denoise=denoise)
        near(family("turbo", model=model, steps=steps, denoise=denoise)[0], theirs, 1e-6, "turbo")
    ends = {"sigma_max": 14.614642, "sigma_min": 0.0291675}
    for steps in (2, 9, 20):
        for mu, beta in ((0.0, 0.5), (0.4, 1.2), (-1.0, 0.3)):
            theirs = core_node("LaplaceScheduler", steps=steps, mu=mu, beta=beta, **ends)
            near(family("laplace", steps=steps, laplace_mu=mu, laplace_beta=beta, **ends)[0], theirs, 3e-6, "laplace")
        for rho in (1.0, 2.5):
            theirs = core_node("PolyexponentialScheduler", steps=steps, rho=rho, **ends)
            near(family("polyexponential", steps=steps, rho=rho, **ends)[0], theirs, 3e-6, "polyexponential")
        theirs = core_node("VPScheduler", steps=steps, beta_d=19.9, beta_min=0.1, eps_s=0.001)
        near(family("vp", steps=steps)[0], theirs, 1e-6, "vp")


def check_a_sampler_that_restarts_equals_runs_of_its_pieces():
    for prediction in KINDS:
        model, _ = toy(prediction)
        solver, latent = defaults("OdeonSamplerUniPC"), torch.zeros(2, 4, 8, 8)
        sigmas, restarted = build("OdeonSigmasSegmented", segments=3, substeps=3, inner="linear", model=model,
                                  sampler=solver)
        whole = sample(model, restarted, sigmas, latent)
        pieces = sample(model, solver, sigmas[:4], latent)
        for first in (3, 6):  # ComfyUI leaves a flow's unfinished state divided by 1 - sigma
            noise = torch.zeros_like(latent)
            pieces = sample(model, solver, sigmas[first:first + 4], pieces, noise=noise)
        close(whole, pieces, 2e-5, prediction)


if __name__ == "__main__":
    run_checks(globals())
