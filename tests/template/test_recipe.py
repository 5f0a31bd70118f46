"""The documentation's recipe for a new model and dataset, followed to the letter in a copy."""

import json
import re
from pathlib import Path

import pytest

from tests.lightkeel.places import ROOT
from tests.template.baking import commit, copy_template, run

RECIPE = Path(__file__).parent / "recipe"


@pytest.mark.slow
def test_recipe_in_the_documentation(tmp_path: Path) -> None:
    """Its files are shown as they are, and work when they are added as it says."""
    text = (ROOT / "docs/your_model.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.S)
    copy = copy_template(tmp_path / "project")
    shown = {}
    for _, block in blocks:
        heading, _, content = block.removeprefix("# ").partition("\n")
        if heading.endswith("__init__.py"):
            head, dot, lines = (copy / heading).read_text().partition("from .")
            ordered = sorted([*(dot + lines).splitlines(), content.strip()])
            (copy / heading).write_text(head + "\n".join(ordered) + "\n")
        elif "/" in heading:
            assert not (copy / heading).exists()
            (copy / heading).write_text(content)
            shown[Path(heading).name] = content
    expected = {p.name: p.read_text() for p in RECIPE.iterdir() if p.name in shown}
    assert shown.keys() == {"point_classifier.py", "blobs.py", "blobs.yaml"}
    assert shown == expected

    run("python", "-m", "src.train", "--config", "blobs", "--run_name", "first", folder=copy)
    metrics = json.loads((copy / "runs/blobs/first/metrics.json").read_text())
    # Centres 3**0.5 apart, spread 0.4: the classes overlap beyond 2.2 standard deviations.
    assert metrics["test/acc"] > 0.95
    commit(copy)
    files = ["test_models.py", "test_configs.py", "template/test_house.py"]
    chosen = [*(f"tests/{name}" for name in files), "-k", "blobs or PointClassifier"]
    tested = run("python", "-m", "pytest", "-q", *chosen, folder=copy)
    assert re.search(r"^4 passed", tested.splitlines()[-1]), tested
    run("ruff", "check", "--no-cache", folder=copy)
    run("ruff", "format", "--check", "--no-cache", folder=copy)
