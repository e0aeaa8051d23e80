"""Guidance by gradients: of losses, of classifiers, and of how badly the model restores its own prediction."""
import torch

from .. import host
from ..guidance.classifier import FORMS, as_long_as, classifier_step, joint_over_marginal, with_softplus
from ..guidance.gradient import gradient_at, guided_weights, place_in, pull_back_guided
from ..guidance.loss import STEP_SIZES, backward_guidance, loss_step
from ..guidance.minority import (
    DISTANCES,
    WEIGHTS,
    is_active,
    level_at,
    noised,
    ordinal_step,
    self_guided_step,
)
from ..samplers.noise import step_noise
from .guidance import GuidanceNode
from .guidance_losses import VAE, decoding, distance_of, losses_of, noisy_slope, require_seen, seen_by
from .inputs import BOOLEAN, CHOICE, FLOAT, INT, MODEL, SOCKET

THROUGH = ("network", "positive", "x0 only")
SIGMA_HI = FLOAT(1000.0, 0.0, 100000.0, "Acts below this noise level; 14.6 is the top of SD, 1 the middle of Flux, "
                                        "1000 no limit.",
                 step=0.001, advanced=True)
SIGMA_LO = FLOAT(0.0, 0.0, 100000.0, "Acts above this noise level: 0.3 leaves the last details alone.", step=0.001,
                 advanced=True)


class GradientNode(GuidanceNode):
    """A node that returns the MODEL with a prediction bent by gradients."""
    OUTPUT_TOOLTIPS = ("The model with this guidance; works with every sampler, other guidance nodes and CFG 1.",)


class At:
    """A prediction and the Call it was made in, with what gradient rules ask of both."""

    def __init__(self, denoised, call):
        self.denoised, self.call = denoised, call
        self.sigma = float(call.sigma.flatten()[0])
        self.alpha = call.process.alpha(self.sigma)
        self.place = place_in(call.sigmas or [self.sigma, 0.0], self.sigma, call.process)
        self.guided = call.uncond is not None and call.uncond is not call.cond

    def within(self, low: float, high: float) -> bool:
        """Whether this is a step of the run, from a level of a state scaled to alpha = 1 in [low, high]."""
        return self.place is not None and low <= self.place.s and (self.place.s <= high or high >= 1000.0)

    def through_network(self, direction, through: str):
        """direction at the prediction as a gradient in the state."""
        weights = guided_weights(self.call.scale, through=through, guided=self.guided)
        return pull_back_guided(lambda kind, x: self.call.predict(kind, x=x, gradients=True)[0], self.call.x, direction,
                                weights=weights)

    def again(self, x, sigma: float, through: str):
        """The guided prediction of another state at another level."""
        kinds = ("cond", "uncond") if self.guided and through == "network" else ("cond",)
        found = self.call.predict(*kinds, x=x, sigma=torch.full_like(self.call.sigma, sigma))
        return found[0] if len(found) == 1 else found[1] + self.call.scale * (found[0] - found[1])


class OdeonLossGuidance(GradientNode):
    TITLE = "Loss guidance"
    DESCRIPTION = ("Steers a run by what you want of the picture: any loss on the decoded picture or the latent, no "
                   "training.")
    SEARCH_ALIASES = ["universal guidance", "freedom", "dps", "lgd", "training-free", "loss", "steer", "bansal"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "loss": SOCKET("ODEON_LOSS", "What to make small, from one or more Odeon loss nodes."),
            "scale": FLOAT(0.2, 0.0, 100000.0, "How hard to push; 0 changes nothing. Where the picture bursts, halve "
                                               "it."),
            "step_size": CHOICE(STEP_SIZES, "universal: by noise level. freedom: in units of CFG's own push, easiest "
                                            "to set (0.2 to 1). dps: along the loss's root, for inverse problems."),
            "grad_through": CHOICE(THROUGH, "network: exact, one gradient each of prompt and negative. positive: of "
                                            "the prompt alone, half the time. x0 only: at the prediction, fast and in "
                                            "little memory, less true."),
            "backward_steps": INT(0, 0, 1000, "So many more steps straight on the prediction, which force the loss "
                                              "down: 5 for hard conditions. Cheap: no network."),
            "backward_rate": FLOAT(0.1, 0.0, 10.0, "How far each of them may move a number of the latent.", step=0.001,
                                   advanced=True),
            "sigma_hi": SIGMA_HI,
            "sigma_lo": SIGMA_LO,
        }, "optional": {"vae": VAE}}

    def patch(self, model, loss, scale, step_size, grad_through, backward_steps, backward_rate, sigma_hi, sigma_lo,
              vae=None):
        value_of, done = losses_of(model, loss, vae)

        def change(denoised, call):
            at = At(denoised, call)
            if not at.within(sigma_lo, sigma_hi) or (scale == 0.0 and backward_steps == 0):
                return denoised
            try:
                if scale != 0.0:
                    slope, value = gradient_at(value_of, denoised)
                    plain = grad_through == "x0 only"
                    slope = slope if plain else at.through_network(slope, grad_through)
                    denoised = loss_step(denoised, slope, sigma=at.sigma, alpha=at.alpha, s_next=at.place.s_next,
                                         scale=scale, step_size=step_size, at_denoised=plain,
                                         uncond=call.uncond if at.guided else None, loss=value)
                return backward_guidance(value_of, denoised, steps=backward_steps, rate=backward_rate)
            finally:
                done()

        return (host.patch_prediction(model, lambda: change),)


