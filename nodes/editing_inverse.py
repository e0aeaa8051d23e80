"""Editing that keeps a known part of a picture, and restoring one from a measurement of it."""
from .. import host
from ..editing.impute import GREYS, PREDICTORS, one_colour_each, sample_colorize, sample_impute
from ..editing.inverse import METHODS, STARTS, Problem, sample_inverse
from ..editing.operators import KINDS, measured, operator
from ..editing.repaint import sample_repaint
from ..measure.plot import draw_lines
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, SOCKET

AREA = SOCKET("MASK", "White is made anew, black is kept. Nothing connected: the LATENT's own noise mask.")
KNOWN = SOCKET("LATENT", "What is kept. Nothing connected: the sampler's own latent_image.")
SNR = FLOAT(0.16, 0.0, 1.0, "Length of each correction: larger ones mend more and need smaller steps.")
CORRECTIONS = INT(1, 0, 100, "Corrections at every noise level, one model call each; 0 leaves the predictor alone.")
PREDICTOR = CHOICE(PREDICTORS, "How to go from level to level. ancestral: right at any number of steps. The others are "
                               "the paper's, for hundreds of steps.", advanced=True)


class KeepingNode:
    """A node that gives a SAMPLER of SAMPLE, whose inputs are options of it."""
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("Connect to SamplerCustom or SamplerCustomAdvanced, with the encoded picture as latent_image.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/editing"

    def build(self, mask=None, known=None, **options):
        if mask is not None:
            options["area"] = mask
        return (host.sampler(self.SAMPLER, known=kept(known), **options),)


def kept(known: dict | None):
    """A LATENT as the model that runs has it."""
    return None if known is None else host.OfModel(lambda model: host.of_latent(model, known["samples"].float()))


def in_pixels(model) -> bool:
    """Whether a MODEL works on colours, not on a VAE's latents."""
    return one_colour_each(host.colours_of(model))


class OdeonSamplerRePaint(KeepingNode):
    TITLE = "RePaint"
    DESCRIPTION = ("Fills a masked part with any plain model: goes back up the schedule again and again until it fits "
                   "what is kept.")
    SEARCH_ALIASES = ["inpaint", "remove object", "mask", "resampling", "repaint", "fill", "lugmayr"]
    SAMPLER = staticmethod(sample_repaint)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "resamples": INT(10, 1, 1000, "How often each stretch is gone through; more fits better, and takes that "
                                          "much longer. 1 is plain masked sampling."),
            "jump_length": INT(10, 1, 1000, "Steps in such a stretch. With 20 steps take 4, with 250 the paper's 10."),
            "eta": FLOAT(1.0, 0.0, 1.0, "Fresh noise in each step down: 1 as the paper has it, 0 none."),
        }, "optional": {"mask": AREA, "known": KNOWN}}


class OdeonSamplerImpute(KeepingNode):
    TITLE = "Impute"
    DESCRIPTION = ("Fills a masked part by predictor and corrector, the kept part set back after every move (score "
                   "SDE).")
    SEARCH_ALIASES = ["inpaint", "score sde", "langevin", "predictor corrector", "mask", "fill", "song"]
    SAMPLER = staticmethod(sample_impute)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"corrections": CORRECTIONS, "snr": SNR, "predictor": PREDICTOR},
                "optional": {"mask": AREA, "known": KNOWN}}


class OdeonColorize(KeepingNode):
    TITLE = "Colorize"
    DESCRIPTION = "Colours a grey picture with a model of pixels; its light and dark stay exactly as they are."
    SEARCH_ALIASES = ["colorize", "colourise", "black and white", "grey", "score sde", "old photo"]
    SAMPLER = staticmethod(sample_colorize)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"corrections": CORRECTIONS, "snr": SNR, "predictor": PREDICTOR,
                             "grey": CHOICE(GREYS, "How colours became grey: luma as in photographs, mean as in the "
                                                   "paper.", advanced=True)},
                "optional": {"known": SOCKET("LATENT", "The grey picture, encoded. Nothing connected: the sampler's "
                                                       "own latent_image.")}}

    def build(self, known=None, **options):
        return super().build(known=known, pixel_space=host.OfModel(in_pixels), **options)


class OdeonOperator:
    TITLE = "Operator"
    DESCRIPTION = "What happened to a picture: blur, shrinking, a hole, lost colour, JPEG. For Inverse problem to undo."
    SEARCH_ALIASES = ["degradation", "blur", "downscale", "motion blur", "jpeg", "inverse problem", "measurement",
                      "psf", "grey"]
    RETURN_TYPES = ("ODEON_OPERATOR", "IMAGE")
    RETURN_NAMES = ("operator", "measurement")
    OUTPUT_TOOLTIPS = ("For Inverse problem.", "The image after it, holes in mid-grey.")
    FUNCTION = "build"
    CATEGORY = "Odeon/editing/inverse"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "image": SOCKET("IMAGE", "Shown with this done to it at the second output. Have you a damaged picture "
                                     "already, connect that here too, and give it itself to Inverse problem."),
            "kind": CHOICE(KINDS, "What happened. inpaint needs a mask, kernel a picture of the blur."),
            "size": FLOAT(3.0, 0.1, 500.0, "Pixels: the deviation of gaussian blur, the length of motion blur.",
                          step=0.1),
            "angle": FLOAT(0.0, -180.0, 180.0, "Of motion blur, in degrees counterclockwise from the right.", step=0.1),
            "factor": INT(4, 1, 64, "Of downscale: so many pixels of a side became one, their mean."),
            "quality": INT(10, 1, 100, "Of jpeg, as in JPEG files."),
            "noise": FLOAT(0.0, 0.0, 1.0, "Of the second output: deviation of grain, 1 is from black to white.",
                           step=0.001),
            "start_seed": INT(0, 0, 2 ** 32 - 1, "Of that grain.", advanced=True),
        }, "optional": {
            "mask": SOCKET("MASK", "For inpaint: white is missing."),
            "kernel": SOCKET("IMAGE", "For kernel: what a single white point became, any small picture."),
        }}

    def build(self, image, kind, size, angle, factor, quality, noise, start_seed, mask=None, kernel=None):
        smear = None if kernel is None else kernel[0, ..., :3].mean(-1)
        made = operator(kind, size=size, angle=angle, factor=factor, quality=quality, area=mask, kernel=smear)
        return (made, measured(made, image, noise=noise, seed=start_seed))


