"""Guidance rules in ComfyUI: hooks on a MODEL whose state is born at the start of every run."""
import math

import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers

from ..samplers.process import FLOW, VE
from .comfyui_attention import with_attention
from .common import Beside, Call, RunOfRules, follow_rule, require_beside, require_uncond, unless_left_out
from .gradients import Statement, differentiating
from .measuring import fingerprint

_RUN = "odeon_run"  # the run's RunOfRules, in its own model_options
_STARTS, _SCALES, _EVALUATES = "odeon_starts", "odeon_scales", "odeon_evaluates"
_EVALUATE = "sampler_calc_cond_batch_function"


def patch_guidance(model, start):
    """A MODEL with one more guidance rule, after whatever changes the prediction already.

    start() -> rule, called at the start of every run, so that a rule's state lives and dies with it (a call outside
    a run is a run of one); rule(cond, uncond, call: Call) -> the guided prediction. Where the unconditional prediction
    was not evaluated no rule runs.
    """
    def apply(args):
        call = _call_after(args)
        if call.uncond is None or call.uncond is call.cond:
            return args["denoised"]
        options = args["model_options"]
        guided = _state(options, start)(call.cond, call.uncond, call)
        first = "sampler_cfg_function" not in options and options["sampler_post_cfg_function"][0] is apply
        guided = follow_rule(args["denoised"], call.cond, call.uncond, scale=call.scale, guided=guided, first=first)
        if not options.get(_EVALUATES):
            return guided
        return unless_left_out(guided, args["denoised"], call.cond, call.uncond)

    patched = _with_state(model, start)
    patched.set_model_sampler_post_cfg_function(apply)
    return patched


def patch_prediction(model, start):
    """A MODEL whose every prediction goes through one more change, after guidance and at any scale.

    start() -> change, called at the start of every run; change(denoised, call: Call) -> denoised.
    """
    def apply(args):
        return _state(args["model_options"], start)(args["denoised"], _call_after(args))

    patched = _with_state(model, start)
    patched.set_model_sampler_post_cfg_function(apply)
    return patched


def patch_evaluation(model, start):
    """A MODEL with one more say in what is evaluated, wherever guidance is on (not at CFG 1).

    start() -> evaluate, called at the start of every run; evaluate(call: Call) -> (cond, uncond), made by
    call.predict, which asks evaluations patched before. Returning (cond, cond) is no guidance, and no rule runs.
    """
    earlier = model.model_options.get(_EVALUATE)

    def apply(args):
        options, run = args["model_options"], args["model_options"].get(_RUN)
        if run is None or args["conds"][1] is None:
            return earlier(args) if earlier else comfy.samplers.calc_cond_batch(
                args["model"], args["conds"], args["input"], args["sigma"], options)
        require_uncond(options.get("disable_cfg1_optimization", False))
        base = _predictor(args["model"], args["conds"], args["input"], args["sigma"], options)

        def predict(*kinds, x=None, sigma=None, **changes):
            plain = x is None and sigma is None and not changes and "uncond" in kinds
            if plain and _is_ours(earlier):
                both = dict(zip(("cond", "uncond"), earlier(args)))
                return tuple(both[kind] for kind in kinds)
            run.unconds += plain
            return base(*kinds, x=x, sigma=sigma, **changes)

        call = Call(args["input"], args["sigma"], run.sigmas, run.scale, _process(args["model"]), None, None, predict,
                    run.mask)
        return [*run.states[start](call)]

    apply.earlier = earlier
    patched = _with_state(model, start)
    patched.model_options |= {_EVALUATE: apply, _EVALUATES: True}
    return patched


def patch_scale(model, start):
    """A MODEL whose CFG depends on the level, for everything that reads it; at 1 nothing unconditional is evaluated.

    start() -> change, called at the start of every run; change(scale, sigma: float) -> scale. Not called where the
    sampler's own CFG is 1, nor without a negative.
    """
    patched = _with_state(model, start)
    patched.model_options[_SCALES] = [*patched.model_options.get(_SCALES, []), start]
    return patched


