"""Every configuration resolves, and every complete one trains, whatever classes it names."""

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest

from src.train import main as train
from tests.lightkeel.places import CONFIGS, DEFAULT_CONFIG, ROOT
from tests.lightkeel.small import absent, experiments, quick, skipped_where_absent

EXPERIMENTS = list(experiments())
PARTS = {path.stem for path in CONFIGS.glob("*.yaml")} - set(EXPERIMENTS)
OVERLAYS = sorted({*PARTS, *(f"overlays/{p.stem}" for p in CONFIGS.glob("overlays/*.yaml"))})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # from there configs name files
    with skipped_where_absent():
        args = [*quick(name, tmp_path / "images"), "--runs_dir", str(tmp_path / "runs")]
        assert train([*args, "--run_name", "r"]) == 0
    run = tmp_path / "runs" / name / "r"
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1
    # A resolved configuration resolves to itself.
    saved = (run / "config.yaml").read_text()
    assert train(["--config", str(run / "config.yaml"), "--run_name", "again"]) == 0
    assert (run.with_name("again") / "config.yaml").read_text() == saved


@pytest.mark.parametrize("name", OVERLAYS)
def test_fits_an_experiment(name: str) -> None:
    """The default, or another that it was made for."""
    said = []
    for experiment in sorted(EXPERIMENTS, key=lambda experiment: experiment != DEFAULT_CONFIG):
        with redirect_stderr(StringIO()) as errors, pytest.raises(SystemExit) as exit_:
            train(["--config", experiment, "--config", name, "--print_config"])
        if exit_.value.code == 0:
            return
        if cause := absent(exit_.value):
            pytest.skip(str(cause))
        said.append(f"over {experiment}: {errors.getvalue()}")
    pytest.fail("\n".join(said))
