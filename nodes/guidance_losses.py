"""Losses and classifiers for guidance and selection, and what connects them to a MODEL and a VAE."""
import torch

from .. import host
from ..guidance.classifier import joint_over_marginal
from ..guidance.classifiers import CLASSIFIER_FOLDER, SEES, Classifier, load_torchscript
from ..guidance.gradient import gradient_at
from ..guidance.losses import Loss, brightness_distance, colour_distance, distance
from ..guidance.minority import difference
from ..models.questions import ANSWERS, Question
from ..models.shapes import PLACES
from ..models.weights import shapes_judge
from .files import found_file, names_of
from .inputs import CHOICE, FLOAT, INT, SOCKET

FOLDER = "odeon_classifiers"
VAE = SOCKET("VAE", "Shows it the decoded picture; not needed for what looks at the latent.")
WEIGHT = FLOAT(1.0, -1000.0, 1000.0, "Factor on this loss; below 0 it is made large instead of small.")
MORE = SOCKET("ODEON_LOSS", "Another loss to add to this one.")
MASK = SOCKET("MASK", "Only these places count; nothing connected: all.")


class LossNode:
    """A node that gives a LOSS, added to the one connected."""
    RETURN_TYPES = ("ODEON_LOSS",)
    OUTPUT_TOOLTIPS = ("For Loss guidance, Stepwise selection, or another loss node.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/guidance"


class OdeonLossImage(LossNode):
    TITLE = "Loss: match an image"
    DESCRIPTION = "Small where the decoded picture looks like an image, all over or under a mask."
    SEARCH_ALIASES = ["loss", "mse", "match image", "reference", "inverse problem", "mask"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "image": SOCKET("IMAGE", "What to match; brought to the picture's size. One, or one for each picture."),
            "distance": CHOICE(["l2", "l1"], "l2: squared differences. l1: absolute ones, for single outliers."),
            "weight": WEIGHT,
        }, "optional": {"mask": MASK, "more": MORE}}

    def build(self, image, distance, weight, mask=None, more=None):
        target, kind = image[..., :3].movedim(-1, 1), distance
        return (Loss(pictures=((weight, lambda pictures: apart(pictures, target, mask, kind)),)) + (more or Loss()),)


class OdeonLossLatent(LossNode):
    TITLE = "Loss: match a latent"
    DESCRIPTION = ("Small where the latent is like another, all over or under a mask: needs no decoder, so it costs "
                   "nothing.")
    SEARCH_ALIASES = ["loss", "mse", "match latent", "reference", "mask"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "latent": SOCKET("LATENT", "What to match. One, or one for each picture."),
            "distance": CHOICE(["l2", "l1"], "l2: squared differences. l1: absolute ones."),
            "weight": WEIGHT,
        }, "optional": {"mask": MASK, "more": MORE}}

    def build(self, latent, distance, weight, mask=None, more=None):
        target, kind = latent["samples"], distance
        return (Loss(latents=((weight, lambda latents: apart(latents, target, mask, kind)),)) + (more or Loss()),)


class OdeonLossColour(LossNode):
    TITLE = "Loss: colour and brightness"
    DESCRIPTION = ("Small where the mean colour, or only the mean brightness, of the picture or a part of it is what "
                   "you set.")
    SEARCH_ALIASES = ["loss", "colour", "color", "brightness", "dark", "bright", "tint", "mask"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "measure": CHOICE(["colour", "brightness"], "colour: red, green and blue. brightness: the luma of these "
                                                        "three."),
            "red": FLOAT(0.5, 0.0, 1.0, "Wanted mean red."),
            "green": FLOAT(0.5, 0.0, 1.0, "Wanted mean green."),
            "blue": FLOAT(0.5, 0.0, 1.0, "Wanted mean blue."),
            "weight": WEIGHT,
        }, "optional": {"mask": MASK, "more": MORE}}

    def build(self, measure, red, green, blue, weight, mask=None, more=None):
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue

        def value(pictures):
            where = None if mask is None else mask.clone()
            if measure == "brightness":
                return brightness_distance(pictures, luma, mask=where)
            return colour_distance(pictures, (red, green, blue), mask=where)

        return (Loss(pictures=((weight, value),)) + (more or Loss()),)


