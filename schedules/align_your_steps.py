"""Align Your Steps: the published tables of levels optimized for one model each."""
from torch import Tensor

from .tables import table_sigmas

# Table 3 of the paper; SD1.5 and SDXL with the digits of its 10-step timesteps on SD's own noise levels.
TABLES = {
    "SD1.5": (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
              0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    "SDXL": (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
             0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    "DeepFloyd-IF": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "SVD": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def align_your_steps_sigmas(steps: int = 10, table: str = "SD1.5", denoise: float = 1.0,
                            end: str = "zero") -> Tensor:
    """Levels of a published table, log-linearly interpolated to `steps` steps: float64 (steps + 1,), VE.

    denoise, end: see table_sigmas; what 'zero' (ComfyUI's way) skips lies 1.3 to 2.8 in log sigma below the level
    before, 'append_zero' are the paper's steps.
    Source: Sabour et al. 2024, arXiv 2404.14507, table 3; interpolation as on the authors' page.
    """
    if table not in TABLES:
        raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
    return table_sigmas(TABLES[table], steps, denoise=denoise, end=end)
