"""Checks of guidance under bad numbers and multi-stage samplers inside ComfyUI, run as in_comfyui.py is."""
import contextlib

from comfyui_pack import (
    build,
    close,
    comfy,
    defaults,
    expect_error,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
    word,
)
from in_comfyui_attention import KINDS, drawn, every, kind_of, node
from in_comfyui_guidance_nodes import LATENT, STRONG, guided, restart

NAMED = "the model returned NaN or infinite values at step"


def with_gradients(model):
    """MODELs under the rules that take gradients and carry noise or losses from step to step."""
    loss = defaults("OdeonLossLatent", latent={"samples": LATENT[:1] + 0.5})
    return {"OdeonMinoritySelfGuided": defaults("OdeonMinoritySelfGuided", model=model, every=1),
            "OdeonLossGuidance": defaults("OdeonLossGuidance", model=model, loss=loss, backward_steps=1)}


def rules_on(model, prediction="eps"):
    """MODELs under every rule that needs no attention, each twice in a chain where it may be."""
    return {**{name: guided(name, guided(name, model, prediction), prediction) for name in STRONG},
            **with_gradients(model)}


def in_halves(network):
    """A network whose answers are as large as fp16 can hold."""
    network.dtype = torch.float16
    network.register_forward_hook(lambda module, inputs, out: (out.float() * 4e4).clamp(-6e4, 6e4).half())


def check_nan_predictions_are_named_and_leave_no_trace():
    model, network = toy()
    for name, patched in rules_on(model).items():
        clean = sample(patched, sampler(), levels_for("eps"), LATENT)
        network.fail_at = network.calls + 3
        expect_error(NAMED, sample, patched, sampler(), levels_for("eps"), LATENT)
        network.fail_at = None
        assert torch.equal(sample(patched, sampler(), levels_for("eps"), LATENT), clean), name


def check_nan_of_one_picture_is_neither_hidden_nor_spread():
    noise = comfy.sample.prepare_noise(LATENT, 5)
    broken, euler = noise.clone(), comfy.samplers.ksampler("euler")
    broken[0] = float("nan")
    for name, patched in rules_on(toy()[0]).items():
        clean, out = (sample(patched, euler, levels_for("eps"), LATENT, noise=each) for each in (noise, broken))
        assert torch.isnan(out[0]).all(), f"{name} hides a NaN"
        close(out[1:], clean[1:], 1e-5, f"the other pictures under {name}")
    apart = defaults("OdeonParticleRepulsion", model=toy()[0], coeff=1.0)
    out = sample(apart, euler, levels_for("eps"), LATENT, noise=broken)
    assert torch.isnan(out[0]).all() and torch.isfinite(out[1:]).all()  # pushed by the others that are whole


def check_nan_through_wrapped_samplers_is_named():
    for prediction in ("eps", "flow"):
        model, network = toy(prediction)
        sigmas, ddim = levels_for(prediction), defaults("OdeonSamplerDDIM", eta=1.0)
        loss = defaults("OdeonLossLatent", latent={"samples": LATENT[:1] + 0.5})
        solvers = {name: defaults(name, sampler=defaults("OdeonSamplerDDIM")) for name in (
            "OdeonWrapCFGPP", "OdeonWrapDualFast", "OdeonWrapUniC", "OdeonWrapODEJump")}
        solvers |= {name: defaults(name, sampler=ddim) for name in ("OdeonWrapRecurrence", "OdeonReflect")}
        solvers["OdeonStepwiseSelect"] = defaults("OdeonStepwiseSelect", sampler=ddim, loss=loss, start_step=1)
        for name, solver in solvers.items():
            clean = sample(model, solver, sigmas, LATENT)
            for call in (1, 3):  # stepwise judges the third
                network.fail_at = network.calls + call
                expect_error(NAMED.removesuffix(" at step"), sample, model, solver, sigmas, LATENT)
            network.fail_at = None
            assert torch.equal(sample(model, solver, sigmas, LATENT), clean), (prediction, name)


@contextlib.contextmanager
def failing(name, call):
    """Inside, one call of a kind of network gives NaN."""
    calls = []

    def fail(module, inputs, out):
        calls.append(out)
        return out * float("nan") if len(calls) == call else out

    handle = kind_of(name)[0].model.diffusion_model.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def check_nan_predictions_through_attention_nodes_are_named():
    """In the ordinary evaluations and in those of the disturbed network, which come second."""
    for name in KINDS:
        for each, inputs in [*every(name), ("OdeonParticleRepulsion", {"coeff": 1.0})]:
            patched = node(each, **inputs)(kind_of(name)[0])
            for call in (1, 2):
                with failing(name, call):
                    expect_error(NAMED, drawn, name, patched)
            assert torch.isfinite(drawn(name, patched)).all(), (name, each)


