"""Samplers that choose their own steps."""
from .. import host
from ..samplers.adaptive import VARIABLES, sample_dpm_solver_adaptive, sample_pf_ode
from .inputs import CHOICE, FLOAT, INT
from .samplers import SolverNode

MAX_CALLS = INT(1000, 20, 100000, "The run ends with an error past so many model calls.", advanced=True)


class AdaptiveNode(SolverNode):
    """A node whose inputs are exactly the options of SAMPLE."""

    def build(self, **options):
        return (host.sampler(self.SAMPLE, **options),)


class OdeonSamplerPFODE(AdaptiveNode):
    TITLE = "Probability-flow ODE"
    DESCRIPTION = "Solves the model's ODE to a chosen accuracy with Runge-Kutta 5(4): what others approach."
    SEARCH_ALIASES = ["rk45", "dopri5", "adaptive", "probability flow", "score sde", "reference"]
    SAMPLE = staticmethod(sample_pf_ode)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "rtol": FLOAT(1e-5, 1e-9, 0.1, "Error allowed in a step, relative to the state. 1e-3 suits pictures, 1e-5 "
                          "references.", step=1e-9),
            "atol": FLOAT(1e-5, 1e-9, 0.1, "Error allowed in a step besides, where the state is near 0.", step=1e-9),
            "variable": CHOICE(VARIABLES, "What steps are even in. lambda (log-SNR) needs the fewest calls.",
                               advanced=True),
            "norm": CHOICE(["per_sample", "batch"], "Every picture takes its own steps, or all take the same ones, as "
                           "published, so that a picture depends on its batch.", advanced=True),
            "max_calls": MAX_CALLS,
        }}


class OdeonSamplerDPMSolverAdaptive(AdaptiveNode):
    TITLE = "DPM-Solver adaptive"
    DESCRIPTION = "DPM-Solver-12 and -23: picks its steps from the difference of two orders."
    SEARCH_ALIASES = ["dpm_adaptive", "dpm solver 23", "dpm solver 12", "adaptive"]
    SAMPLE = staticmethod(sample_dpm_solver_adaptive)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "order": INT(3, 2, 3, "The higher of the two orders, and the model calls of a step."),
            "rtol": FLOAT(0.05, 1e-4, 1.0, "Error allowed in a step, relative to the state.", step=1e-4),
            "atol": FLOAT(0.0078, 1e-4, 1.0, "Error allowed in a step besides; the default is a 256th of the range of "
                          "pictures.", step=1e-4),
            "h_init": FLOAT(0.05, 0.001, 1.0, "First step in log-SNR.", step=0.001, advanced=True),
            "theta": FLOAT(0.9, 0.1, 1.0, "Caution: share of the step that the error would allow.", advanced=True),
            "solver_type": CHOICE(["dpmsolver", "taylor"], "Two weightings of the same order.", advanced=True),
            "norm": CHOICE(["batch_max", "pooled"], "The error of the worst picture of a batch, or of all together.",
                           advanced=True),
            "max_calls": MAX_CALLS,
        }}


NODES = (OdeonSamplerPFODE, OdeonSamplerDPMSolverAdaptive)