def with_model(model, other, positive=None):
    """(a MODEL that keeps another one loaded beside it, what Call.predict takes as model=).

    positive: the other one's own words for 'cond', where it has another text encoder. Raises ValueError where the two
    can't be evaluated on one state. Guidance nodes of the other one do nothing.
    """
    for what, read in (("kind of latents", _latents), ("kind of model", lambda model: type(model.model).__name__),
                       ("prediction type", _prediction)):
        require_beside(what, read(model), read(other))
    patched = model.clone()
    if other.model is not model.model:
        key = f"odeon {len(patched.additional_models)}"
        patched.set_additional_models(key, [other])
        return patched, Beside(key, other, positive, fingerprint(other.model.diffusion_model, {}))
    if other.patches_uuid != model.patches_uuid or other.object_patches != model.object_patches:
        raise ValueError("both MODELs are the same checkpoint with different LoRAs or sampling patches, of which one "
                         "at a time can be loaded; load the checkpoint a second time from a copy of its file")
    return patched, Beside(None, other, positive, {})


def _with_state(model, start):
    """A clone of a MODEL whose runs begin with start()."""
    patched, kinds = model.clone(), comfy.patcher_extension.WrappersMP
    patched.model_options[_STARTS] = [*patched.model_options.get(_STARTS, []), start]
    for kind, wrapper in ((kinds.OUTER_SAMPLE, _begin), (kinds.SAMPLER_SAMPLE, _keep_mask),
                          (kinds.PREDICT_NOISE, _guide)):
        if wrapper not in patched.get_wrappers(kind, "odeon"):
            patched.add_wrapper_with_key(kind, "odeon", wrapper)
    return patched


def _begin(executor, *args, **kwargs):
    """Around a whole run: gives it fresh states."""
    options = executor.class_obj.model_options
    if options.get(_EVALUATES) and not _is_ours(options.get(_EVALUATE)):
        raise ValueError("another node after it replaced what an Odeon guidance node does instead of evaluating both "
                         "prompts (a skip-layer guidance of the 'simple' kind does); put that node before Odeon's")
    sigmas = args[3] if len(args) > 3 else kwargs["sigmas"]
    run = options[_RUN] = RunOfRules(options[_STARTS], sigmas.tolist())
    run.guider, run.beside = executor.class_obj, {}
    result = executor(*args, **kwargs)
    run.report()
    return result


def fresh_run(options: dict, guider, run) -> dict:
    """model_options of one more guider in a run (a KSamplerX0Inpaint): its rules with states of their own."""
    if _RUN in options:
        mask = options[_RUN].mask
        options[_RUN] = own = RunOfRules(options[_STARTS], run.sigmas.tolist())
        own.guider, own.beside, own.mask = guider, {}, mask
    return options


def _keep_mask(executor, *args, **kwargs):
    """Around the sampler: the mask it was given, as large as the latent."""
    run = args[0].model_options.get(_RUN)
    if run is not None:
        run.mask = args[6] if len(args) > 6 else kwargs.get("denoise_mask")
    return executor(*args, **kwargs)


def _guide(executor, *args, **kwargs):
    """Around one evaluation of a guider: its CFG at this level."""
    guider = executor.class_obj
    run, before = guider.model_options.get(_RUN), getattr(guider, "cfg", 1.0)
    if run is None or math.isclose(before, 1.0) or not guider.conds.get("negative"):
        return executor(*args, **kwargs)
    sigma, options = args[1], guider.model_options
    run.scale = guider.cfg = run.scale_at(before, sigma, options.get(_SCALES, ()))
    if not options.get(_EVALUATES):
        run.unconds += not math.isclose(run.scale, 1.0)
    try:
        return executor(*args, **kwargs)
    finally:
        guider.cfg = before


def _state(options, start):
    """The rule of this run; a fresh one outside a run."""
    run = options.get(_RUN)
    return run.states[start] if run is not None else start()


