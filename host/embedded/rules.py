"""Guidance in the embedded runner: the rules of a MODEL over one run of a sampler."""
import math
from functools import partial

import torch
from torch import Tensor

from ..common import Call, RunOfRules, follow_rule, require_uncond, unless_left_out
from ..gradients import differentiating
from .attention import with_attention


class Rules(RunOfRules):
    """What a guider's MODEL predicts in one run, its conditions and rules applied."""

    def __init__(self, guider, sigmas: Tensor, noise: Tensor):
        self.guider, self.model, self.at = guider, guider.model_patcher, sigmas
        super().__init__([start for kind, start in self.model.rules if kind != "conditions"], sigmas.tolist())
        self.conditions = [start(noise) for kind, start in self.model.rules if kind == "conditions"]

    def guided(self, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        """x (B, C, ...) at sigma (B,) -> denoised; options: a sampler's own hooks, as ComfyUI calls them."""
        cond, uncond = self._evaluated(x, sigma, options.get("disable_cfg1_optimization", False))
        denoised = cond if uncond is None else uncond + (cond - uncond) * self.scale
        call = Call(x, sigma, self.sigmas, self.scale, self.model.model_sampling.process, cond, uncond,
                    differentiating(partial(self._predict, x, sigma), self.model.network, sigma=sigma,
                                    statement=self.statement), self.mask)
        after = [(kind, start) for kind, start in self.model.rules if kind in ("guidance", "prediction")]
        leaves_out = any(kind == "evaluation" for kind, _ in self.model.rules)
        for i, (kind, start) in enumerate(after):
            if kind == "prediction":
                denoised = self.states[start](denoised, call)
            elif uncond is not None and uncond is not cond:
                guided = self.states[start](cond, uncond, call)
                guided = follow_rule(denoised, cond, uncond, scale=self.scale, guided=guided, first=i == 0)
                denoised = unless_left_out(guided, denoised, cond, uncond) if leaves_out else guided
        for hook in options.get("sampler_post_cfg_function", ()):
            denoised = hook({"denoised": denoised, "cond_denoised": cond, "uncond_denoised": uncond,
                             "uncond": self.guider.negative, "cond_scale": self.scale, "sigma": sigma, "input": x})
        return denoised

    def _evaluated(self, x: Tensor, sigma: Tensor, always: bool) -> tuple[Tensor, Tensor | None]:
        """(cond, uncond), uncond None where it is not evaluated; sets the scale of this call.

        always: both wherever there is a negative.
        """
        kinds = {kind: [start for each, start in self.model.rules if each == kind] for kind in ("scale", "evaluation")}
        self.scale = self.guider.cfg
        if self.guider.negative is not None and not math.isclose(self.scale, 1.0):
            self.scale = self.scale_at(self.scale, sigma, kinds["scale"])
        if self.guider.negative is None or (math.isclose(self.scale, 1.0) and not always):
            return *self._predict(x, sigma, "cond"), None
        require_uncond(always and bool(kinds["evaluation"]))
        return self._asked(x, sigma, kinds["evaluation"])

    def _asked(self, at_x: Tensor, at_sigma: Tensor, evaluations: list) -> tuple[Tensor, Tensor]:
        """(cond, uncond) as the last of the evaluations has them, which may ask those before it."""
        def predict(*kinds, x=None, sigma=None, **changes):
            if x is None and sigma is None and not changes and "uncond" in kinds:
                both = dict(zip(("cond", "uncond"), self._asked(at_x, at_sigma, earlier)))
                return tuple(both[kind] for kind in kinds)
            return self._predict(at_x, at_sigma, *kinds, x=x, sigma=sigma, **changes)

        if not evaluations:
            self.unconds += 1
            return self._predict(at_x, at_sigma, "cond", "uncond")
        *earlier, start = evaluations
        process = self.model.model_sampling.process
        return self.states[start](Call(at_x, at_sigma, self.sigmas, self.scale, process, None, None, predict,
                                       self.mask))

    def _predict(self, at_x: Tensor, at_sigma: Tensor, *kinds, x: Tensor | None = None, sigma: Tensor | None = None,
                 model=None, attention=None) -> tuple[Tensor, ...]:
        """Call.predict: denoised of each kind, with no rules."""
        conditions = {"cond": self.guider.positive, "uncond": self.guider.negative}
        if "uncond" in kinds and self.guider.negative is None:
            raise ValueError("this needs a negative prompt, and the guider has none; take one with a negative "
                             "(CFGGuider, KSampler)")
        x, sigma = at_x if x is None else x, at_sigma if sigma is None else sigma
        if model is not None and model.positive is not None:
            conditions["cond"] = model.positive
        return tuple(self._mean(model.model if model else self.model, x, sigma, conditions[kind],
                                ("cond", "uncond").index(kind), attention) for kind in kinds)

    def _mean(self, model, x: Tensor, sigma: Tensor, conditions: list, index: int, attention) -> Tensor:
        """The mean prediction over the entries of one CONDITIONING."""
        options = {"sigmas": sigma, "sample_sigmas": self.at, "cond_or_uncond": [index]}
        if attention is not None:
            options = with_attention(model, options, attention, x.shape)
        predictions = []
        for context, more in conditions:
            context, pooled = (None if value is None else value.to(x.device).expand(len(x), *value.shape[1:])
                               for value in (context, more.get("pooled_output")))
            for change in self.conditions if model is self.model else ():
                context, pooled = change(context, pooled, sigma=sigma, kinds=[index])
            predictions.append(model.apply_model(x, sigma, context, options, pooled))
        return torch.stack(predictions).mean(0) if len(predictions) > 1 else predictions[0]
