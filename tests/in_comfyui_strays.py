"""Checks inside ComfyUI beside a stranger's pack (stray_pack.py), with guiders whose methods get a keyword nobody
knows, and with networks missing. As in_comfyui.py."""
import contextlib
import importlib.util
import sys
from unittest import mock

import in_comfyui
from comfyui_pack import (
    KINDS,
    NAME,
    NODES,
    ROOT,
    build,
    close,
    comfy,
    defaults,
    levels_for,
    run_checks,
    sample,
    sampler,
    torch,
    toy,
)

# of the checks of in_comfyui: not what ComfyUI's tables were at import, nor time, nor what runs on models of its own
BESIDE = [check for name, check in vars(in_comfyui).items()
          if name.startswith("check_") and name not in ("check_loads_fast_and_changes_no_table",
                                                        "check_apg_is_its_formula_and_composes")]


@contextlib.contextmanager
def stray():
    """The stranger's pack, loaded into ComfyUI; what it changed is put back."""
    import comfy.k_diffusion.sampling as k_sampling

    spec = importlib.util.spec_from_file_location("stray_pack", ROOT / "tests" / "stray_pack.py")
    pack = importlib.util.module_from_spec(spec)
    lists = comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES
    before = [list(names) for names in lists]
    with (mock.patch.object(comfy.samplers, "calc_cond_batch", comfy.samplers.calc_cond_batch),
          mock.patch.object(comfy.samplers.CFGGuider, "predict_noise", comfy.samplers.CFGGuider.predict_noise)):
        spec.loader.exec_module(pack)
        try:
            yield pack
        finally:
            for names, old in zip(lists, before):
                names[:] = old
            del k_sampling.sample_stray


def runs(model_of):
    """Results of solvers and guidance rules on models: {what: latent}."""
    found = {}
    for kind in KINDS:
        model, latent = model_of(kind), torch.zeros(2, 4, 8, 8)
        for name, solver in (("adams", sampler(2)), ("sde", sampler(2, eta=1.0)),
                             ("bdia", defaults("OdeonSamplerBDIA")), ("heun", defaults("OdeonSamplerEDMHeun"))):
            found[kind, name] = sample(model, solver, levels_for(kind), latent)
        for name, rule in (("OdeonAPG", in_comfyui.APG), ("OdeonGuidanceInterval", None), ("OdeonCFGRescale", None)):
            options = rule or {key: spec[1]["default"] for group in NODES[name].INPUT_TYPES().values()
                               for key, spec in group.items() if len(spec) > 1 and "default" in spec[1]}
            guided = build(name, model=model, **options)[0]
            found[kind, name] = sample(guided, sampler(2), levels_for(kind), latent, cfg=5.0)
    return found


def require_same(ours, theirs):
    """Solvers to the bit; guidance rules to rounding, since they add to what came before where they are not first."""
    assert ours.keys() == theirs.keys()
    for what, value in ours.items():
        close(theirs[what], value, 1e-5 if what[1] in NODES else 0.0, what)


def check_a_stray_pack_changes_nothing_of_ours():
    plain = runs(lambda kind: toy(kind)[0])
    with stray() as pack:
        require_same(plain, runs(lambda kind: pack.patched(toy(kind)[0])))
        assert all(pack.CALLS[key] > 50 for key in ("post_cfg", "wrapper", "predict_noise", "calc_cond_batch")), \
            f"the stray was not in the way: {pack.CALLS}"


def check_what_comes_after_ours_changes_nothing_either():
    model, latent = toy()[0], torch.zeros(1, 4, 8, 8)
    guided = build("OdeonAPG", model=model, **in_comfyui.APG)[0]
    plain = sample(guided, sampler(2), levels_for("eps"), latent, cfg=5.0)
    with stray() as pack:
        assert torch.equal(sample(pack.patched(guided), sampler(2), levels_for("eps"), latent, cfg=5.0), plain)


def check_our_checks_hold_beside_a_stray_pack():
    with stray() as pack, mock.patch.object(in_comfyui, "toy", lambda *args, **kwargs: strayed(pack, *args, **kwargs)):
        for check in BESIDE:
            check()


def strayed(pack, *args, **kwargs):
    model, network = toy(*args, **kwargs)
    return pack.patched(model), network


def check_wrappers_take_a_stranger_s_sampler():
    latent = torch.zeros(1, 4, 8, 8)
    with stray():
        theirs = comfy.samplers.ksampler("stray")
        plain = sample(toy()[0], theirs, levels_for("eps"), latent)
        assert torch.isfinite(plain).all()
        model = build("OdeonAPG", model=toy()[0], **in_comfyui.NEUTRAL)[0]
        assert (sample(model, theirs, levels_for("eps"), latent) - plain).abs().max() < 1e-5


def check_guiders_with_an_unknown_keyword():
    """As if a newer ComfyUI passed one more keyword to every method of a guider that takes keywords."""
    def told(function):
        def inner(self, *args, something_new=None, **kwargs):
            return function(self, *args, **kwargs)

        return inner

    def tells(function):
        return lambda self, *args, **kwargs: function(self, *args, **kwargs, something_new=1)

    plain, guider = runs(lambda kind: toy(kind)[0]), comfy.samplers.CFGGuider
    newer = type("Newer", (guider,), {name: told(getattr(guider, name)) for name in (
        "sample", "outer_sample", "inner_sample", "predict_noise")})
    caller = type("Caller", (newer,), {name: tells(getattr(newer, name)) for name in (
        "outer_sample", "inner_sample", "predict_noise")})
    with mock.patch.object(comfy.samplers, "CFGGuider", caller):
        require_same(plain, runs(lambda kind: toy(kind)[0]))


def check_loads_with_networks_missing():
    """The pack imports, and samples, where none of ComfyUI's networks can be imported, only what they share."""
    shared = ("comfy.ldm.modules", "comfy.ldm.common_dit", "comfy.ldm.util")
    networks = [name for name in sys.modules if name.startswith("comfy.ldm.") and not name.startswith(shared)]
    assert "comfy.ldm.flux.model" in networks
    model = toy()[0]
    missing, name = dict.fromkeys(networks), f"{NAME}_again"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    again = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {**missing, name: again}):
        spec.loader.exec_module(again)
        assert set(again.NODE_CLASS_MAPPINGS) == set(NODES)
        assert torch.isfinite(sample(model, sampler(2), levels_for("eps"), torch.zeros(1, 4, 8, 8))).all()
        try:
            import comfy.ldm.flux.model  # noqa: F401
        except ImportError:
            return
    raise AssertionError("the network was not missing")


if __name__ == "__main__":
    run_checks(globals())
