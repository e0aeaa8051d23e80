"""Nodes that need no download: drawn pictures, small trained models and their judge, an exact model of any pictures."""
from .. import host
from ..models.autoencoder import RATIO, RGB_BIAS, RGB_FACTORS
from ..models.closed_form import PATCH, PREDICTIONS, ClosedFormNetwork, PixelCodec
from ..models.quality import as_table, judge_pictures, labelled
from ..models.shapes import PICTURE_SIZES, draw_shapes
from ..models.text import ShapesTokenizer
from ..models.weights import NETWORKS, shapes_autoencoder, shapes_judge, shapes_network
from ..models.words import CaptionEncoder, CaptionWords
from .inputs import CHOICE, FLOAT, INT, SOCKET


class OdeonShapes:
    TITLE = "Shapes"
    DESCRIPTION = "Pictures the pack draws itself, one to three coloured shapes on a ground, with a caption each."
    SEARCH_ALIASES = ["toy data", "dataset", "captions", "test pictures"]
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("images", "captions")
    OUTPUT_TOOLTIPS = ("A batch of pictures.", "Their captions, one line each, in the same order.")
    FUNCTION = "draw"
    CATEGORY = "Odeon/models"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "count": INT(48, 1, 4096, "Pictures to draw; in every 48, the first shape named is each of 6 in each of 8 "
                         "colours once."),
            "size": CHOICE(PICTURE_SIZES, "Width and height in pixels."),
            "data_seed": INT(0, 0, 2 ** 32 - 1, "Another number, other pictures; the same number, the same ones."),
            "objects": INT(1, 1, 3, "Shapes in each picture."),
        }}

    def draw(self, count, size, data_seed, objects):
        images, captions = draw_shapes(count, size, data_seed, objects)
        return (images, "\n".join(captions))


class OdeonShapesCheckpoint:
    TITLE = "Shapes checkpoint"
    DESCRIPTION = "Small trained models that ship with the pack: they draw what the prompt says, in seconds on a CPU."
    SEARCH_ALIASES = ["load checkpoint", "toy model", "test model", "no download", "unet", "dit", "flux", "small model"]
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = ("The network, of ComfyUI's own class: every patch works on it.",
                       "Reads the words of the Shapes world; names those it does not know in the log.",
                       "128 px pictures to latents of 16 x 16 with 4 channels, and back.")
    FUNCTION = "load"
    CATEGORY = "Odeon/models"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": CHOICE(NETWORKS, "shapes-unet predicts noise as SD1.5 does, -v velocity from "
                                             "pure noise on, -few is its student for a single step at CFG 1; "
                                             "shapes-dit is a flow transformer as Flux, -small its cheap sister.")}}

    def load(self, model):
        trained, codec = shapes_network(model), shapes_autoencoder()
        network = host.make_network(trained.config, trained.weights, prediction=trained.prediction,
                                    levels=trained.levels, rgb_factors=RGB_FACTORS, rgb_bias=RGB_BIAS)
        return (network, host.make_clip(ShapesTokenizer(), trained.text), host.make_vae(codec, ratio=RATIO))


class OdeonShapesJudge:
    TITLE = "Shapes judge"
    DESCRIPTION = "Reads pictures of the Shapes world: what of their prompts is right, and how well it is drawn."
    SEARCH_ALIASES = ["evaluate", "metric", "score", "prompt agreement", "kid", "fid", "quality"]
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("table", "picture")
    OUTPUT_TOOLTIPS = ("All figures, a line each.", "Every picture with what was read in it, wrong parts in red.")
    FUNCTION = "judge"
    CATEGORY = "Odeon/models"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "images": SOCKET("IMAGE", "Pictures of 128 x 128 px."),
            "captions": ("STRING", {"default": "", "multiline": True, "tooltip": "What the pictures should show: one "
                                    "line for each picture, or one line for all."}),
        }, "optional": {
            "reference": SOCKET("IMAGE", "The same pictures after very many steps, to measure how far these are."),
        }}

    def judge(self, images, captions, reference=None):
        lines = captions.strip().splitlines()
        if len(lines) == 1:
            lines *= len(images)
        pictures, other = (None if batch is None else batch[..., :3].float().movedim(-1, 1) * 2.0 - 1.0
                           for batch in (images, reference))
        rows, together, readings = judge_pictures(shapes_judge(), pictures, lines, reference=other)
        return (as_table(together), labelled(images, lines, rows, readings))


