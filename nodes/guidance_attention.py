"""Guidance nodes that reach into the network: its attention, its skip connections, its conditions; and the batch's."""
from .. import host
from ..guidance.attention import MODES, adaptive_scale, away_from, identity_attention, smoothed_attention
from ..guidance.cads import STATS, annealed_rows, annealing
from ..guidance.cfg_pp import HISTORIES, cfg_pp
from ..guidance.particles import KERNELS, repelled
from ..guidance.skip_tuning import SCHEDULES, factor_at, skip_factors
from ..samplers.noise import item_seeds
from .guidance import GuidanceNode
from .inputs import BOOLEAN, CHOICE, FLOAT, MODEL, SEED, SOCKET
from .samplers import WrapNode

LAYERS = ("STRING", {"default": "", "tooltip": "Self-attention layers to disturb, commas between: middle.0, input.3, "
                     "output.0-2 on UNets (middle.0.3-5 are transformers inside a block), double.1, single.0-9 on Flux "
                     "and SD3. Empty: the middle of a UNet, double.1 of the others. A wrong name lists them all."})
SIGMA_START = FLOAT(-1.0, -1.0, 10000.0, "Works at noise levels up to this sigma; -1 from the start. On flow models "
                    "(Flux, SD3) sigma 1 is the middle, t = 0.5.", advanced=True)
SIGMA_END = FLOAT(-1.0, -1.0, 10000.0, "Stops at this sigma; -1 never. A range costs less.", advanced=True)


def _within(level: float, process, sigma_start: float, sigma_end: float) -> bool:
    """Whether a model's level lies in (sigma_end, sigma_start], limits in sigmas of x_0 + sigma eps, -1 for none."""
    alpha = process.alpha(level)
    sigma = level / alpha if alpha > 0.0 else float("inf")
    return (sigma_start < 0.0 or sigma <= sigma_start) and sigma > sigma_end


class _PerturbedNode(GuidanceNode):
    """A node that adds (prediction - prediction of a disturbed network), times scale."""
    OUTPUT_TOOLTIPS = ("The model with this guidance, at any CFG; chain further guidance nodes after it.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "scale": FLOAT(3.0, 0.0, 100.0, "How hard to push away from the disturbed prediction; 0 is off. 2 to 5 "
                           "with CFG, more without."),
            **cls.own_inputs(),
            "layers": LAYERS, "sigma_start": SIGMA_START, "sigma_end": SIGMA_END,
            "rescale": FLOAT(0.0, 0.0, 1.0, "Holds back the contrast that the push adds; 1 keeps the prediction's.",
                             advanced=True),
            "mode": CHOICE(MODES, "What rescale looks at: the guided prediction, or the prompt's alone.",
                           advanced=True),
            "adaptive": FLOAT(0.0, 0.0, 1.0, "Lets the push fade while noise falls, and spares its cost from there on: "
                              "0 never, 0.2 at the half, 0.3 after a tenth.", advanced=True),
        }}

    def patch(self, model, scale, layers, sigma_start, sigma_end, rescale, mode, adaptive, **own):
        chosen, time, process = host.attention_layers(model, layers), host.time_of(model), host.process_of(model)
        replacement = self.replacement(**own)
        if scale == 0.0 or own.get("blur") == 0.0:
            return (model.clone(),)

        def start():
            def change(denoised, call):
                level = float(call.sigma[0])  # read back: it decides whether a whole evaluation is spared
                strength = adaptive_scale(scale, time(level), adaptive)
                if strength == 0.0 or not _within(level, process, sigma_start, sigma_end):
                    return denoised
                worse, = call.predict("cond", attention=(chosen, replacement))
                return away_from(denoised, call.cond, worse, scale=strength, rescale=rescale, mode=mode)

            return change

        return (host.patch_prediction(model, start),)


class OdeonPAG(_PerturbedNode):
    TITLE = "Perturbed-attention guidance"
    DESCRIPTION = "Clearer structure, with or without a prompt: steers away from a network that sees no relations."
    SEARCH_ALIASES = ["pag", "perturbed attention", "self-attention guidance", "structure", "ahn", "unconditional"]

    @staticmethod
    def own_inputs():
        return {}

    @staticmethod
    def replacement():
        return identity_attention


