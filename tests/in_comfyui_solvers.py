"""Checks of every solver inside ComfyUI, run as in_comfyui.py is: `python in_comfyui_solvers.py COMFYUI_ROOT`."""
import json
import os
from pathlib import Path

from comfyui_pack import (
    KINDS,
    NAME,
    NODES,
    build,
    close,
    comfy,
    defaults,
    expect_error,
    fitted,
    levels_for,
    measure,
    run_checks,
    sample,
    sampler,
    statistics,
    torch,
    toy,
)


def solvers(prediction):
    """Every solver node as it comes, and what else takes another way through the loop."""
    refused = {"OdeonSamplerAcceleratedDDIM", "OdeonSamplerLambdaDDIM"} if prediction == "flow" else set()
    for name in NODES:
        if hasattr(NODES[name], "PLAN") and name not in refused | {"OdeonSamplerDCSolver", "OdeonSamplerIIA"}:
            yield defaults(name)
    yield defaults("OdeonSamplerDCSolver", ratios="1, 1, 1.05, 0.9, 1.1")
    yield build("OdeonSamplerIIA", iia=fitted(prediction))[0]
    for method in ("singlestep", "ancestral"):
        yield defaults("OdeonSamplerDPMSolverPPSDE", method=method)
    yield build("OdeonWrapDualFast", sampler=defaults("OdeonSamplerUniPC"), c_start=0.0, c_end=0.3, anchor="first",
                lag=1, keep_last=True)[0]
    yield sampler(2, eta=1.0)
    yield defaults("OdeonSamplerDDIM", eta=1.0)
    yield defaults("OdeonSamplerEDMHeun", s_churn=2.0)
    yield defaults("OdeonSamplerDPMSolverPP", method="fast", order=3)
    yield defaults("OdeonSamplerPNDM", variant="F-PNDM")
    yield build("OdeonWrapUniC", sampler=defaults("OdeonSamplerDEIS", variant="rhoAB"), order=2, variant="bh2",
                uncorrected=0)[0]


def check_every_shape_prediction_and_scale():
    for shape in ((2, 4, 24), (2, 4, 8, 8), (1, 4, 3, 8, 8)):
        for prediction in KINDS:
            model, _ = toy(prediction)
            for solver in solvers(prediction):
                for cfg in (1.0, 3.0):
                    out = sample(model, solver, levels_for(prediction), torch.zeros(shape), cfg=cfg)
                    assert out.shape == shape and torch.isfinite(out).all()


def check_euler_is_order_one():
    for prediction in KINDS:
        model, _ = toy(prediction)
        ours = sample(model, sampler(1), levels_for(prediction), torch.zeros(1, 4, 8, 8))
        core = sample(model, comfy.samplers.sampler_object("euler"), levels_for(prediction), torch.zeros(1, 4, 8, 8))
        close(ours, core, 2e-5, f"order 1 against euler on {prediction}")


def check_core_namesakes():
    options = {"order": 2, "lower_order_below": 0, "third_order_term": "exact"}
    for name, solver_type in (("dpmpp_2m", "midpoint"), ("res_multistep", "taylor")):
        for prediction in ("eps", "v"):
            model, _ = toy(prediction)
            ours = sample(model, build("OdeonSamplerDPMSolverPP", solver_type=solver_type, **options)[0],
                          levels_for(prediction, 12), torch.zeros(1, 4, 8, 8))
            core = sample(model, comfy.samplers.sampler_object(name), levels_for(prediction, 12),
                          torch.zeros(1, 4, 8, 8))
            close(ours, core, 2e-5, f"{solver_type} against {name} on {prediction}")
    for name, ours in (("euler", defaults("OdeonSamplerDDIM")), ("heun", defaults("OdeonSamplerEDMHeun")),
                       ("ipndm", defaults("OdeonSamplerPNDM")),
                       ("gradient_estimation", defaults("OdeonSamplerGradientEstimation"))):
        for prediction in KINDS:
            model, _ = toy(prediction)
            out, core = (sample(model, solver, levels_for(prediction, 12), torch.zeros(1, 4, 8, 8))
                         for solver in (ours, comfy.samplers.sampler_object(name)))
            close(out, core, 5e-5, f"{name} on {prediction}")


