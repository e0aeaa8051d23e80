"""UniPC: unified predictor and corrector of order 1 to 4."""
import math
from itertools import pairwise

from .corrector import Form, add_corrector, check, past_shares
from .linear import Step
from .process import VE, Process, counted_in
from .transfer import RETURN_D


def plan_unipc(sigmas: list[float], *, order: int = 2, variant: str = "bh2", prediction: str = "data",
               use_corrector: bool = True, lower_order_final: bool = True, uncorrected: int = 0,
               lambda_mode: str = "log_snr", process: Process = VE) -> list[Step]:
    """UniP of `order`, each step but the last redone by UniC of the same order: order + 1 in all.

    variant: how a single difference is weighted; 'bh2' and 'bh1' as published, 'vary_coeff' exactly. prediction:
    'data' or 'noise'. Warms up from order 1; lower_order_final: ends on orders ..., 2, 1. uncorrected: so many first
    steps are not redone. lambda_mode: see counted_in. The step to sigma = 0 returns D, a step of order 1. A flow's step
    from sigma = 1 is of order 1, and in log-SNR, where it is infinite, neither redone nor part of the history.
    NFE len(sigmas) - 1.
    Source: Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2 and appendix; vary_coeff by its conditions, since the
    published code leaves some out.
    """
    check(order, variant)
    if prediction not in ("data", "noise"):
        raise ValueError(f"prediction must be 'data' or 'noise', got {prediction!r}")
    process = counted_in(process, sigmas, lambda_mode)
    form, lams = Form(prediction == "noise", variant, process), process.lams(sigmas)
    count = len(sigmas) - 1
    orders = [min(order, i + 1, count - i if lower_order_final else order) for i in range(count)]
    steps = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if sigma_next == 0.0:
            steps.append(Step(sigma, sigma_next, RETURN_D, keep=form.keep(sigma)))
            continue
        shares = past_shares(lams, i, orders[i] - 1) if math.isfinite(lams[i]) else []
        steps.append(Step(sigma, sigma_next, form.update(lams[i:i + 2], shares, sigma, sigma_next),
                          keep=form.keep(sigma)))
    if use_corrector:
        steps = add_corrector(steps, orders=orders, variant=variant, uncorrected=uncorrected, process=process)
    return steps
