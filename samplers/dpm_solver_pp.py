"""DPM-Solver++: 2S, 2M, 3M and mixed orders in the data prediction."""
from .dpm_solver import Options, plan, third_order_is_halved
from .linear import Step
from .process import VE, Process, counted_in


def plan_dpm_solver_pp(sigmas: list[float], *, order: int = 2, solver_type: str = "midpoint",
                       lower_order_below: int = 10, third_order_term: str = "exact", method: str = "multistep",
                       r1: float = 0.0, r2: float = 0.0, lambda_mode: str = "log_snr",
                       process: Process = VE) -> list[Step]:
    """Steps of DPM-Solver++(1), (2S), (2M), (3S) or (3M).

    method: 'multistep' calls the model once a step; 'singlestep' takes every interval in one step of `order` calls,
    'grouped' joins up to `order` intervals to one step that calls the model at their levels, 'fast' is grouped on
    levels of its own, even in lambda between the first and the last above 0.
    solver_type: the weight of the first difference, 'midpoint' half that of the newest value (the paper's default),
    'taylor' the exact integral; both agree to order 2, and at order 3 multistep only its second step has a choice.
    'midpoint_stages' is midpoint with that weight in the state of 3S's third call too, as diffusers has it.
    lower_order_below: multistep schedules of fewer steps than this end on orders ..., 2, 1, as the reference does; 0
    never. third_order_term: multistep of order 3; 'reference' halves its last term, as the published code does, which
    leaves 3M at order 2; 'exact' is the divided difference, order 3. r1, r2: where in the step (0 to 1, by lambda)
    singlestep calls the model; 0 is 1/2 (order 2), or 1/3 and 2/3 (order 3). lambda_mode: see counted_in.
    The step to sigma = 0 returns D; grouped counts it as the last of its orders. 2M, and 3M from 8 steps on, take a
    flow's second step after sigma = 1 in the VE form, where its history is not at infinity. NFE of multistep, grouped
    and fast len(sigmas) - 1, of singlestep `order` times that but for the step to 0.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithms 1 and 2 and appendix B.
    """
    if solver_type not in ("midpoint", "taylor", "midpoint_stages"):
        raise ValueError(f"solver_type must be 'midpoint', 'taylor' or 'midpoint_stages', got {solver_type!r}")
    options = Options(False, order, method, solver_type != "taylor", lower_order_below,
                      third_order_is_halved(third_order_term), r1, r2, solver_type == "midpoint_stages")
    return plan(sigmas, options, counted_in(process, sigmas, lambda_mode))
