"""What a person sees who opens a finished run in a browser."""

import shutil
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightkeel.callbacks.image_summaries import ImageSummaries
from tests.lightkeel.browsing import browsing, fetch, needs_chromium, serving, until
from tests.lightkeel.callbacks.test_image_summaries import Small, pictures
from tests.lightkeel.fitting import fit

pytestmark = [pytest.mark.browser, needs_chromium]


def test_tensorboard(tiny_run: Path, tmp_path: Path) -> None:
    """Scalars of a run, and images of one that has some."""
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "tiny")
    logger = TensorBoardLogger(runs / "pictures", name="", version="")
    fit(tmp_path, Small(), pictures(), ImageSummaries(), logger=logger, limit_val_batches=1.0)
    command = [sys.executable, "-m", "tensorboard.main", "--load_fast=false"]
    command += ["--logdir", str(runs), "--host", "127.0.0.1", "--port", "0"]
    ready = r"TensorBoard \S+ at (http://\S+)/ "
    server = serving(command, tmp_path / "server.log", ready)
    with server as url, browsing(tmp_path / "profile") as page:
        until(lambda: "test/acc" in str(fetch(f"{url}/data/plugin/scalars/tags")))
        until(lambda: "images/filters" in str(fetch(f"{url}/data/plugin/images/tags")))
        page.open(f"{url}/?tagFilter=train|val|test#timeseries")
        page.shows("7 cards", "train\n/loss", "val\n/acc", "test\n/acc", "Smoothed")
        page.screenshot("tensorboard_scalars", tmp_path)
        page.open("about:blank")
        page.open(f"{url}/?tagFilter=images/|feature_maps/#timeseries")
        page.shows("5 cards", "images\n/misclassified", "feature_maps\n/01_pool_network.1")
        sizes = page.image_sizes(5)
        page.screenshot("tensorboard_images", tmp_path)
    assert sorted(sizes) == [[73, 35], [263, 158], [263, 263], [268, 130], [268, 130]]