def check_methods_for_noise_prediction_say_so_on_flow_models():
    model, _ = toy("flow")
    for name in ("OdeonSamplerAcceleratedDDIM", "OdeonSamplerLambdaDDIM"):
        expect_error("flow models", sample, model, defaults(name), levels_for("flow"), torch.zeros(1, 4, 8, 8))


def check_samplers_with_steps_of_their_own():
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    for prediction in KINDS:
        model, _ = toy(prediction)
        fine = sample(model, sampler(3), levels_for(prediction, 300), torch.zeros(2, 4, 8, 8))
        for name, options in (("OdeonSamplerPFODE", {"rtol": 1e-4, "atol": 1e-4}),
                              ("OdeonSamplerDPMSolverAdaptive", {"rtol": 1e-3, "atol": 1e-3})):
            seen = []
            out = sample(model, defaults(name, **options), levels_for(prediction, 100), torch.zeros(2, 4, 8, 8),
                         callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total)))
            close(out, fine, 0.02, f"{name} on {prediction}")
            assert seen == sorted(seen) and seen[-1][0] >= 98 and seen[-1][1] == 100, seen
            out = sample(model, defaults(name, **options), levels_for(prediction), latent.clone(), mask=mask)
            close(out[..., :4], latent[..., :4], 1e-6, f"kept half of {name} on {prediction}")


def check_models_own_time_reaches_the_plan():
    """DEIS in the time of the model at hand is not DEIS in the published one, and both are near a fine run."""
    model, _ = toy("eps")
    fine = sample(model, sampler(3), levels_for("eps", 200), torch.zeros(1, 4, 8, 8))
    coarse = sample(model, defaults("OdeonSamplerDDIM"), levels_for("eps", 12), torch.zeros(1, 4, 8, 8))
    both = [sample(model, defaults("OdeonSamplerDEIS", time_map=time_map), levels_for("eps", 12),
                   torch.zeros(1, 4, 8, 8)) for time_map in ("model", "linear_vp")]
    assert not torch.allclose(*both, atol=1e-5)
    for out in both:
        assert (out - fine).norm() < 0.5 * (coarse - fine).norm()


def check_masked_out_part_is_kept():
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    for prediction in KINDS:
        model, _ = toy(prediction)
        for solver in solvers(prediction):
            out = sample(model, solver, levels_for(prediction), latent.clone(), mask=mask)
            close(out[..., :4], latent[..., :4], 1e-6, f"kept half on {prediction}")
            assert (out[..., 4:] - latent[..., 4:]).abs().max() > 0.1


def check_item_of_a_batch_is_its_single_run():
    latent = torch.zeros(3, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 9)
    for prediction in KINDS:
        model, _ = toy(prediction)
        for solver in solvers(prediction):
            batch = sample(model, solver, levels_for(prediction), latent, noise=noise)
            for i in range(3):
                alone = sample(model, solver, levels_for(prediction), latent[:1], noise=noise[i:i + 1])
                close(batch[i:i + 1], alone, 1e-5, f"item {i} on {prediction}")


def check_inputs_are_left_alone():
    model, _ = toy()
    options = json.dumps(model.model_options, default=str)
    latent, sigmas = torch.ones(1, 4, 8, 8), levels_for("eps")
    kept = latent.clone(), sigmas.clone()
    for solver in solvers("eps"):
        sample(model, solver, sigmas, latent)
    assert torch.equal(sigmas, kept[1]) and torch.equal(latent, kept[0])
    assert json.dumps(model.model_options, default=str) == options


