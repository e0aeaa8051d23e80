"""Guidance between the steps of a sampler, and measurements of what guidance works with."""
import torch

from .. import host
from ..guidance.classifier import calibration_error
from ..guidance.minority import quantile_bins
from ..guidance.recurrence import recur
from ..guidance.reflect import into_box
from ..guidance.stepwise import SELECTS, sample_stepwise_select
from ..measure.pictures import measure_logits, measure_scores
from ..measure.plot import draw_lines
from ..samplers.process import FLOW
from .guidance_losses import VAE, decoding, distance_of, losses_of, seen_by
from .inputs import CHOICE, FLOAT, INT, SOCKET
from .samplers import MeasuringNode, WrapNode


class OdeonStepwiseSelect:
    TITLE = "Stepwise selection"
    DESCRIPTION = "Draws each step several times and goes on from the draw whose picture is best by a loss you choose."
    SEARCH_ALIASES = ["spo", "best of n", "particles", "preference", "reward", "step-aware", "select"]
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("The sampler that selects; connect to SamplerCustom or SamplerCustomAdvanced.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's with noise that calls the model once a step: DDIM at eta 1 "
                                         "as in the paper."),
            "loss": SOCKET("ODEON_LOSS", "What makes a draw better: the smallest is kept."),
            "k": INT(2, 1, 64, "Draws of each step; 1 is the sampler as it is. Time grows with it."),
            "start_step": INT(4, 0, 10000, "The first step to draw several times; earlier predictions are too blurred "
                                           "to judge."),
            "every": INT(1, 1, 1000, "Draw only every so-manyth step several times.", advanced=True),
            "select": CHOICE(SELECTS, "best: greedy, ours. softmax: by chance, better ones more often. random: any, "
                                      "the paper's own for training, as a check."),
            "temperature": FLOAT(1.0, 0.01, 100.0, "For softmax: low is nearly best, high random.", advanced=True),
        }, "optional": {"vae": VAE}}

    def build(self, sampler, loss, vae=None, **options):
        plan_fn, _ = host.plan_of(sampler)

        def score(model):
            value_of, done = losses_of(model, loss, vae)

            def of(denoised):
                value = -value_of(denoised)
                done()
                return value
            return of

        return (host.sampler(sample_stepwise_select, plan=host.OfModel(lambda model: host.plan_for(model, sampler)),
                             stream=plan_fn.__name__.removeprefix("plan_"), score=host.OfModel(score), **options),)


class OdeonWrapRecurrence(WrapNode):
    TITLE = "Recurrence"
    DESCRIPTION = ("Takes each step several times, noising its end back up, so that strong guidance can settle into a "
                   "picture.")
    SEARCH_ALIASES = ["recurrence", "time travel", "universal guidance", "freedom", "resampling", "self recurrence"]
    OUTPUT_TOOLTIPS = ("The sampler whose steps are taken again.",)
    CATEGORY = "Odeon/guidance"
    WRAP = staticmethod(recur)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that looks at no earlier step: DDIM, DPM-Solver, or "
                                         "Exponential Adams of order 1."),
            "recurrence": INT(2, 1, 100, "Times each step is taken; 1 is the sampler as it is. Time grows with it."),
            "sigma_hi": FLOAT(1000.0, 0.0, 100000.0, "Only steps from below this noise level are repeated.",
                              step=0.001),
            "sigma_lo": FLOAT(0.0, 0.0, 100000.0, "Only steps from above this noise level are repeated.", step=0.001),
        }}