class OdeonSEG(_PerturbedNode):
    TITLE = "Smoothed energy guidance"
    DESCRIPTION = "Clearer structure, with or without a prompt: steers away from a network whose attention is blurred."
    SEARCH_ALIASES = ["seg", "smoothed energy", "blur attention", "self-attention guidance", "hong", "unconditional"]

    @staticmethod
    def own_inputs():
        return {"blur": FLOAT(-1.0, -1.0, 1000.0, "Width of the blur in places of the layer's grid; -1 is infinite, "
                              "0 none. Small values push less.")}

    @staticmethod
    def replacement(blur):
        def replacement(q, k, v, **places):
            return smoothed_attention(q, k, v, blur=blur, **places)

        return replacement


class OdeonSkipTuning(GuidanceNode):
    TITLE = "Skip tuning"
    DESCRIPTION = "Scales the skip connections of a UNet: another balance of structure and detail, mostly at few steps."
    SEARCH_ALIASES = ["skip-tuning", "skip connection", "freeu", "unet", "few steps"]
    OUTPUT_TOOLTIPS = ("The model with scaled skip connections; FreeU and others act in the order of the wire.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "rho_top": FLOAT(1.0, 0.0, 2.0, "Factor at the finest level; 1 leaves it alone."),
            "rho_bottom": FLOAT(0.85, 0.0, 2.0, "Factor at the deepest level; those between lie between."),
            "levels": CHOICE(["block", "resolution"], "Counts every block as a level, or every resolution.",
                             advanced=True),
            "sigma_start": SIGMA_START, "sigma_end": SIGMA_END,
            "time_schedule": CHOICE(SCHEDULES, "linear: the factors return to 1 as the noise ends.", advanced=True),
        }}

    def patch(self, model, rho_top, rho_bottom, levels, sigma_start, sigma_end, time_schedule):
        resolutions, time, process = host.levels_of_skips(model), host.time_of(model), host.process_of(model)
        places = resolutions if levels == "resolution" else list(range(len(resolutions)))
        factors = skip_factors(places, rho_top=rho_top, rho_bottom=rho_bottom)
        always = time_schedule == "constant" and sigma_start < 0.0 and sigma_end < 0.0

        def scale_skip(h, skip, options):
            rho = factors[options["block"][1]]
            if not always:
                level = float(options["sigmas"].flatten()[0])
                if not _within(level, process, sigma_start, sigma_end):
                    return h, skip
                rho = factor_at(rho, time(level), time_schedule)
            return h, skip if rho == 1.0 else skip * rho

        return (host.patch_network(model, {"output_block_patch": scale_skip}),)