def check_callback_every_step_and_last_prediction():
    model, _ = toy()
    for solver in solvers("eps"):
        seen = []
        out = sample(model, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8),
                     callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total, denoised)))
        steps = [step for step, _, _ in seen]
        whole = solver.sampler_function.plan_and_options[1].get("method") != "fast"
        assert (steps == list(range(6)) if whole else steps == sorted(set(steps)) and steps[-1] == 5), steps
        assert all(total == 6 for _, total, _ in seen)
        close(out, seen[-1][2], 1e-6, "the result against the last prediction")


def check_statistics_and_their_sampler():
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    for prediction in KINDS:
        model, seen = toy(prediction)[0], []
        solver = defaults("OdeonSamplerDPMSolverV3", ems=statistics(prediction))
        fine, coarse = (sample(model, sampler(order), levels_for(prediction, count), torch.zeros(3, 4, 8, 8))
                        for order, count in ((3, 300), (1, 6)))
        out = sample(model, solver, levels_for(prediction), torch.zeros(3, 4, 8, 8),
                     callback=lambda step, denoised, x, total, seen=seen: seen.append((step, total)))
        gain = (out - fine).norm() / (coarse - fine).norm()
        assert gain < (0.9 if prediction == "flow" else 0.5), f"{gain:.2f} of DDIM's error on {prediction}"
        assert seen == [(i, 6) for i in range(6)], seen
        noise = comfy.sample.prepare_noise(torch.zeros(3, 4, 8, 8), 5)
        alone = sample(model, solver, levels_for(prediction), torch.zeros(1, 4, 8, 8), noise=noise[1:2])
        close(out[1:2], alone, 1e-5, f"an item on {prediction}")
        kept = sample(model, solver, levels_for(prediction), latent.clone(), mask=mask)
        close(kept[..., :4], latent[..., :4], 1e-6, f"kept half on {prediction}")


def check_statistics_of_another_model_or_schedule_are_refused():
    import sys

    embedded = sys.modules[f"{NAME}.host"].identity
    solver = defaults("OdeonSamplerDPMSolverV3", ems=statistics("eps"))
    other, network = toy("eps")
    network.weight.data = torch.full((4,), 0.5)
    assert embedded(other)["layout"] != embedded(toy("eps")[0])["layout"]
    expect_error("model statistics of another model", sample, other, solver, levels_for("eps"), torch.zeros(1, 4, 8, 8))
    model, _ = toy("eps")
    expect_error("measure again for this schedule", sample, model, solver, torch.tensor([14.0, 1.0, 0.001, 0.0]),
                 torch.zeros(1, 4, 8, 8))
    expect_error("fall on one of the EMS", sample, model, solver, torch.tensor([14.0, 13.9, 1.0, 0.0]),
                 torch.zeros(1, 4, 8, 8))
    solver = build("OdeonSamplerIIA", iia=fitted("eps"))[0]
    expect_error("fit again for this schedule", sample, model, solver, levels_for("eps") * 0.9, torch.zeros(1, 4, 8, 8))


def check_statistics_are_saved_and_loaded():
    path = build("OdeonSaveEMS", ems=statistics("eps"), name="toy")["result"][0]
    assert Path(path).is_file() and "toy" in NODES["OdeonLoadEMS"].INPUT_TYPES()["required"]["name"][0]
    loaded = build("OdeonLoadEMS", name="toy")[0]
    assert loaded.about["model"] == statistics("eps").about["model"] and torch.equal(loaded.l, statistics("eps").l)
    expect_error("plain file name", build, "OdeonSaveEMS", ems=statistics("eps"), name="../toy")
    expect_error("there is no file", build, "OdeonLoadEMS", name="none")