def check_nan_in_a_replaced_attention_is_named():
    broken = kind_of("shapes-unet")[0].clone()
    broken.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v * float("nan")))
    for each in ("OdeonPAG", "OdeonSEG"):
        expect_error(NAMED, drawn, "shapes-unet", node(each, scale=3.0)(broken))


def check_fp16_answers_at_their_limit_overflow_no_norm():
    seen = []
    for prediction in ("eps", "flow"):
        model, network = toy(prediction)
        in_halves(network)
        model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["denoised"].dtype) or args["denoised"])
        for name in STRONG:
            out = sample(guided(name, model, prediction), sampler(), levels_for(prediction), LATENT, cfg=12.0)
            assert torch.isfinite(out).all() and out.abs().max() > 1e3, (prediction, name)
    assert set(seen) == {torch.float32}


def check_fp16_overflow_in_the_network_is_named():
    """Attention that leaves fp16's range makes the norms after it NaN: an error, never a grey or black picture."""
    from comfy.cli_args import args

    args.fp16_unet = True
    try:
        model = kind_of.__wrapped__("shapes-unet")[0]
    finally:
        args.fp16_unet = False
    model.model.manual_cast_dtype = None  # computes in fp16 too, which ComfyUI leaves to GPUs
    for each, inputs in every("shapes-unet"):
        loud, fine = model.clone(), drawn("shapes-unet", node(each, **inputs))
        loud.set_model_attn1_output_patch(lambda out, extra: out * 1e6)
        expect_error(NAMED, drawn, "shapes-unet", node(each, **inputs)(loud))
        off = drawn("shapes-unet", node(each, **inputs)(model)) - fine
        assert off.square().mean().sqrt() < 0.15 * fine.std(), each


def check_multi_stage_samplers_repeat_after_whatever_ran_between():
    def interrupt(step, *_):
        if step == 2:
            raise comfy.model_management.InterruptProcessingException()

    solvers = {name: comfy.samplers.ksampler(name) for name in ("heun", "heunpp2", "dpm_2")}
    solvers |= {"restart": comfy.samplers.KSAMPLER(restart), "churn": defaults("OdeonSamplerEDMHeun", s_churn=5.0)}
    for prediction, names in (("eps", [*solvers]), ("flow", ["heun", "heunpp2"])):
        sigmas, model = levels_for(prediction), toy(prediction)[0]
        for rule, patched in rules_on(model, prediction).items():
            for name in names:
                first = sample(patched, solvers[name], sigmas, LATENT)
                assert torch.isfinite(first).all(), (prediction, rule, name)
                with contextlib.suppress(comfy.model_management.InterruptProcessingException):
                    sample(patched, solvers["heun"], sigmas, LATENT, callback=interrupt)
                assert torch.equal(sample(patched, solvers[name], sigmas, LATENT), first), (prediction, rule, name)


def linear_ag(model):
    """A MODEL whose later unconditional predictions are the regression's."""
    with torch.inference_mode():
        coefs, _ = build("OdeonFitLinearAG", model=model, positive=word(0.3), negative=word(-0.2), cfg=3.0,
                         sigmas=levels_for("eps"), latent={"samples": LATENT}, start_seed=1, samples=4, ridge=1e-6,
                         policy="paper", tolerance=0.05, name="of heun")["result"]
    return build("OdeonLinearAG", model=model, coefs=coefs)[0]


def check_linear_ag_under_heun_repeats():
    model = toy()[0]
    patched, heun = linear_ag(model), comfy.samplers.ksampler("heun")
    first = sample(patched, heun, levels_for("eps"), LATENT)
    sample(patched, sampler(1), levels_for("eps"), LATENT)
    assert torch.isfinite(first).all() and torch.equal(sample(patched, heun, levels_for("eps"), LATENT), first)


def check_bad_numbers_through_linear_ag_are_named():
    model, network = toy()
    patched, euler = linear_ag(model), comfy.samplers.ksampler("euler")
    clean = sample(patched, sampler(), levels_for("eps"), LATENT)
    for call in range(1, 7):
        network.fail_at = network.calls + call
        expect_error(NAMED, sample, patched, sampler(), levels_for("eps"), LATENT)
    network.fail_at = None
    assert torch.equal(sample(patched, sampler(), levels_for("eps"), LATENT), clean)
    noise = comfy.sample.prepare_noise(LATENT, 5)
    broken = noise.clone()
    broken[0] = float("nan")
    whole, out = (sample(patched, euler, levels_for("eps"), LATENT, noise=each) for each in (noise, broken))
    assert torch.isnan(out[0]).all(), "hides a NaN"
    close(out[1:], whole[1:], 1e-5, "the other pictures")
    in_halves(network)
    assert torch.isfinite(sample(patched, sampler(), levels_for("eps"), LATENT, cfg=12.0)).all()


if __name__ == "__main__":
    run_checks(globals())
