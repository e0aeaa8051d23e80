"""ComfyUI's own nodes that make masks, as far as the embedded runner has them."""
import torch

_SIDE = {"min": 1, "max": 16384, "step": 1}


class SolidMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                             "width": ("INT", {"default": 512, **_SIDE}),
                             "height": ("INT", {"default": 512, **_SIDE})}}

    def solid(self, value, width, height):
        return (torch.full((1, height, width), value),)


class MaskComposite:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "combine"

    @classmethod
    def INPUT_TYPES(cls):
        place = ("INT", {"default": 0, "min": 0, "max": 16384, "step": 1})
        return {"required": {"destination": ("MASK",), "source": ("MASK",), "x": place, "y": place,
                             "operation": (["multiply", "add", "subtract", "and", "or", "xor"],)}}

    def combine(self, destination, source, x, y, operation):
        whole = destination.reshape(-1, *destination.shape[-2:]).clone()
        below = whole[:, y:y + source.shape[-2], x:x + source.shape[-1]]
        above = source.reshape(-1, *source.shape[-2:])[:, :below.shape[-2], :below.shape[-1]]
        if operation in ("and", "or", "xor"):
            above, below_on = above.round().bool(), below.round().bool()
            found = {"and": below_on & above, "or": below_on | above, "xor": below_on ^ above}[operation].float()
        else:
            found = {"multiply": below * above, "add": below + above, "subtract": below - above}[operation]
        below.copy_(found)
        return (whole.clamp(0.0, 1.0),)


MASK_NODES = (SolidMask, MaskComposite)