def check_an_interrupted_measurement_goes_on():
    options = {"order": 3, "variant": "bh2", "dc_order": 2, "variable": "timestep", "uncorrected": 0,
               "lower_order_final": True, "batch": 2, "teacher_steps": 20, "method": "brent", "iters": 20, "rate": 0.1}
    whole, _, row = measure("OdeonOptimizeDCRatios", "eps", **options)
    assert row.startswith("3, 5: 1.0000, 1.0000, ") and len(whole.values) == 5 and whole.sigmas is not None
    model, network = toy("eps")
    forward, calls = network.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 30:
            comfy.model_management.interrupt_current_processing()
        return forward(*args, **kwargs)

    network.forward = interrupted
    try:
        measure("OdeonOptimizeDCRatios", "eps", model=model, **options)
        raise AssertionError("was not interrupted")
    except comfy.model_management.InterruptProcessingException:
        pass
    folder = Path(os.environ["ODEON_FOLDER"]) / "partial"
    assert len(list(folder.glob("*.safetensors"))) == 1
    before = len(calls)
    resumed = measure("OdeonOptimizeDCRatios", "eps", model=model, **options)[0]
    assert resumed.values == whole.values and not list(folder.glob("*"))
    model, network = toy("eps")
    measure("OdeonOptimizeDCRatios", "eps", model=model, **options)
    assert len(calls) - before < network.calls, "nothing was saved by going on"


def check_thresholds_and_noise_of_our_own():
    model = build("OdeonDynamicThreshold", model=toy("eps")[0], ratio=0.995, max_val=1.0, channelwise=False,
                  scale=0.2)[0]
    for cfg in (1.0, 3.0):
        assert sample(model, sampler(), levels_for("eps"), torch.zeros(1, 4, 8, 8), cfg=cfg).abs().max() <= 0.2 + 1e-5
    apg = build("OdeonAPG", model=model, eta=0.0, norm_threshold=2.0, momentum=0.0, threshold_unit="norm",
                axes="sample")[0]
    assert torch.isfinite(sample(apg, sampler(), levels_for("eps"), torch.zeros(1, 4, 8, 8))).all()
    noise = build("OdeonPFGMppNoise", noise_seed=3, extra_dims=2 ** 24)[0]
    plain = comfy.sample.prepare_noise(torch.zeros(2, 4, 8, 8), 3)
    close(noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)}), plain, 0.01, "very many dimensions")


def core(name, model, sigmas):
    return sample(model, comfy.samplers.sampler_object(name), sigmas, torch.zeros(1, 4, 8, 8))


def check_where_comfyui_s_own_are_the_same():
    for prediction in ("eps", "v"):
        model, _ = toy(prediction)
        sigmas = levels_for(prediction, 12)[:-1]  # without a last 0, where each has its own way
        for name, ours in (("uni_pc", {"order": 3, "variant": "bh1"}), ("uni_pc_bh2", {"order": 3, "variant": "bh2"})):
            close(sample(model, defaults("OdeonSamplerUniPC", **ours), sigmas, torch.zeros(1, 4, 8, 8)),
                  core(name, model, sigmas.clone()), 2e-4, f"{name} on {prediction}")
        ours = defaults("OdeonSamplerDPMSolver", order=3, method="fast")
        close(sample(model, ours, sigmas, torch.zeros(1, 4, 8, 8)), core("dpm_fast", model, sigmas), 2e-4,
              f"dpm_fast on {prediction}")


def check_where_comfyui_s_own_differ():
    """What the help pages say of them."""
    model, _ = toy("eps")
    sigmas = levels_for("eps", 8)
    for name in ("uni_pc", "uni_pc_bh2"):
        mine = sigmas.clone()
        core(name, model, mine)
        assert mine[-1].item() == torch.tensor(0.001).item(), f"{name} leaves SIGMAS alone by now"
    fine = sample(model, sampler(3), levels_for("eps", 400), torch.zeros(1, 4, 8, 8))
    ends = [core("dpm_fast", model, torch.cat([levels_for("eps", 60)[:-1], torch.tensor([bottom])]))
            for bottom in (0.0, 0.03)]
    assert (ends[0] - fine).std() > 0.02, "dpm_fast ends on the picture by now"  # it keeps the noise of sigma_min


if __name__ == "__main__":
    run_checks(globals())
