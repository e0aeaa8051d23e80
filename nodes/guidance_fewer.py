"""Guidance nodes that leave out the unconditional evaluation where it isn't missed."""
from .. import host
from ..guidance.adaptive import SPACES, agreement, decided, first_state, resolved
from ..guidance.carried import Carried
from ..guidance.linear_ag import estimated, of_slope, slope, step_of
from ..measure.kept import load_linear_ag, save_linear_ag
from ..measure.linear_ag import POLICIES, fit_linear_ag, linear_ag_coefs, linear_ag_cost
from .files import file_of
from .guidance import GuidanceNode
from .inputs import CHOICE, FLOAT, INT, MODEL, SOCKET
from .samplers import MeasuringNode

SAVING_TIP = ("The model; the log tells at the end how many evaluations were saved.",)


class OdeonAdaptiveGuidance(GuidanceNode):
    TITLE = "Adaptive Guidance"
    DESCRIPTION = "Stops evaluating the negative once it agrees with the prompt: nearly the same picture, sooner."
    SEARCH_ALIASES = ["adaptive guidance", "ag", "faster cfg", "skip cfg", "speed up", "castillo"]
    OUTPUT_TOOLTIPS = SAVING_TIP

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "gamma": FLOAT(0.991, 0.9, 1.01, "The agreement, as a cosine, from which on the prompt alone is evaluated; "
                           "lower is faster and less exact, 1.01 never stops.", step=0.0001),
            "space": CHOICE(SPACES, "What is compared: auto takes the denoised predictions, on flow models the "
                            "velocities. Noise (eps) and velocity agree at the first step already; there it must have "
                            "risen since the step before."),
            "min_steps": INT(1, 1, 1000, "So many steps are guided at least."),
        }}

    def patch(self, model, gamma, space, min_steps):
        space = resolved(space, host.process_of(model))

        def start():
            carried = Carried()

            def evaluate(call):
                state = carried.at(call.sigma, first_state(len(call.x), call.sigma.float()))
                switched = state[:, 0] > 0.0
                if bool(switched.all()):  # the one thing read back in a step
                    carried.keep(state)
                    cond, = call.predict("cond")
                    return cond, cond
                cond, uncond = call.predict("cond", "uncond")
                cosine = agreement(cond, uncond, call.x, call.sigma, space=space, process=call.process)
                carried.keep(decided(state, cosine.to(state), gamma=gamma, min_steps=min_steps, space=space))
                return cond, uncond.where(~switched.reshape(-1, *[1] * (cond.ndim - 1)), cond)

            return evaluate

        return (host.patch_evaluation(model, start),)


class OdeonLinearAG(GuidanceNode):
    TITLE = "LinearAG"
    DESCRIPTION = "Estimates the negative's prediction from earlier ones, by weights fitted to your model."
    SEARCH_ALIASES = ["linear adaptive guidance", "linearag", "faster cfg", "skip cfg", "speed up", "castillo"]
    OUTPUT_TOOLTIPS = SAVING_TIP

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "coefs": SOCKET("ODEON_LINEAR_AG,STRING", "From Fit LinearAG, or the name of a file that it kept. For the "
                            "model, the schedule and about the CFG they were fitted for."),
        }}

    def patch(self, model, coefs):
        if isinstance(coefs, str):
            coefs = load_linear_ag(file_of("linear_ag", coefs))
        if not host.same_weights(coefs.about["model"], host.identity(model)):
            raise ValueError("these LinearAG weights were fitted on another model; fit them on this one, or load the "
                             "model they were fitted on")
        def start():
            conds, unconds = [], []

            def evaluate(call):
                i = step_of(float(call.sigma[0]), coefs)
                if i > len(unconds):
                    raise ValueError(f"LinearAG starts in the middle: the run is at step {i + 1} of its schedule and "
                                     f"has seen {len(unconds)}; give it the whole schedule, with denoise 1")
                del conds[i:], unconds[i:]  # a step that is done again
                if coefs.policy[i] == "both":
                    cond, uncond = call.predict("cond", "uncond")
                    conds.append(slope(cond, call.x, call.sigma))
                    unconds.append(slope(uncond, call.x, call.sigma))
                    return cond, uncond
                cond, = call.predict("cond")
                conds.append(slope(cond, call.x, call.sigma))
                unconds.append(estimated(conds, unconds, coefs))
                return cond, cond if coefs.policy[i] == "cond" else of_slope(unconds[-1], call.x, call.sigma)

            return evaluate

        return (host.patch_evaluation(model, start),)


class OdeonFitLinearAG(MeasuringNode):
    TITLE = "Fit LinearAG"
    DESCRIPTION = "Records guided runs of your model and fits how the negative's prediction follows from earlier ones."
    SEARCH_ALIASES = ["linear adaptive guidance", "linearag", "least squares", "policy search"]
    RETURN_TYPES = ("ODEON_LINEAR_AG", "STRING")
    RETURN_NAMES = ("coefs", "text")
    OUTPUT_TOOLTIPS = ("For LinearAG on this schedule.", "What is evaluated at each step, to read.")
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "The schedule to fit for.",
            samples=INT(64, 1, 4096, "Noises to fit on, all at once: the paper takes 200 prompts."),
            ridge=FLOAT(1e-6, 0.0, 1.0, "Holds the weights small; raise it where pictures break up.", step=1e-7,
                        advanced=True),
            policy=CHOICE(POLICIES, "paper: half of the first half is estimated, the second half not guided. search: "
                          "step by step from the end, the least work that stays within the tolerance."),
            tolerance=FLOAT(0.05, 0.0, 1.0, "For search: how far the pictures may move, as a share of their size."),
            name=("STRING", {"default": "", "tooltip": "Keeps the weights in a file of this name, for LinearAG to "
                                                       "load; empty: not kept."}))

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, samples, ridge, policy,
                tolerance, name):
        if abs(cfg - 1.0) < 1e-6:
            raise ValueError("LinearAG is fitted where guidance is on: cfg must not be 1")
        levels, seen = sigmas.tolist(), []

        def watch():
            def rule(cond, uncond, call):
                seen.append((cond, uncond))
                return uncond + call.scale * (cond - uncond)

            return rule

        watched = host.patch_guidance(model, watch)

        def start(denoise, x, *, state, process, clock):
            def predict(x, sigma):
                seen.clear()
                denoise(x, sigma)
                return seen[-1]

            return fit_linear_ag(predict, x, levels, scale=cfg, ridge=max(ridge, 1e-12), policy=policy,
                                 tolerance=tolerance, state=state)

        state, about = host.measure(
            watched, positive, negative, cfg, what="LinearAG weights", latent=latent, count=samples, sigmas=sigmas,
            seed=start_seed, options={"ridge": ridge, "policy": policy, "tolerance": tolerance}, start=start,
            cost=linear_ag_cost(levels, policy=policy))
        coefs = linear_ag_coefs(state, levels, about)
        if name.strip():
            save_linear_ag(file_of("linear_ag", name), coefs)
        saved = sum(choice != "both" for choice in coefs.policy)
        text = f"{', '.join(coefs.policy)}: {saved} of {2 * len(coefs.policy)} evaluations saved"
        return {"ui": {"text": [text]}, "result": (coefs, text)}


NODES = (OdeonAdaptiveGuidance, OdeonLinearAG, OdeonFitLinearAG)
