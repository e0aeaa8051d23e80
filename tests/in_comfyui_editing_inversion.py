"""What editors ask of a run, and inversions, inside ComfyUI, under its own Python; see in_comfyui.py."""
import functools

from comfyui_pack import (
    HOST,
    KINDS,
    NODES,
    build,
    close,
    comfy,
    defaults,
    expect_error,
    levels_for,
    run_checks,
    torch,
    toy,
    word,
)

LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
NOTHING = torch.zeros_like(LATENT)


def guided(model, sampler, sigmas, *, noise=NOISE, latent=LATENT, cfg=3.0, positive=0.3, mask=None, callback=None):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(word(positive), word(-0.2))
    guider.set_cfg(cfg)
    with torch.inference_mode():
        return guider.sample(noise, latent, sampler, sigmas, denoise_mask=mask, callback=callback, disable_pbar=True,
                             seed=5)


def steps_of(denoise, x, sigmas, **_):
    """Euler steps, up or down."""
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        x = x + (x - denoise(x, x.new_full((len(x),), sigma))) / sigma * (sigma_next - sigma)
    return x


def a_rule():
    seen = []

    def rule(cond, uncond, call):
        seen.append(call)
        return uncond + (1.0 + 0.1 * len(seen)) * (cond - uncond)

    return rule


def nudge(noise):
    seen = []

    def change(context, pooled, *, sigma, kinds):
        seen.append(sigma)
        return context + 0.02 * len(seen), pooled

    return change


def check_clean_is_the_latent_without_noise():
    found = []

    def sample_look(denoise, x, sigmas, *, clean, process, callback):
        found.append(clean)
        return x

    for prediction in KINDS:
        guided(toy(prediction)[0], HOST.sampler(sample_look), levels_for(prediction))
        close(found.pop(), HOST.of_latent(toy(prediction)[0], LATENT), 0.0, prediction)
        guided(toy(prediction)[0], HOST.sampler(sample_look), levels_for(prediction), latent=NOTHING)
        assert not found.pop().any()


def check_prompted_is_a_run_under_that_prompt_with_states_of_its_own():
    for prediction in KINDS:
        for mask in (None, torch.ones(1, 8, 8).tril()):
            sigmas, plain = levels_for(prediction), toy(prediction)[0]
            model = HOST.patch_conditions(HOST.patch_guidance(plain, a_rule), nudge)

            def sample_source(denoise, x, sigmas, *, prompted, process, callback):
                denoise(x, x.new_full((len(x),), sigmas[0]))  # moves the states of the run's own on
                return steps_of(prompted(word(0.9), word(-0.2), cfg=2.0), x, sigmas)

            own = guided(model, HOST.sampler(steps_of), sigmas, positive=0.9, cfg=2.0, mask=mask)
            close(guided(model, HOST.sampler(sample_source), sigmas, mask=mask), own, 0.0, prediction)
            assert not torch.equal(guided(plain, HOST.sampler(sample_source), sigmas, mask=mask), own)


def check_at_cfg_1_a_source_s_negative_is_not_evaluated():
    model, network = toy()
    rows = []
    handle = network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))

    def sample_source(denoise, x, sigmas, *, prompted, process, callback, cfg, negative):
        return prompted(word(0.9), negative, cfg=cfg)(x, x.new_full((len(x),), sigmas[0]))

    for negative in (None, word(0.1)):
        guided(model, HOST.sampler(sample_source, cfg=1.0, negative=negative), levels_for("eps"))
    handle.remove()
    assert rows == [2, 2], rows
    expect_error("needs a negative for its source", guided, model, HOST.sampler(sample_source, cfg=3.0, negative=None),
                 levels_for("eps"))


def check_what_a_source_can_t_bring_is_refused():
    for key, said in (("control", "a ControlNet"), ("gligen", "GLIGEN boxes"), ("hooks", "hooks")):
        def sample_source(denoise, x, sigmas, *, prompted, process, callback, key=key):
            return prompted([[word(0.9)[0][0], {key: object()}]])(x, sigmas)

        expect_error(f"brings {said}, which only works on the target's", guided, toy()[0], HOST.sampler(sample_source),
                     levels_for("eps"))


def check_differentiable_is_the_slope_of_the_model():
    for mask in (None, torch.ones(1, 8, 8).tril()):
        found = {}

        def sample_slope(denoise, x, sigmas, *, differentiable, prompted, process, callback, found=found):
            for name, one in (("run", denoise), ("source", prompted(word(0.9)))):
                with torch.inference_mode(False), torch.enable_grad():
                    at, level = x.clone().requires_grad_(), torch.full((len(x),), sigmas[2])
                    found[name], = torch.autograd.grad(differentiable(one)(at, level).sum(), at)
                ends = [one(x + by, x.new_full((len(x),), sigmas[2])) for by in (1e-2, -1e-2)]
                found[name, "by differences"] = (ends[0] - ends[1]) / 2e-2
            return x

        guided(toy()[0], HOST.sampler(sample_slope), levels_for("eps"), mask=mask)
        for name in ("run", "source"):
            assert found[name].abs().max() > 0.01
            close(found[name], found[name, "by differences"], 5e-4, name)