class OdeonClassifierGuidance(GradientNode):
    TITLE = "Classifier guidance"
    DESCRIPTION = ("Steers a run to a class of any picture classifier, smoothed and balanced so that it need not see "
                   "noise.")
    SEARCH_ALIASES = ["classifier guidance", "elucd", "off-the-shelf classifier", "dhariwal", "ma", "logit"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "classifier": SOCKET("ODEON_CLASSIFIER", "From Shapes classifier or Load classifier."),
            "target": ("STRING", {"default": "0", "tooltip": "The class to steer to: its label or its number."}),
            "scale": FLOAT(1.0, 0.0, 100000.0, "How hard to push; 0 changes nothing."),
            "form": CHOICE(FORMS, "denoised: the paper's, gradient at the prediction alone, cheap. textbook: through "
                                  "the network, exact with a classifier of noisy pictures, dearer."),
            "tau_joint": FLOAT(1.0, 0.0, 100.0, "Weight of the class's own logit."),
            "tau_marginal": FLOAT(0.5, 0.0, 100.0, "Weight of all classes together: equal to tau_joint it is the "
                                                   "plain log-probability, half of it the paper's, 0 leaves the logit "
                                                   "alone."),
            "softplus_beta": FLOAT(3.0, 0.0, 100.0, "Smooths the classifier's ReLUs for better gradients; 0 keeps "
                                                    "them. No effect inside TorchScript files.", advanced=True),
            "gamma": FLOAT(0.3, 0.0, 100.0, "Extra push in mid-run, as a share of the strongest step (form denoised).",
                           advanced=True),
            "grad_norm": BOOLEAN(False, "Every push as long as the prediction times scale, whatever the classifier's "
                                        "size."),
        }, "optional": {"vae": VAE}}

    def patch(self, model, classifier, target, scale, form, tau_joint, tau_marginal, softplus_beta, gamma, grad_norm,
              vae=None):
        goal, smooth = classifier.target(target), classifier._replace(
            network=with_softplus(classifier.network, softplus_beta))
        require_seen(classifier, ("picture", "latent", "noisy latent") if form == "textbook" else ("picture", "latent"))
        decode = decoding(classifier, vae)

        def wanted(logits):
            return joint_over_marginal(logits, goal, tau_joint=tau_joint, tau_marginal=tau_marginal)

        def slope_of(at):
            if classifier.sees == "noisy latent":
                return noisy_slope(at, model, smooth, wanted)
            slope, _ = gradient_at(lambda d: wanted(smooth.logits(seen_by(smooth, host.as_latent(model, d), decode))),
                                   at.denoised)
            return at.through_network(slope, "network") if form == "textbook" else slope

        def change(denoised, call):
            at = At(denoised, call)
            if scale == 0.0 or not at.within(0.0, 1000.0):
                return denoised
            try:
                slope = slope_of(at)
            finally:
                smooth.give_back()
                if decode is not None:
                    decode.give_back()
            slope = as_long_as(slope, denoised) if grad_norm else slope
            return classifier_step(denoised, slope, at.place, sigma=at.sigma, alpha=at.alpha, scale=scale, form=form,
                                   gamma=gamma)

        return (host.patch_prediction(model, lambda: change),)


