"""DC-Solver and IIA, whose numbers are fitted to a model and a schedule, and the nodes that fit them."""
from .. import host
from ..measure.dc_ratios import METHODS as SEARCHES
from ..measure.dc_ratios import dc_cost, taught_dc_ratios, teacher_cost
from ..measure.iia import fit_iia, iia_coefs, iia_cost
from ..samplers.corrector import VARIANTS
from ..samplers.dc_cpr import cpr_ratios, fit_cpr, rows_of_text
from ..samplers.dc_solver import VARIABLES, DCRatios, numbers_of_text, plan_dc_solver, ratios_of_text
from ..samplers.iia import BASES, plan_iia
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SOCKET
from .samplers import MeasuringNode, SolverNode

DC_ORDER = INT(2, 1, 3, "Degree of the polynomial that predictions are read from; the first so many ratios are 1.")
VARIABLE = CHOICE(VARIABLES, "What the polynomial counts in: the model's timestep as published, log-SNR or sigma.",
                  advanced=True)
VARIANT = CHOICE(VARIANTS, "Weight of a single difference, as in UniPC.", default="bh2", advanced=True)
UNCORRECTED = INT(0, 0, 100, "So many first steps are not redone by the corrector.", advanced=True)
LOWER_ORDER_FINAL = BOOLEAN(True, "End on orders ..., 2, 1: steadier at few steps.", advanced=True)
RATIOS_TEXT = "Also as text, to keep: it can be connected in place of the ratios."


class OdeonSamplerDCSolver(SolverNode):
    TITLE = "DC-Solver"
    DESCRIPTION = "UniPC with predictions moved in time by ratios that were searched for your model: for 5 to 10 steps."
    SEARCH_ALIASES = ["dc solver", "dynamic compensation", "unipc", "wenliang zhao"]
    PLAN = staticmethod(plan_dc_solver)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "ratios": SOCKET("ODEON_DC_RATIOS,STRING", "From Search or Estimate DC ratios, or text such as 1, 1, 1.03: "
                             "one number for each step above sigma 0."),
            "order": INT(3, 1, 4, "As in UniPC: 2 with CFG, 3 without."),
            "variant": VARIANT, "dc_order": DC_ORDER, "variable": VARIABLE, "uncorrected": UNCORRECTED,
            "lower_order_final": LOWER_ORDER_FINAL,
        }}

    def build(self, ratios, **options):
        return super().build(ratios=ratios_of_text(ratios) if isinstance(ratios, str) else ratios, **options)


class OdeonOptimizeDCRatios(MeasuringNode):
    TITLE = "Search DC ratios"
    DESCRIPTION = "Searches DC-Solver's ratios for your model, schedule and CFG against a run of many steps."
    SEARCH_ALIASES = ["dc solver", "dynamic compensation", "ratio search", "optimize steps"]
    RETURN_TYPES = ("ODEON_DC_RATIOS", "STRING", "STRING")
    RETURN_NAMES = ("ratios", "text", "row")
    OUTPUT_TOOLTIPS = ("For DC-Solver with the same options, on this schedule.", RATIOS_TEXT,
                       "A line for Fit DC ratios: cfg, steps: ratios.")

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "The schedule to search for.",
            order=INT(3, 1, 4, "As in the sampler."), variant=VARIANT, dc_order=DC_ORDER, variable=VARIABLE,
            uncorrected=UNCORRECTED, lower_order_final=LOWER_ORDER_FINAL,
            batch=INT(32, 1, 1024, "Noises to search on, all at once: ratios from the authors' 10 scatter, those from "
                                   "100 hold."),
            teacher_steps=INT(200, 10, 2000, "Steps of the accurate run to come near to."),
            method=CHOICE(SEARCHES, "brent: about a dozen trials a step. adamw: as published, two calls an iteration.",
                          advanced=True),
            iters=INT(40, 1, 1000, "Most trials of a step.", advanced=True),
            rate=FLOAT(0.1, 0.001, 1.0, "adamw: its learning rate.", step=0.001, advanced=True))

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, batch, teacher_steps, **options):
        levels = sigmas.tolist()

        def start(denoise, x, *, state, process, clock):
            return taught_dc_ratios(denoise, x, levels, teacher_steps=teacher_steps, process=process, clock=clock(),
                                    state=state, **options)

        used = {key: options[key] for key in ("dc_order", "uncorrected", "method", "iters")}
        state, about = host.measure(
            model, positive, negative, cfg, what="DC ratios", latent=latent, count=batch, sigmas=sigmas,
            seed=start_seed, options={**options, "teacher_steps": teacher_steps}, start=start,
            cost=teacher_cost(levels, teacher_steps) + dc_cost(levels, **used))
        about.pop("model")  # a cousin of the model may use them
        ratios = DCRatios(tuple(state["search.ratios"].tolist()), tuple(levels), about)
        text = ", ".join(f"{ratio:.4f}" for ratio in ratios.values)
        return (ratios, text, f"{cfg:g}, {len(ratios.values)}: {text}")