class OdeonSamplerInverseProblem:
    TITLE = "Inverse problem"
    DESCRIPTION = ("Experimental in its method stsl. Restores a damaged picture: at every step a gradient through the "
                   "VAE and the model pulls to what was measured.")
    SEARCH_ALIASES = ["restore", "deblur", "super resolution", "upscale", "psld", "dps", "stsl", "inverse problem"]
    EXPERIMENTAL = True
    RETURN_TYPES = ("SAMPLER",)
    OUTPUT_TOOLTIPS = ("Connect to SamplerCustom or SamplerCustomAdvanced, with an empty latent of the size wanted.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/editing/inverse"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "operator": SOCKET("ODEON_OPERATOR", "What happened to the picture, from an Operator node."),
            "measurement": SOCKET("IMAGE", "The damaged picture, just as it is: one, or one for each of the batch."),
            "vae": SOCKET("VAE", "The model's, to look at predictions as pictures."),
            "method": CHOICE(METHODS, "psld: pulls to the measurement and to what the VAE can draw. stsl: several "
                                      "pulls at each level and a second-order term, for few steps; experimental. dps: "
                                      "pulls to the measurement alone."),
            "zeta": FLOAT(1.0, 0.0, 1000.0, "How hard to pull; 0 is plain DDIM. Where the picture bursts, halve it."),
            "omega": FLOAT(1.0, 0.0, 1000.0, "Weight of the measurement."),
            "gamma": FLOAT(0.1, 0.0, 1000.0, "Weight of the VAE's own view (psld, stsl)."),
            "eta": FLOAT(0.0, 0.0, 1.0, "Fresh noise in each step: 0 none, 1 DDPM's."),
            "inner": INT(5, 1, 100, "stsl: pulls at each noise level, each as dear as a step."),
            "second_order": FLOAT(0.02, 0.0, 100.0, "stsl: how hard to pull to where the model is sure; doubles the "
                                                    "cost, 0 leaves it out.", step=0.001),
            "start": CHOICE(STARTS, "noise: from noise alone. measurement: from the measurement under noise, better in "
                                    "few steps. of the method: stsl from the measurement, the others from noise."),
            "limit": BOOLEAN(True, "Never pulls further than a straight way to the measurement; off is the papers' "
                                   "rule, which bursts in few steps."),
        }}

    def build(self, operator, measurement, vae, **options):
        y = measurement[..., :3].float().movedim(-1, 1) * 2.0 - 1.0
        return (host.sampler(sample_inverse, record=[], **options, problem=host.OfModel(
            lambda model: problem_of(model, operator, y, vae))),)


def problem_of(model, operator, y, vae) -> Problem:
    """The problem as the model that runs sees it; its pictures may be larger than the measured one by what the VAE and
    the operator can't divide."""
    codec = host.decoder(vae)
    operator = operator.of_larger(y, vae.spacial_compression_encode() + operator.factor - 2)
    return Problem(operator, y.clone(), done=codec.give_back,
                   decode=lambda denoised: codec(host.as_latent(model, denoised)) * 2.0 - 1.0,
                   encode=lambda pictures: host.of_latent(model, codec.encode((pictures + 1.0) / 2.0)))


class OdeonResidualCurve:
    TITLE = "Residual curve"
    DESCRIPTION = "How near to its measurement the last run of an Inverse problem sampler came, step by step."
    SEARCH_ALIASES = ["inverse problem", "residual", "plot", "report", "convergence"]
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("report", "plot")
    OUTPUT_TOOLTIPS = ("Where it began, where it ended, and the best on the way.", "The curve of each picture.")
    FUNCTION = "read"
    CATEGORY = "Odeon/editing/inverse"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "sampler": SOCKET("SAMPLER", "The Inverse problem whose last run is shown."),
            "latent": SOCKET("LATENT", "What that run gave, so that this node waits for it."),
        }}

    def read(self, sampler, latent):
        record = host.record_of(sampler)
        if not record:
            raise ValueError("this SAMPLER has kept no residuals: it is no Inverse problem, has not run yet, or all "
                             "its weights are 0; connect the one that made the latent")
        curves = {f"picture {i + 1}": [(k, residuals[i]) for k, (_, residuals) in enumerate(record)]
                  for i in range(len(record[0][1]))}
        lines = [f"{name}: rms residual {curve[0][1]:.4f} at first, {curve[-1][1]:.4f} at the end, "
                 f"{min(value for _, value in curve):.4f} at best" for name, curve in curves.items()]
        report = "\n".join([*lines, f"{len(record) - 1} gradients; 1 is from black to white"])
        plot = draw_lines(curves if len(curves) <= 8 else dict(list(curves.items())[:8]), title="distance to the "
                          "measurement", x_label="gradients", y_label="rms residual", log=True)
        return {"ui": {"text": [report]}, "result": (report, plot)}


NODES = (OdeonSamplerRePaint, OdeonSamplerImpute, OdeonColorize, OdeonOperator, OdeonSamplerInverseProblem,
         OdeonResidualCurve)
