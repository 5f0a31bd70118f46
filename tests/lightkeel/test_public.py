"""What is public is documented, and is there."""

import re

import lightkeel
from lightkeel import PUBLIC
from tests.lightkeel.test_architecture import LIBRARY, SOURCES


def test_public_names_are_those_of_the_readme() -> None:
    table = (LIBRARY / "README.md").read_text().split("## Public names")[1]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", table, re.M) == sorted({*PUBLIC, "Project"})


def test_the_version_is_in_one_place() -> None:
    written = [path for path in SOURCES if f'"{lightkeel.__version__}"' in path.read_text()]
    assert written == [LIBRARY / "__init__.py"]
