"""Editing nodes."""
from ..editing.interpolate import slerp, slerp_strip
from .inputs import CHOICE, FLOAT, INT, SOCKET


class OdeonLatentSlerp:
    TITLE = "Latent slerp"
    DESCRIPTION = "A latent between two, or a strip of them, along the circle that keeps noise as strong as noise is."
    SEARCH_ALIASES = ["interpolate", "spherical", "morph", "lerp", "latent blend", "travel"]
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("One latent, or count of them as a batch from a to b.",)
    FUNCTION = "build"
    CATEGORY = "Odeon/editing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "latent_a": SOCKET("LATENT", "Where t = 0 is. Masks and other extras of the result come from here."),
            "latent_b": SOCKET("LATENT", "Where t = 1 is; same size and batch as latent_a."),
            "t": FLOAT(0.5, -1.0, 2.0, "How far from a to b; below 0 or above 1 goes past them. Unused when count is "
                       "above 1."),
            "count": INT(1, 1, 1024, "1 gives the point at t; more give a batch of evenly spaced points from a to b."),
            "mode": CHOICE(["slerp_per_item", "slerp_per_channel", "lerp_renormalized"],
                           "slerp_per_item suits noise and noisy latents; per_channel turns each channel on its own; "
                           "lerp_renormalized is a straight mix at the right length, for clean latents."),
        }}

    def build(self, latent_a, latent_b, t, count, mode):
        a, b = latent_a["samples"].float(), latent_b["samples"].float()
        samples = slerp(a, b, t, mode=mode) if count == 1 else slerp_strip(a, b, count, mode=mode)
        extras = {key: value for key, value in latent_a.items() if count == 1 or key != "batch_index"}
        return ({**extras, "samples": samples},)


NODES = (OdeonLatentSlerp,)