class OdeonDCRatiosCPR:
    TITLE = "Estimate DC ratios"
    DESCRIPTION = "DC-Solver's ratios for any CFG and number of steps from a fitted table: no search needed."
    SEARCH_ALIASES = ["dc solver", "cascade polynomial regression", "cpr"]
    RETURN_TYPES = ("ODEON_DC_RATIOS", "STRING")
    RETURN_NAMES = ("ratios", "text")
    OUTPUT_TOOLTIPS = ("For DC-Solver with order 2, bh2 and dc_order 2.", RATIOS_TEXT)
    FUNCTION = "build"
    CATEGORY = "Odeon/samplers/ode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "cfg": FLOAT(7.5, 1.0, 12.0, "The sampler's.", step=0.1),
            "steps": INT(8, 5, 20, "Steps of the schedule above sigma 0: one less than the scheduler's."),
        }, "optional": {
            "coeffs": ("STRING", {"default": "", "multiline": True, "tooltip": "36 numbers from Fit DC ratios; empty: "
                                  "the authors' for Stable Diffusion 2.1 on even timesteps."}),
        }}

    def build(self, cfg, steps, coeffs=""):
        ratios = cpr_ratios(cfg, steps, numbers_of_text(coeffs, "coeffs") if coeffs.strip() else None)
        return (ratios, ", ".join(f"{ratio:.4f}" for ratio in ratios.values))


class OdeonFitDCCPR:
    TITLE = "Fit DC ratios"
    DESCRIPTION = "A table for Estimate DC ratios out of searches at several CFG scales and numbers of steps."
    SEARCH_ALIASES = ["dc solver", "cascade polynomial regression", "cpr", "least squares"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("coeffs",)
    OUTPUT_TOOLTIPS = ("36 numbers for Estimate DC ratios.",)
    FUNCTION = "fit"
    CATEGORY = "Odeon/samplers/ode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"rows": ("STRING", {
            "default": "", "multiline": True, "tooltip": "A line for each search, as Search DC ratios gives it: cfg, "
            "steps: ratios. At least 3 scales with at least 3 numbers of steps each."})}}

    def fit(self, rows):
        return (", ".join(f"{coeff:.9g}" for coeff in fit_cpr(rows_of_text(rows))),)


class OdeonSamplerIIA(SolverNode):
    TITLE = "IIA"
    DESCRIPTION = "DDIM, EDM Heun or DPM-Solver++(2M) with every step mended by numbers fitted on your model."
    SEARCH_ALIASES = ["iia", "improved integration approximation", "guoqiang zhang", "biia"]
    PLAN = staticmethod(plan_iia)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"iia": SOCKET("ODEON_IIA", "From Fit IIA, for this schedule.")}}


class OdeonFitIIA(MeasuringNode):
    TITLE = "Fit IIA"
    DESCRIPTION = "Fits the numbers that mend each step of a sampler on your model, schedule and CFG, in a minute."
    SEARCH_ALIASES = ["iia", "improved integration approximation", "optimize steps", "biia"]
    RETURN_TYPES = ("ODEON_IIA",)
    OUTPUT_TOOLTIPS = ("For the IIA sampler.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls.inputs(
            "The schedule to fit for.",
            base=CHOICE(BASES, "The sampler to mend."),
            r=INT(1, 0, 4, "Predictions of so many steps before are weighed too: 1 gains much over 0. More can fit "
                           "noise: raise samples with it."),
            ridge=FLOAT(0.0, 0.0, 1.0, "Holds the weights small: 0.01 is safer with edm and dpmpp2m.", step=0.001),
            substeps=INT(10, 2, 100, "Each step is compared with so many smaller ones."),
            samples=INT(20, 1, 1024, "Noises to fit on, all at once."))

    def measure(self, model, positive, negative, sigmas, latent, cfg, start_seed, base, r, ridge, substeps,
                samples):
        levels = sigmas.tolist()

        def start(denoise, x, *, state, process, clock):
            return fit_iia(denoise, x, levels, base=base, r=r, ridge=max(ridge, 1e-8), substeps=substeps,
                           process=process, state=state)

        state, about = host.measure(
            model, positive, negative, cfg, what="IIA weights", latent=latent, count=samples, sigmas=sigmas,
            seed=start_seed, options={"base": base, "r": r, "ridge": ridge, "substeps": substeps}, start=start,
            cost=iia_cost(levels, base=base, substeps=substeps))
        about.pop("model")
        return (iia_coefs(state, levels, base=base, r=r, about=about),)


NODES = (OdeonSamplerDCSolver, OdeonOptimizeDCRatios, OdeonDCRatiosCPR, OdeonFitDCCPR, OdeonSamplerIIA, OdeonFitIIA)