class OdeonLossClassifier(LossNode):
    TITLE = "Loss: classifier"
    DESCRIPTION = ("Small where a classifier of clean pictures or latents is sure of a class; also a preference to "
                   "select by.")
    SEARCH_ALIASES = ["loss", "classifier", "logit", "aesthetic", "preference", "reward"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "classifier": SOCKET("ODEON_CLASSIFIER", "From Shapes classifier or Load classifier."),
            "target": ("STRING", {"default": "0", "tooltip": "The class to be sure of: its label or its number."}),
            "tau_marginal": FLOAT(1.0, 0.0, 100.0, "1 is minus the class's log-probability, 0 minus its logit, for "
                                                   "networks that give one score.", advanced=True),
            "weight": WEIGHT,
        }, "optional": {"more": MORE}}

    def build(self, classifier, target, tau_marginal, weight, more=None):
        require_seen(classifier, ("picture", "latent"))
        goal = classifier.target(target)

        def value(what):
            return -joint_over_marginal(classifier.logits(what), goal, tau_marginal=tau_marginal)

        terms = {"pictures" if classifier.sees == "picture" else "latents": ((weight, value),)}
        return (Loss(**terms) + (more or Loss()),)


class OdeonShapesClassifier:
    TITLE = "Shapes classifier"
    DESCRIPTION = ("The Shapes judge as a classifier: which shape, colour or size is at a place, or which ground is "
                   "behind.")
    SEARCH_ALIASES = ["judge", "classifier", "toy classifier", "shapes"]
    RETURN_TYPES = ("ODEON_CLASSIFIER", "STRING")
    RETURN_NAMES = ("classifier", "labels")
    OUTPUT_TOOLTIPS = ("For Classifier guidance, Loss: classifier, Classifier calibration.", "Its classes, a line "
                                                                                             "each.")
    FUNCTION = "build"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "about": CHOICE(ANSWERS, "What is asked of the picture."),
            "place": CHOICE(["middle", *(place for place in PLACES if place != "middle")], "Where; no matter for the "
                                                                                           "ground."),
        }}

    def build(self, about, place):
        made = Classifier(Question(shapes_judge(), about, place).eval(), "picture", ANSWERS[about], size=128,
                          mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return (made, "\n".join(made.labels))


class OdeonLoadClassifier:
    TITLE = "Load classifier"
    DESCRIPTION = "A picture, latent or noisy-latent classifier, or a network of features, from a TorchScript file."
    SEARCH_ALIASES = ["classifier", "torchscript", "lpips", "resnet", "features", "aesthetic"]
    RETURN_TYPES = ("ODEON_CLASSIFIER", "STRING")
    RETURN_NAMES = ("classifier", "labels")
    OUTPUT_TOOLTIPS = ("For Classifier guidance, Minority guidance, Loss: classifier and others.",
                       "Its classes, a line each.")
    FUNCTION = "build"
    CATEGORY = "Odeon/guidance"

    @classmethod
    def INPUT_TYPES(cls):
        numbers = {"tooltip": "Red, green and blue, divided by commas.", "advanced": True}
        return {"required": {
            "name": CHOICE(names_of(FOLDER, CLASSIFIER_FOLDER, ".pt") or ["none yet"], "A .pt file that torch.jit.save "
                           "wrote, in models/odeon_classifiers, or one of the pack; yours comes first where both have "
                           "the name."),
            "sees": CHOICE(SEES, "What it was trained on: clean pictures, clean latents, or latents noised to unit "
                                 "size together with the timestep."),
            "labels": ("STRING", {"default": "1000", "multiline": True, "tooltip": "Its classes in order, a line "
                                                                                   "each; a single number for so many "
                                                                                   "without a name; empty for a "
                                                                                   "network of features."}),
            "size": INT(224, 0, 4096, "Pictures are brought to this width and height; 0 leaves them."),
            "mean": ("STRING", {"default": "0.485, 0.456, 0.406", **numbers}),
            "std": ("STRING", {"default": "0.229, 0.224, 0.225", **numbers}),
        }}

    def build(self, name, sees, labels, size, mean, std):
        lines = [line.strip().lower() for line in labels.splitlines() if line.strip()]
        if len(lines) == 1 and lines[0].isdecimal():
            lines = [str(i) for i in range(int(lines[0]))]
        network = load_torchscript(found_file(FOLDER, CLASSIFIER_FOLDER, name, ".pt"))
        return (Classifier(network, sees, tuple(lines), size=size, mean=three(mean, "mean"), std=three(std, "std")),
                "\n".join(lines))


def three(text: str, what: str) -> tuple[float, ...]:
    """Three numbers divided by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise ValueError(f"{what} must be three numbers divided by commas, got {text!r}")
    return numbers


def apart(value, target, mask, kind: str):
    """distance() with what a node was given, which gradients may pass although it was made in inference mode."""
    return distance(value, target.clone(), mask=None if mask is None else mask.clone(), kind=kind)


def require_seen(classifier: Classifier, kinds: tuple[str, ...]) -> None:
    """Raises ValueError for a classifier of what a node can't show it."""
    if classifier.sees not in kinds:
        raise ValueError(f"this needs a classifier that sees a {' or a '.join(kinds)}, got one of a {classifier.sees}; "
                         "take another, or another form")


def decoding(classifier: Classifier, vae):
    """A decoder where a classifier sees pictures, else None. Raises ValueError without a vae for it."""
    if classifier.sees != "picture":
        return None
    if vae is None:
        raise ValueError("this classifier looks at the decoded picture; connect a vae")
    return host.decoder(vae)


def seen_by(classifier: Classifier, latents, decode):
    """What a classifier sees of a LATENT's samples."""
    return latents if decode is None else decode(latents)


def noisy_slope(at, model, classifier: Classifier, wanted):
    """The gradient in the state of wanted(logits) of a classifier of noisy latents."""
    unit = (at.alpha ** 2 + at.sigma ** 2) ** 0.5

    def value(x):
        timestep = host.levels_of(model).timestep(at.call.sigma.clone()).float()
        return wanted(classifier.logits(x / unit, timestep))

    return gradient_at(value, at.call.x)[0]


def losses_of(model, loss: Loss, vae):
    """(the loss of predictions of a MODEL (B, C, ...) -> (B,), what to call when a step is done with it)."""
    if loss.pictures and vae is None:
        raise ValueError("this loss looks at the decoded picture; connect a vae")
    decode = host.decoder(vae) if loss.pictures else None

    def done():
        if decode is not None:
            decode.give_back()

    return lambda denoised: loss(host.as_latent(model, denoised), decode), done


def distance_of(model, kind: str, vae, features: Classifier | None):
    """(distance(a, b) (B,) of predictions of a MODEL by kind, what to call when a step is done with it)."""
    if kind != "features":
        return lambda a, b: difference(a, b, kind=kind), lambda: None
    if features is None:
        raise ValueError("loss 'features' needs a network of features of pictures; connect one from Load classifier")
    require_seen(features, ("picture",))
    decode = decoding(features, vae)

    def shown(denoised):
        return features.logits(decode(host.as_latent(model, denoised)))

    def done():
        decode.give_back()
        features.give_back()

    return lambda a, b: torch.linalg.vector_norm(shown(a) - shown(b), dim=1), done


NODES = (OdeonLossImage, OdeonLossLatent, OdeonLossColour, OdeonLossClassifier, OdeonShapesClassifier,
         OdeonLoadClassifier)