class OdeonMinorityGuidance(GradientNode):
    TITLE = "Minority guidance"
    DESCRIPTION = ("Steers a run to pictures the model rarely draws, by a classifier trained on minority scores of "
                   "noisy ones.")
    SEARCH_ALIASES = ["minority", "rare", "diversity", "long tail", "don't play favorites", "um"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "classifier": SOCKET("ODEON_CLASSIFIER", "One of noisy latents whose classes are bins of the minority "
                                                     "score, the last the rarest."),
            "target": INT(-1, -1, 100000, "The bin to steer to; -1 is the last, the rarest."),
            "scale": FLOAT(3.5, 0.0, 1000.0, "How hard to push; 0 changes nothing."),
        }}

    def patch(self, model, classifier, target, scale):
        require_seen(classifier, ("noisy latent",))
        goal = classifier.target(str(len(classifier.labels) - 1 if target < 0 else target))

        def change(denoised, call):
            at = At(denoised, call)
            if scale == 0.0 or not at.within(0.0, 1000.0):
                return denoised
            try:
                slope = noisy_slope(at, model, classifier, lambda logits: logits.log_softmax(1)[:, goal])
            finally:
                classifier.give_back()
            return ordinal_step(denoised, slope, at.place, scale=scale, x_scale=(at.alpha ** 2 + at.sigma ** 2) ** 0.5)

        return (host.patch_prediction(model, lambda: change),)


class OdeonMinoritySelfGuided(GradientNode):
    TITLE = "Self-guided minority sampling"
    DESCRIPTION = ("Steers a run to pictures the model rarely draws, by what it can't put back together itself; no "
                   "training.")
    SEARCH_ALIASES = ["minority", "rare", "diversity", "long tail", "boost", "self-guidance", "um", "unusual"]

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": MODEL,
            "scale": FLOAT(0.4, 0.0, 100.0, "How far to push; 0 changes nothing. The authors take 0.4, and 0.2 on "
                                            "ImageNet."),
            "p": FLOAT(0.8, 0.0, 1.0, "How far up the schedule the prediction is noised again: near 1 only its broad "
                                      "lines count."),
            "every": INT(5, 1, 1000, "Acts on every so-manyth step; 1 is strongest and dearest."),
            "t_mid": FLOAT(-1.0, -1.0, 1.0, "Acts only while more than this share of the steps is left; -1 to the end.",
                           advanced=True),
            "n_mc": INT(1, 1, 64, "Noises to average over in each active step.", advanced=True),
            "loss": CHOICE((*DISTANCES, "features"), "How the prediction and what comes back are compared: l2 or l1 "
                                                     "of latents, or l2 of a network's features of the pictures "
                                                     "(LPIPS), which needs vae and features."),
            "normalize": BOOLEAN(True, "Every push with the same largest entry.", advanced=True),
            "weight": CHOICE(WEIGHTS, "var: pushes shrink with the noise left; fixed: all alike.", advanced=True),
            "grad_through": CHOICE(THROUGH[:2], "network: gradients of prompt and negative. positive: of the prompt "
                                                "alone, half the time.", advanced=True),
        }, "optional": {
            "vae": VAE,
            "features": SOCKET("ODEON_CLASSIFIER", "A network that gives features of a picture, from Load classifier."),
        }}

    def patch(self, model, scale, p, every, t_mid, n_mc, loss, normalize, weight, grad_through, vae=None,
              features=None):
        distance, done = distance_of(model, loss, vae, features)

        def start():
            draws = []

            def change(denoised, call):
                at = At(denoised, call)
                if not draws:  # at the first call, whose x is the same in a batch and alone to the bit
                    draws.append(step_noise(call.x, 0, "minority"))
                if scale == 0.0 or not at.within(0.0, 1000.0) or not is_active(at.place, every=every, t_mid=t_mid):
                    return denoised
                level = level_at(call.sigmas, p)
                slopes = []
                for _ in range(n_mc):
                    noise = draws[0](level, 0.0).to(denoised)
                    back = at.again(noised(denoised, noise, level, call.process), level, grad_through)
                    slopes.append(gradient_at(lambda d, back=back: distance(d, back), denoised)[0])
                done()
                slope = at.through_network(torch.stack(slopes).mean(0), grad_through)
                return self_guided_step(denoised, slope, at.place, scale=scale, normalize=normalize, weight=weight,
                                        x_scale=(at.alpha ** 2 + at.sigma ** 2) ** 0.5)

            return change

        return (host.patch_prediction(model, start),)


NODES = (OdeonLossGuidance, OdeonClassifierGuidance, OdeonMinorityGuidance, OdeonMinoritySelfGuided)
