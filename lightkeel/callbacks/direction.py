"""Whether less or more of a metric is better."""

import re
from typing import Literal

from torch import nn
from torchmetrics import Metric, MetricCollection

Mode = Literal["min", "max"]
LESS = {
    *("loss", "err", "error", "mse", "rmse", "mae", "mape", "smape", "msle", "nll", "bce", "ce"),
    *("perplexity", "ppl", "fid", "kid", "lpips", "wer", "cer", "ece", "brier", "eer"),
    "divergence",
}
MORE = {
    *("acc", "accuracy", "top1", "top5", "f1", "fbeta", "precision", "recall", "sensitivity"),
    *("specificity", "auc", "auroc", "auprc", "roc", "ap", "map", "iou", "miou", "jaccard", "dice"),
    *("r2", "kappa", "mcc", "ndcg", "mrr", "hits", "bleu", "rouge", "meteor", "psnr", "ssim"),
    *("elbo", "reward", "correlation", "pearson", "spearman"),
}


def find_mode(monitor: str, model: nn.Module) -> Mode | None:
    """Find out whether to minimize or maximize a metric; None where nothing tells.

    A metric of torchmetrics in the model that is named like it tells; else the words in its name.
    """
    words = set(re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", monitor).lower()))
    found = None if bool(words & LESS) == bool(words & MORE) else bool(words & MORE)
    for name, part in model.named_modules():
        metrics = part.items() if isinstance(part, MetricCollection) else [(name, part)]
        for key, metric in metrics:
            is_named = isinstance(metric, Metric) and letters(str(key)) == letters(monitor)
            if is_named and metric.higher_is_better is not None:
                found = bool(metric.higher_is_better)
    return None if found is None else "max" if found else "min"


def unknown_mode(monitor: str) -> ValueError:
    """Say that ``find_mode`` has found nothing."""
    return ValueError(
        f"mode: null, and `{monitor}` does not tell whether less or more of it is better. Give "
        "`min` or `max`."
    )


def letters(name: str) -> str:
    """Leave out what ``val/acc``, ``val_acc`` and ``valAcc`` differ in."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