def _call_after(args) -> Call:
    """The Call of a post-CFG hook's arguments; unevaluated predictions come as zeros there."""
    options, model, conds = args["model_options"], args["model"], [args["cond"], args["uncond"]]
    run, x, sigma = options.get(_RUN), args["input"], args["sigma"]
    if conds[1] is None and run is not None:
        conds[1] = run.guider.conds.get("negative")
    return Call(x, sigma, run.sigmas if run is not None else [], args["cond_scale"], _process(model),
                args["cond_denoised"], None if args["uncond"] is None else args["uncond_denoised"],
                _predictor(model, conds, x, sigma, options), run.mask if run is not None else None)


def _predictor(model, conds, at_x, at_sigma, options):
    """Call.predict of one evaluation: conds are what 'cond' and 'uncond' mean."""
    def predict(*kinds, x=None, sigma=None, **changes):
        asked = [entries if kind in kinds else None for kind, entries in zip(("cond", "uncond"), conds)]
        if "uncond" in kinds and not conds[1]:
            raise ValueError("this needs a negative prompt, and the guider has none; take one with a negative "
                             "(CFGGuider, KSampler)")
        both = dict(zip(("cond", "uncond"), _evaluated(model, asked, at_x if x is None else x,
                                                       at_sigma if sigma is None else sigma, options, **changes)))
        return tuple(both[kind] for kind in kinds)

    statement = options[_RUN].statement if _RUN in options else Statement("network")
    return differentiating(predict, model.diffusion_model, sigma=at_sigma, statement=statement)


def _evaluated(base, conds, x, sigma, options, *, model=None, attention=None):
    """[cond, uncond] denoised, zeros for those that are None. model: what with_model gave; attention: (layers,
    replacement) of self-attention, see with_attention."""
    if model is not None:
        base, conds, options = _beside(model, conds, x, options)
    if attention is not None:
        options = with_attention(base, options, attention)
    calculate = options.get(_EVALUATE)
    while _is_ours(calculate):
        calculate = calculate.earlier
    if calculate is not None:
        return calculate({"conds": conds, "input": x, "sigma": sigma, "model": base, "model_options": options})
    return comfy.samplers.calc_cond_batch(base, conds, x, sigma, options)


def _beside(beside, conds, x, options):
    """(BaseModel, [cond, uncond], model_options) of a model that with_model put beside the one that samples."""
    run = options[_RUN]
    if id(beside) not in run.beside:
        other = beside.model
        if beside.key is not None:
            other = run.guider.model_patcher.get_additional_models_with_key(beside.key)[0]
            if other.model.current_patcher is None:
                other.pre_run()
        own, positive = comfy.model_patcher.create_model_options_clone(other.model_options), None
        comfy.sampler_helpers.prepare_model_patcher(other, {}, own)
        own["transformer_options"]["sample_sigmas"] = options["transformer_options"].get("sample_sigmas")
        if beside.positive is not None:
            positive = comfy.samplers.process_conds(
                other.model, x, {"positive": comfy.sampler_helpers.convert_cond(beside.positive)}, x.device, seed=0)
        run.beside[id(beside)] = other.model, positive["positive"] if positive else None, own
    base, positive, own = run.beside[id(beside)]
    return base, [positive if positive and conds[0] else conds[0], conds[1]], own


def _is_ours(calculate) -> bool:
    return hasattr(calculate, "earlier")


def _process(model):
    return FLOW if isinstance(model.model_sampling, comfy.model_sampling.CONST) else VE


def _latents(model) -> str:
    kept = model.get_model_object("latent_format")
    return f"{type(kept).__name__} of {kept.latent_channels} channels"


def _prediction(model) -> str:
    """The name of what a MODEL predicts."""
    sampling = comfy.model_sampling
    kinds = (sampling.V_PREDICTION, sampling.EDM, sampling.CONST, sampling.X0, sampling.EPS)
    its = model.get_model_object("model_sampling")
    return next((kind.__name__ for kind in kinds if isinstance(its, kind)), type(its).__name__)
