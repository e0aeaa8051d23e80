"""CFG++: a sampler whose noise is the unconditional prediction's, and whose picture is the guided one's."""
from ..samplers.linear import Renoise, Step
from ..samplers.process import VE, Process

HISTORIES = ("guided", "uncond")


def cfg_pp(steps: list[Step], *, history: str = "guided", process: Process = VE) -> list[Step]:
    """The same steps from x^ = alpha D + sigma eps_u in place of x, after each model call: x = alpha D_u + sigma eps_u.

    D = D_u + cfg (D_c - D_u) with a cfg between 0 and 1. Over DDIM that is x_next = alpha_next D + sigma_next eps_u,
    which is DDIM at the scale cfg sigma / (sigma - sigma_next) (VE); other solvers, noisy ones too, have no published
    form but this. history: earlier predictions are remembered as they are, 'guided', or as D_u ('uncond', ComfyUI's
    dpmpp_2m_cfg_pp): the latter needs a sampler that calls the model once a step and remembers predictions only.
    cfg = 0 is the sampler without a prompt; D_u = D_c is the sampler itself. NFE stays, both predictions at each.
    Source: Chung et al. 2024, arXiv 2406.08070, algorithm 2.
    """
    if history not in HISTORIES:
        raise ValueError(f"history must be 'guided' or 'uncond', got {history!r}")
    uncond = history == "uncond"
    if uncond and any(step.stages or step.keep or step.correct for step in steps):
        raise ValueError("history 'uncond' is for samplers that call the model once a step and remember predictions as "
                         "they are (DPM-Solver++ multistep, Exponential Adams); choose 'guided'")
    return [step._replace(renoise=Renoise(process.alpha(step.sigma), uncond),
                          stages=tuple(stage._replace(renoise=Renoise(process.alpha(stage.sigma)))
                                       for stage in step.stages)) for step in steps]