class OdeonReflect:
    TITLE = "Reflect (experimental)"
    DESCRIPTION = ("Experimental: folds the state back into the box its data lives in, after every step. For pixel "
                   "models.")
    SEARCH_ALIASES = ["reflected diffusion", "bounded", "clamp", "lou", "box"]
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("The sampler that stays in the box.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "One of Odeon's that does not redo its steps."),
            "bound": FLOAT(1.0, 0.01, 1000.0, "Half the box's width: 1 for pixel models."),
            "sigmas_out": FLOAT(3.0, 0.0, 100.0, "Room for noise: the box of a state is bound + this many noise "
                                                 "levels. 0 is the paper's box, for models trained in it."),
            "how": CHOICE(["reflect", "clamp"], "reflect: fold at the walls. clamp: press onto them."),
        }}

    def build(self, sampler, bound, sigmas_out, how):
        def change(x, sigma, process):
            return into_box(x, process.alpha(sigma) * bound + sigmas_out * sigma, how=how)

        return (host.after_steps(sampler, change),)


class OdeonMinorityScore(MeasuringNode):
    TITLE = "Minority score"
    DESCRIPTION = ("How unusual pictures are to a model: how far they come back from themselves when noised and "
                   "denoised.")
    SEARCH_ALIASES = ["minority", "rare", "novelty", "outlier", "reconstruction error", "um"]
    RETURN_TYPES = ("STRING", "FLOAT")
    RETURN_NAMES = ("scores", "mean")
    OUTPUT_TOOLTIPS = ("A line for each picture: its score, and which quarter of these pictures it is in.",
                       "The mean score.")
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model to which the pictures are usual or not."),
            "positive": SOCKET("CONDITIONING", "Under which prompt; an empty one asks the whole model."),
            "negative": SOCKET("CONDITIONING", "Of no use at cfg 1."),
            "latent": SOCKET("LATENT", "The pictures to score, encoded."),
            "cfg": FLOAT(1.0, 1.0, 100.0, "1 asks the prompt alone.", step=0.1),
            "t": FLOAT(0.6, 0.0, 1.0, "How far up the model's levels the pictures are noised: the paper's 60th of "
                                      "100."),
            "repeats": INT(5, 1, 1000, "Noises to average over."),
            "metric": CHOICE(["l2", "l1", "features"], "Distance: of latents, or of a network's features of the "
                                                       "pictures (LPIPS), which needs vae and features."),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises; the same number, the same scores."),
            "batch": INT(8, 1, 1024, "Pictures at once: only memory and speed depend on it.", advanced=True),
        }, "optional": {
            "vae": VAE,
            "features": SOCKET("ODEON_CLASSIFIER", "A network of features of pictures, from Load classifier."),
        }}

    def measure(self, model, positive, negative, latent, cfg, t, repeats, metric, start_seed, batch, vae=None,
                features=None):
        table = host.levels_of(model).sigmas
        sigma = float(table[int(t * (len(table) - 1))])
        distance, done = distance_of(model, metric, vae, features)
        samples = latent["samples"]

        def start(denoise, x, *, state, process, clock):
            pictures = host.of_latent(model, samples).to(x)
            return measure_scores(denoise, pictures, sigma=sigma, repeats=repeats, process=process, distance=distance,
                                  seed=start_seed, state=state)

        state, _ = host.measure(
            model, positive, negative, cfg, what="minority scores", latent=latent, count=len(samples),
            sigmas=torch.tensor([sigma, 0.0]), seed=start_seed, start=start, cost=repeats * len(samples), batch=batch,
            options={"pictures": samples, "repeats": repeats, "metric": metric, "t": t})
        done()
        scores = state["scores"]
        lines = [f"{score:.6g}  quarter {quarter + 1}" for score, quarter in
                 zip(scores.tolist(), quantile_bins(scores, 4).tolist())]
        return ("\n".join(lines), scores.mean().item())


