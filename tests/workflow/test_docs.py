"""What README and docs/ say is there, and what README shows can be run."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.model import Config

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_repository_that_a_page_names_are_there(page):
    folders = "profiles|examples|envs|schemas|rules|workflow_scripts|tests|benchmarks"
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|yaml|txt|smk|j2))`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_readme_is_short_and_begins_with_a_command():
    lines = README.splitlines()
    assert len(lines) <= 140
    first = "\n".join(lines[:20])
    assert "git clone" in first and "make demo" in first


def test_readme_links_every_page():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    assert not [page.name for page in ROOT.glob("docs/*.md") if page not in linked]


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


SCRIPTS = sorted(ROOT.glob("workflow_scripts/**/*.py"))
CODE = [*SCRIPTS, *sorted(ROOT.glob("benchmarks/**/*.py")), *sorted(ROOT.glob("tests/**/*.py"))]
SUFFIXES = "png|pdf|csv|tsv|json|jsonl|parquet|md|html|yaml|svg|npz|safetensors|txt|py|toml|conf|log|lock|pt|bin"
DOTTED = re.compile(rf"(?<![\w./-])([a-z_]+)\.(?!(?:{SUFFIXES})\b)([A-Za-z_]\w+)\b(?!\.\w)")
# What docstrings and comments name before a dot that is no module: keys of files, a kernel's setting, variables.
NO_MODULE = {"fs", "versions", "parsed", "package"}
# Keys of a run's facts, of the configuration and of a checkpoint.
NOT_OURS = {"comparison.margin", "gpu.driver_version", "training.precision", "encoder.layer"}
INVENTED = {"a.py", "b.py"}  # files of a test


def said(path: Path) -> Iterator[str]:
    """The docstrings and comments of a file."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from (token.string for token in tokens if token.type == tokenize.COMMENT)


def top_names(path: Path) -> set[str]:
    """What a module defines, its classes' attributes and methods too, or imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def missing(text: str, ours: dict[str, set[str]], others: set[str], files: set[str]) -> list[str]:
    """Files and `module.name`s that a text names and that are not there."""
    found = [name for name in re.findall(r"\b\w+\.py\b", text) if name not in files]
    for first, name in DOTTED.findall(text):
        if f"{first}.{name}" not in NOT_OURS and first not in others and name not in ours.get(first, ()):
            found.append(f"{first}.{name}")
    return found


@pytest.fixture(scope="module")
def there() -> tuple[dict[str, set[str]], set[str], set[str]]:
    """By module or room of ours its names; what else may stand before a dot; names of files."""
    ours: dict[str, set[str]] = {}
    libraries = set(sys.stdlib_module_names) | NO_MODULE | set(Config.model_fields)
    for path in SCRIPTS:
        ours.setdefault(path.stem, set()).update(top_names(path))
        ours.setdefault(path.parent.name, set()).add(path.stem)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                libraries |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                libraries.add((node.module or "").partition(".")[0])
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return ours, libraries - ours.keys() | {"datasets"}, {Path(name).name for name in listed.splitlines()} | INVENTED


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("as `job_noise.over_jobs` does", ["job_noise.over_jobs"]),
        ("as `stats.over_jobs` does, see stats.py", []),
        ("`stats.over_joblots`", ["stats.over_joblots"]),
        ("see core/csv_text.py", ["csv_text.py"]),
        ("runs.csv and `torch.compile`, tasks.metrics", []),
    ],
)
def test_a_name_that_is_not_there_is_found(text, wrong, there):
    assert missing(text, *there) == wrong


def test_what_docstrings_and_comments_name_is_there(there):
    ours, others, files = there
    wrong = {path.relative_to(ROOT): missing("\n".join(said(path)), ours, others, files) for path in SCRIPTS}
    for path in CODE:  # of tests and benchmarks the files alone: they name attributes of their own
        named = re.findall(r"\b\w+\.py\b", "\n".join(said(path)))
        wrong.setdefault(path.relative_to(ROOT), []).extend(name for name in named if name not in files)
    assert not {str(path): names for path, names in wrong.items() if names}


def test_pages_name_files_that_are_there(there):
    files = there[2]
    written = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    assert not [name for name in re.findall(r"\b\w+\.py\b", written) if name not in files]


SHARE = r"(?:an?|one|[Jsk]|ms|\w+econds) (?:\w+ )?an? (?:method|seed|run|job|arm|row|step|sample|million)"
EACH = re.compile(rf", an? \w+ each\b|\b{SHARE}\b")


@pytest.mark.parametrize(
    "text", ["9 arms, a job each;", "learning curves; a sweep a method;", "J a sample", "one pass a step"]
)
def test_a_share_without_per_is_found(text):
    assert EACH.search(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shares_are_said_with_per(page):
    assert not EACH.findall(page.read_text(encoding="utf-8")) or page.name == "CHANGELOG.md"


def test_the_map_has_every_module_with_what_it_says_of_itself() -> None:
    said = re.findall(
        r"^- `(\w+/\w+\.py)`: (.+)$", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    package = ROOT / "workflow_scripts/peft_tradeoffs"
    modules = [path for path in package.glob("*/*.py") if path.name != "__init__.py"]
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in modules}
    own = {path.relative_to(package).as_posix(): (text or "").split("\n")[0] for path, text in docstrings.items()}
    assert dict(said) == own