class OdeonClosedFormModel:
    TITLE = "Closed-form model"
    DESCRIPTION = "The exact diffusion model of a batch of captioned pictures: no weights, no training, no download."
    SEARCH_ALIASES = ["toy model", "exact denoiser", "no checkpoint", "cfdm", "gaussian mixture", "nearest neighbour"]
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = ("Denoises exactly; works with every sampler, mask and guidance.",
                       "Prompts choose pictures by the words of their captions.",
                       "Regroups pixels, 8 x 8 to a latent place; nothing is lost.")
    FUNCTION = "build"
    CATEGORY = "Odeon/models"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "prediction": CHOICE(PREDICTIONS, "What the model predicts: eps as SD1.5 and SDXL, v as SD2, flow as Flux "
                                 "and SD3. The pictures are the same, samplers and schedules behave differently."),
            "smoothing": FLOAT(0.0, 0.0, 100.0, "0 ends on one of the pictures, higher values between several. Unit: "
                               "distance of latents, where black and white pictures lie 28 apart; 1 to 4 mixes."),
            "noises": INT(8, 1, 256, "Fixed noises that smoothing averages over; cost grows with it. No effect at "
                          "smoothing 0.", advanced=True),
            "neighbours": INT(0, 0, 65536, "Only this many nearest pictures count exactly, 0 for all.", advanced=True),
            "extra": INT(64, 0, 65536, "Pictures that stand for all but the neighbours. No effect at neighbours 0.",
                         advanced=True),
            "smoothing_seed": INT(0, 0, 2 ** 32 - 1, "Of the noises and of the extra pictures.", advanced=True),
        }, "optional": {
            "images": ("IMAGE", {"tooltip": "The pictures to model, sides a multiple of 8. Nothing connected: the 48 "
                                            "pictures of a Shapes node as it comes."}),
            "captions": ("STRING", {"default": "", "multiline": True, "tooltip": "One line for each picture; prompts "
                                    "choose by these words. Empty: every prompt means all pictures."}),
        }}

    def build(self, prediction, smoothing, noises, neighbours, extra, smoothing_seed, images=None,
              captions=""):
        lines = captions.strip().splitlines()
        if images is None:
            if lines:
                raise ValueError(f"got {len(lines)} captions but no images; connect images or clear the captions")
            images, lines = draw_shapes(48)
        lines = _captions_for(images, lines)
        codec, words = PixelCodec(*images.shape[1:3]), CaptionWords(lines)
        pictures = codec.encode(images[..., :3].float().movedim(-1, 1) * 2.0 - 1.0)
        network = ClosedFormNetwork(pictures, words.matrix, prediction=prediction, smoothing=smoothing, noises=noises,
                                    neighbours=neighbours, extra=extra, seed=smoothing_seed)
        model = host.make_model(network, prediction=prediction, levels=network.levels, channels=codec.channels,
                                rgb_factors=codec.rgb_factors())
        clip = host.make_clip(words, CaptionEncoder(len(words.axes)))
        return (model, clip, host.make_vae(codec, ratio=PATCH))


def _captions_for(images, lines: list[str]) -> list[str]:
    """A caption for each picture, after checking that the pictures can be used."""
    height, width = images.shape[1:3]
    if height % PATCH or width % PATCH:
        raise ValueError(f"pictures need sides that are multiples of {PATCH}, got {width} x {height}; "
                         "resize or crop them")
    if lines and len(lines) != len(images):
        raise ValueError(f"need one caption line for each of the {len(images)} pictures, got {len(lines)}; "
                         "add or remove lines")
    return lines or [""] * len(images)


NODES = (OdeonShapes, OdeonShapesCheckpoint, OdeonShapesJudge, OdeonClosedFormModel)
