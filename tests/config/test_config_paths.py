"""Paths of a configuration: written out, or refused by a line that names the key."""

from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.file import check_splits, expanded
from peft_tradeoffs.core.errors import InputError

TOKENIZER = {"source": "folder", "path": "model"}
RANDOM = {"source": "random", "config": {"model_type": "bert"}, "tokenizer": TOKENIZER}
PLACES = {
    "output": lambda found: found.output,
    "datasets.reviews.splits.train": lambda found: found.datasets["reviews"].splits["train"],
    "datasets.reviews.splits.validation": lambda found: found.datasets["reviews"].splits["validation"],
    "datasets.reviews.splits.heldout": lambda found: found.datasets["reviews"].splits["heldout"],
    "models.tiny.path": lambda found: found.models["tiny"].path,
    "models.shape.tokenizer.path": lambda found: found.models["shape"].tokenizer.path,
    "reference": lambda found: found.reference,
    "imported.peft.0": lambda found: found.imported["peft"][0],
}


def settings(key: str = "", value: str = "") -> dict:
    """The small experiment with this path at a key."""
    config = tiny.config(Path())
    config["models"] = {"tiny": {"source": "folder", "path": "model"}, "shape": {**RANDOM, "tokenizer": {**TOKENIZER}}}
    config["imported"] = {"peft": ["results.json"]}
    *above, last = key.split(".")
    block = config
    for name in above:
        block = block[name]
    if key:
        block[int(last) if last.isdecimal() else last] = value
    return config


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("NAME", "name")
    monkeypatch.setenv("BRACES", "/da{x}ta")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", PLACES)
def test_every_path_is_written_out(key):
    assert PLACES[key](resolve(settings(key, "~/${NAME}/x"))) == "/home/me/name/x"
    with pytest.raises(InputError, match=f"config key {key}: 'x.y}}' has braces, which are wildcards in Snakemake"):
        resolve(settings(key, "x.y}"))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("~/x", "/home/me/x"),
        ("$HOME/x", "/home/me/x"),
        ("${DATA}/a b/x", "/data/a b/x"),
        ("sub/$DATA.x", "sub//data.x"),
    ],
)
def test_variables_are_written_out(written, found):
    assert expanded("key", written) == expanded("key", written, there=False) == found


def test_ids_of_the_hub_are_no_paths():
    config = settings()
    config["models"]["tiny"] = {"source": "hub", "path": "~me/$x", "revision": "0" * 40}
    assert resolve(config).models["tiny"].path == "~me/$x"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("da{1}ta/x", "braces, which are wildcards in Snakemake"),
        ("$BRACES/x", "braces, which are wildcards in Snakemake"),
        ("${UNSET:-a}/x", "braces, which are wildcards in Snakemake"),
        ("$UNSET/x", "the environment variable UNSET is not set"),
        ("${EMPTY}/x", "the environment variable EMPTY is empty"),
        ("~no_such_user/x", "there is no such user"),
        ("x\n", "a line break or another sign that cannot be seen"),
        ("x\0y", "a line break or another sign that cannot be seen"),
        ("x\ty", "a line break or another sign that cannot be seen"),
        ("x ", "begins or ends with a blank"),
        (" x", "begins or ends with a blank"),
        ("s3://bucket/x", "is an address"),
        ("https://host/x.csv", "is an address"),
        ("x" * 300, "is too long for a path"),
    ],
)
def test_signs_that_are_no_part_of_a_path(written, said):
    with pytest.raises(InputError) as caught:
        expanded("some.key", written)
    assert str(caught.value).startswith("config key some.key: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_signs_that_are_harmless():
    """A shell's, a pattern's and other alphabets' signs are names like any other."""
    for name in ("a*b?[c].tsv", "it's (1) & $5;.tsv", "données\u00a0été.tsv", "-x.tsv", "a:b.tsv", "100%.tsv"):
        assert expanded("some.key", name) == name


def test_a_file_with_a_dollar_in_its_name(tmp_path):
    (tmp_path / "price$UNSET.tsv").touch()
    assert expanded("some.key", "price$UNSET.tsv") == "price$UNSET.tsv"


@pytest.mark.parametrize(
    ("key", "written", "said"),
    [
        ("output", "-x", "begins with -, as an option does"),
        ("output", "$HOME/..//..", "/ is the whole disk"),
        ("output", "a/..", "the working folder itself cannot be it"),
        ("output", "model/results", "the output folder model/results lies in it"),
        ("output", "./model", "the output folder model lies in it"),
        ("reference", "-x", "begins with -, as an option does"),
    ],
)
def test_folders_that_cannot_be(key, written, said):
    with pytest.raises(InputError, match="config key ") as caught:
        resolve(settings(key, written))
    assert said in str(caught.value)


@pytest.mark.parametrize("written", ["~", "/", "$HOME/"])
def test_a_model_that_is_everything(tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"config key models\.tiny\.path: .* has all your files in it"):
        resolve(settings("models.tiny.path", written))


# Splits


@pytest.mark.parametrize(
    ("one", "other"),
    [("validation", "test"), ("heldout", "test"), ("train", "validation"), ("train", "heldout")],
)
@pytest.mark.parametrize("how", ["the same", "./", "a/../", "absolute", "hard link", "symbolic link", "folder's link"])
def test_two_splits_that_are_one_file(tmp_path, one, other, how):
    for name in ("rows.tsv", "train.tsv", "test.tsv"):
        (tmp_path / name).touch()
    match how:
        case "hard link":
            (tmp_path / "other.tsv").hardlink_to(tmp_path / "rows.tsv")
        case "symbolic link":
            (tmp_path / "other.tsv").symlink_to("rows.tsv")
        case "folder's link":
            (tmp_path / "folder").symlink_to(".")
    named = {"./": "./rows.tsv", "a/../": "a/../rows.tsv", "absolute": f"{tmp_path}/rows.tsv", "the same": "rows.tsv"}
    splits = {
        **{"train": "train.tsv", "test": "test.tsv", one: "rows.tsv"},
        other: named.get(how, "folder/rows.tsv" if how == "folder's link" else "other.tsv"),
    }
    with pytest.raises(InputError) as caught:
        check_splits("datasets.reviews", "files", splits)
    assert any(f"config key datasets.reviews.splits.{split}: " in str(caught.value) for split in (one, other))
    assert any(f" is {split} too" in str(caught.value) for split in (one, other))


def test_two_splits_that_are_one_split_of_the_hub():
    config = settings()
    hub = {"source": "hub", "path": "owner/rows", "revision": "0" * 40}
    splits = {"train": "train", "validation": "validation", "heldout": "validation", "test": "test"}
    config["datasets"]["reviews"] |= {**hub, "splits": splits}
    with pytest.raises(InputError, match=r"splits\.heldout: validation is validation too, .* another split of the hub"):
        resolve(config)
    splits["heldout"] = "Validation"
    resolve(config)


def test_two_data_sets_may_share_a_file():
    config = settings()
    config["datasets"]["again"] = {**config["datasets"]["reviews"], "text": ["other"]}
    assert len(resolve(config).datasets) == 2