def check_runs_up_end_finite_and_come_back():
    for prediction in KINDS:
        model, top = toy(prediction)[0], float(levels_for(prediction)[0])
        up = torch.linspace(0.4, min(top, 8.0), 401)
        noisy = guided(model, HOST.inverter(steps_of), up, cfg=1.0, noise=NOTHING)
        assert torch.isfinite(noisy).all()
        again = guided(model, HOST.sampler(steps_of), up.flip(0), cfg=1.0, noise=NOTHING, latent=noisy)
        close(again, LATENT, 0.02, prediction)
    expect_error("FlipSigmas", guided, toy()[0], HOST.inverter(steps_of), levels_for("eps"))


@functools.cache
def shapes(kind):
    with torch.inference_mode():
        return NODES["OdeonShapesCheckpoint"]().load(kind)


@functools.cache
def picture():
    """(the LATENT of a Shapes picture, its caption)."""
    with torch.inference_mode():
        images, caption = NODES["OdeonShapes"]().draw(1, 64, 5, 1)
        return {"samples": shapes("shapes-unet")[2].encode(images)}, caption


def words(kind, text):
    clip = shapes(kind)[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def custom(kind, sampler, sigmas, latent, text, cfg=2.0):
    """The LATENT's samples after SamplerCustom without added noise."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    inputs = {"model": shapes(kind)[0], "add_noise": False, "noise_seed": 3, "cfg": cfg, "sampler": sampler,
              "positive": words(kind, text), "negative": words(kind, ""), "sigmas": sigmas, "latent_image": latent}
    with torch.inference_mode():
        if hasattr(SamplerCustom, "define_schema"):
            return SamplerCustom.execute(**inputs).args[0]["samples"]
        return SamplerCustom().sample(**inputs)[0]["samples"]


def inverted(name, kind, sigmas, cfg, **options):
    inputs = {key: spec[1]["default"] for key, spec in NODES[name].INPUT_TYPES()["required"].items()
              if "default" in spec[1]}
    latent, caption = picture()
    with torch.inference_mode():
        return build(name, **{**inputs, "model": shapes(kind)[0], "positive": words(kind, caption),
                              "negative": words(kind, ""), "latent": latent, "sigmas": sigmas, "cfg": cfg,
                              **options})[0]


def scheduled(kind, steps=4):
    sampling = shapes(kind)[0].get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "normal", steps).float()


def check_exact_inversions_give_an_encoded_picture_back():
    latent, caption = picture()
    for kind in ("shapes-unet", "shapes-dit"):
        sigmas = scheduled(kind)
        edit = inverted("OdeonEditFriendlyInvert", kind, sigmas, 2.0)
        ways = {"edit friendly": build("OdeonSamplerEditFriendly", noise_maps=edit, skip=0.0)[0],
                "BDIA": defaults("OdeonSamplerBDIA", noise_maps=inverted("OdeonBDIAInvert", kind, sigmas, 2.0)),
                "EDICT": defaults("OdeonEDICT", source=words(kind, caption), source_cfg=2.0,
                                  source_negative=words(kind, ""))}
        for name, sampler in ways.items():
            back = custom(kind, sampler, sigmas, latent, caption)
            off = float((back - latent["samples"]).norm() / latent["samples"].norm())
            assert off < 1e-4, f"{name} on {kind}: {off:.3g}"
            edited = custom(kind, sampler, sigmas, latent, "a large blue star in the middle on sand")
            assert torch.isfinite(edited).all() and (edited - latent["samples"]).abs().max() > 0.1, name
        expect_error("connect the SIGMAS that the inversion had", custom, kind, ways["edit friendly"],
                     scheduled(kind, 5), latent, caption)


def check_flow_inversions_never_end_in_nan():
    latent, caption = picture()
    down = scheduled("shapes-dit", 6)
    up = down.flip(0)
    up[0] = 1e-4  # FlipSigmas
    for name in ("OdeonSamplerRFInvert", "OdeonSamplerDDIMInvert"):
        noisy = custom("shapes-dit", defaults(name), up, latent, caption, cfg=1.0)
        assert torch.isfinite(noisy).all()
        edit = defaults("OdeonSamplerRFEdit", reference=latent, eta=1.0, stop=1.0)
        close(custom("shapes-dit", edit, down, {"samples": noisy}, caption), latent["samples"], 1e-4, name)
        free = custom("shapes-dit", defaults("OdeonSamplerDDIM"), down, {"samples": noisy}, caption, cfg=1.0)
        off = float((free - latent["samples"]).norm() / latent["samples"].norm())
        assert off < (0.8 if name == "OdeonSamplerDDIMInvert" else 2.0), f"{name}: {off:.3g}"


def check_sdedit_starts_where_it_says():
    latent, caption = picture()
    for kind in ("shapes-unet", "shapes-dit"):
        off = [float((custom(kind, defaults("OdeonSDEdit", sampler=defaults("OdeonSamplerDDIM"), strength=strength),
                             scheduled(kind), latent, "a large blue star in the middle on sand")
                      - latent["samples"]).norm()) for strength in (0.0, 0.4, 1.0)]
        assert off[0] < 1e-5 < off[1] < off[2], off


if __name__ == "__main__":
    run_checks(globals())
