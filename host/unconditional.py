"""What the model predicts without the prompt, for samplers that read it (CFG++, guided plans), in either host."""
from torch import Tensor

NEEDS = ("this sampler (CFG++, or a plan learned with guidance) needs a negative prompt, which may be empty, and the "
         "guider has none; take CFGGuider or KSampler")


class Unconditional:
    """The prediction without the prompt at the last call of a sampler function's model; has both evaluated at any CFG.

    extra_args: what to call the model with. model: has the latent_image that a masked run keeps.
    """

    def __init__(self, model, extra_args: dict):
        self.model, self.mask, self.last = model, extra_args.get("denoise_mask"), None
        options = extra_args.get("model_options", {})
        hooks = [*options.get("sampler_post_cfg_function", []), self._look]
        self.extra_args = {**extra_args, "model_options": {**options, "sampler_post_cfg_function": hooks,
                                                           "disable_cfg1_optimization": True}}

    def __call__(self) -> Tensor:
        if self.mask is None:
            return self.last
        return self.last * self.mask + self.model.latent_image * (1.0 - self.mask)

    def _look(self, args: dict) -> Tensor:
        if args["uncond"] is None:
            raise ValueError(NEEDS)
        self.last = args["uncond_denoised"]
        return args["denoised"]
