"""What README and docs/ say is there, and what README shows can be run."""

import re
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.config.experiment import resolve

ROOT = tiny.REPOSITORY
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


def test_readme_is_short_and_begins_with_a_command():
    lines = README.splitlines()
    assert len(lines) <= 140
    first = "\n".join(lines[:20])
    assert "git clone" in first and "make demo" in first


def test_the_configuration_that_readme_shows_is_taken():
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```$", README)
    found = resolve(yaml.safe_load(block))
    assert [*found.arms] == ["full", "lora-r8", "lora-r32", "qlora-r8", "qlora-r32"]
    assert len(found.trials) == 5


def test_every_command_names_its_configuration_with_an_equals_sign():
    """Without it `--configfile` takes the targets behind it for files."""
    shown = [*PAGES, ROOT / "Makefile"]
    wrong = [path.name for path in shown if re.search(r"--configfile [\w./-]+\.yaml", path.read_text(encoding="utf-8"))]
    assert not wrong


def test_the_modules_that_architecture_names_are_there():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    package = ROOT / "workflow_scripts/peft_tradeoffs"
    named = re.findall(r"`((?:core|tasks|inputs|runs|measure|training|analysis|report|config)/\w+\.py)`", text)
    assert len(named) > 20
    assert not [name for name in named if not (package / name).is_file()]
    for room, row in re.findall(r"(?m)^\| `(\w+)` \|[^|]*\|([^|]*)\|$", text):
        for module in re.findall(r"`(\w+\.py)`", row):
            assert (package / room / module).is_file(), f"{room}/{module}"