class OdeonClassifierCalibration(MeasuringNode):
    TITLE = "Classifier calibration"
    DESCRIPTION = ("How far a classifier can be trusted at each noise level: its calibration error on what the model "
                   "predicts.")
    SEARCH_ALIASES = ["ece", "calibration", "classifier guidance", "confidence", "elucd"]
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("report", "plot")
    OUTPUT_TOOLTIPS = ("Calibration error, accuracy and confidence at each level, and over all.", "The same, drawn.")
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": SOCKET("MODEL", "The model that will be guided."),
            "positive": SOCKET("CONDITIONING", "As in the run to guide; an empty prompt for guidance without one."),
            "negative": SOCKET("CONDITIONING", "Of no use at cfg 1."),
            "sigmas": SOCKET("SIGMAS", "The levels to measure at, those above 0: take few, 5 to 20."),
            "latent": SOCKET("LATENT", "True pictures, encoded: 256 and more for a figure to trust."),
            "classifier": SOCKET("ODEON_CLASSIFIER", "What to measure."),
            "labels": ("STRING", {"default": "", "multiline": True, "tooltip": "The true class of each picture, a "
                                                                               "line each: label, number, or a "
                                                                               "caption with the label among its "
                                                                               "words."}),
            "cfg": FLOAT(1.0, 1.0, 100.0, "1 asks the prompt alone.", step=0.1),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises; the same number, the same figures."),
            "batch": INT(8, 1, 1024, "Pictures at once: only memory and speed depend on it.", advanced=True),
        }, "optional": {"vae": VAE}}

    def measure(self, model, positive, negative, sigmas, latent, classifier, labels, cfg, start_seed, batch, vae=None):
        samples, lines = latent["samples"], [line for line in labels.splitlines() if line.strip()]
        if len(lines) != len(samples):
            raise ValueError(f"need a label for each of {len(samples)} pictures, got {len(lines)}; a line each")
        truth = torch.tensor([classifier.label_in(line) for line in lines])
        levels = [sigma for sigma in sigmas.tolist() if sigma > 0.0]
        decode = decoding(classifier, vae)

        def read(x, denoised, sigma):
            if classifier.sees != "noisy latent":
                return torch.cat([classifier.logits(seen_by(classifier, host.as_latent(model, part), decode))
                                  for part in denoised.split(batch)])
            alpha = host.process_of(model).alpha(sigma)
            timestep = host.levels_of(model).timestep(x.new_full((len(x),), sigma)).float()
            return classifier.logits(x / (alpha ** 2 + sigma ** 2) ** 0.5, timestep)

        def start(denoise, x, *, state, process, clock):
            return measure_logits(denoise, host.of_latent(model, samples).to(x), levels, process=process, logits=read,
                                  seed=start_seed, state=state)

        state, _ = host.measure(
            model, positive, negative, cfg, what="classifier calibration", latent=latent, count=len(samples),
            sigmas=sigmas, seed=start_seed, start=start, cost=len(levels) * len(samples), batch=batch,
            options={"pictures": samples, "labels": classifier.labels, "sees": classifier.sees})
        classifier.give_back()
        return self.told(levels, state["logits"], truth, "t" if host.process_of(model) is FLOW else "sigma")

    @staticmethod
    def told(levels: list[float], logits, truth, unit: str) -> tuple:
        """(report, plot) of logits (levels, N, K)."""
        rows = [(level, calibration_error(each, truth), (each.argmax(1) == truth).double().mean().item(),
                 each.double().softmax(1).amax(1).mean().item()) for level, each in zip(levels, logits)]
        lines = [f"{unit}  calibration error  accuracy  confidence",
                 *(f"{level:.4g}  {100 * error:.1f} %  {100 * right:.1f} %  {100 * sure:.1f} %"
                   for level, error, right, sure in rows),
                 f"mean calibration error {100 * sum(row[1] for row in rows) / len(rows):.1f} % over {len(truth)} "
                 f"pictures"]
        curves = {name: [(i, row[1 + j]) for i, row in enumerate(rows)]
                  for j, name in enumerate(("calibration error", "accuracy", "confidence"))}
        return ("\n".join(lines), draw_lines(curves, title="Classifier calibration", x_label="level, in order",
                                             y_label="share"))


NODES = (OdeonStepwiseSelect, OdeonWrapRecurrence, OdeonReflect, OdeonMinorityScore, OdeonClassifierCalibration)
