"""Pictures of a sweep, drawn by Optuna itself on matplotlib, without a display."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.files import replace
from ..runs.output import tolerated
from .plan import Sweep

if TYPE_CHECKING:
    from optuna.study import Study

DPI = 120
PICTURES = {
    "history": "plot_optimization_history",
    "slice": "plot_slice",
    "importances": "plot_param_importances",
}


def draw(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write ``history.png``, ``slice.png`` and ``importances.png`` once a trial is complete.

    A picture that fails costs no other.
    """
    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        return
    with tolerated("plots"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials, and interfaces that may change
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        from optuna.visualization import matplotlib as drawn

        for name, function in PICTURES.items():
            with tolerated(f"plots/{name}.png"), plt.style.context("default"):
                try:
                    getattr(drawn, function)(study, target_name=sweep.metric)
                    for axes in plt.gcf().axes:  # names of options are long
                        axes.xaxis.label.set_fontsize("x-small")
                    file = io.BytesIO()
                    plt.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
                    folder.mkdir(exist_ok=True)
                    replace(folder / f"{name}.png", file.getvalue())
                finally:
                    plt.close()