class OdeonCADS(GuidanceNode):
    TITLE = "Condition annealing"
    DESCRIPTION = "More different pictures from one prompt: hides the prompt under noise that fades during the run."
    SEARCH_ALIASES = ["cads", "diversity", "variety", "condition annealed", "noise conditioning", "sadat"]
    OUTPUT_TOOLTIPS = ("The model with annealed conditions; chain further guidance nodes after it.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "tau1": FLOAT(0.6, 0.0, 1.0, "Model time (1 is pure noise) at which the prompt is whole again. Lower: more "
                          "variety, less obedience; 1 is off."),
            "tau2": FLOAT(0.9, 0.0, 1.0, "Model time above which the prompt is all noise."),
            "s": FLOAT(0.25, 0.0, 2.0, "Amount of noise; 0 with tau1 1 changes nothing."),
            "psi": FLOAT(1.0, 0.0, 1.0, "Gives the noisy prompt its mean and spread back: 1 keeps pictures sound, 0 "
                         "lets them stray.", advanced=True),
            "target": CHOICE(["cross", "pooled", "both"], "What becomes noisy: the words, the prompt's pooled vector "
                             "(SDXL, Flux, SD3), or both.", advanced=True),
            "apply_to": CHOICE(["cond", "both"], "The positive alone, or the negative too.", advanced=True),
            "stats": CHOICE(STATS, "Mean and spread of the whole prompt, or of each word: token suits large text "
                            "encoders (T5).", advanced=True),
            "dynamic_cfg": BOOLEAN(False, "Fades the CFG in with the prompt, from 1.", advanced=True),
            "seed": SEED,
        }}

    def patch(self, model, tau1, tau2, s, psi, target, apply_to, stats, dynamic_cfg, seed):
        time = host.time_of(model)
        annealing(0.0, tau1=tau1, tau2=tau2)  # names wrong limits now

        targets = ("cross", "pooled") if target == "both" else (target,)
        options = {"s": s, "psi": psi, "stats": stats, "negative": apply_to == "both"}

        def start(noise):
            seeds = item_seeds(noise, f"cads/{seed}")

            def change(context, pooled, *, sigma, kinds):
                level = float(sigma[0])  # read back: noise is drawn on the CPU
                gamma = annealing(time(level), tau1=tau1, tau2=tau2)
                values = {"cross": context, "pooled": pooled}
                for name in targets:
                    if values[name] is not None and gamma < 1.0:
                        values[name] = annealed_rows(values[name], kinds, gamma, seeds=seeds,
                                                     stream=f"{name}/{level!r}", **options)
                return values["cross"], values["pooled"]

            return change

        patched = host.patch_conditions(model, start)
        if dynamic_cfg:
            def follow():
                return lambda scale, sigma: max(1.0, scale * annealing(time(sigma), tau1=tau1, tau2=tau2))

            patched = host.patch_scale(patched, follow)
        return (patched,)


class OdeonParticleRepulsion(GuidanceNode):
    TITLE = "Particle repulsion"
    DESCRIPTION = "Makes the pictures of a batch differ: while noise is high, each is pushed away from the others."
    SEARCH_ALIASES = ["particle guidance", "diversity", "variety", "batch", "corso", "repulsive"]
    OUTPUT_TOOLTIPS = ("The model whose batch repels itself; a batch of one is left alone.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "coeff": FLOAT(0.0, 0.0, 10000.0, "How hard pictures push each other; 0 is off. Start at 100 with "
                           "latent, at 20 with x0, and double it."),
            "sigma_break": FLOAT(1.0, 0.0, 1000.0, "Stops at this noise level. On flow models (Flux, SD3) 1 is the "
                                 "middle, t = 0.5."),
            "kernel": CHOICE(KERNELS, "What is compared: the noisy pictures, or the predicted ones."),
        }}

    def patch(self, model, coeff, sigma_break, kernel):
        process = host.process_of(model)

        def start():
            def change(denoised, call):
                level = float(call.sigma[0])
                if not _within(level, process, -1.0, sigma_break) and level != sigma_break:
                    return denoised
                return repelled(denoised, call.x, level, alpha=process.alpha(level), coeff=coeff, kernel=kernel)

            return change

        return (host.patch_prediction(model, start),)


class OdeonWrapCFGPP(WrapNode):
    TITLE = "CFG++"
    DESCRIPTION = "Guidance that stays close to real pictures: any of Odeon's solvers, with a CFG between 0 and 1."
    SEARCH_ALIASES = ["cfg++", "cfg pp", "cfgpp", "low cfg", "manifold", "euler_cfg_pp", "chung"]
    OUTPUT_TOOLTIPS = ("The sampler as CFG++. Set the CFG to 0.4 to 1, and connect a negative prompt.",)
    CATEGORY = "Odeon/guidance"
    WRAP = staticmethod(cfg_pp)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that has steps from the schedule."),
            "history": CHOICE(HISTORIES, "What multistep samplers remember of earlier steps: the guided predictions, "
                              "or those without the prompt, as ComfyUI's dpmpp_2m_cfg_pp does.", advanced=True),
        }}


NODES = (OdeonPAG, OdeonSEG, OdeonSkipTuning, OdeonCADS, OdeonParticleRepulsion,
         OdeonWrapCFGPP)
