"""Hub data sets: one configuration's files are fetched, and `datasets` loads them offline."""

import shutil
from pathlib import Path

import pytest
from hub_client import (
    DATASET,
    GLUE_CARD,
    LOADING,
    REVISION,
    dataset_call,
    fail,
    files,
    listing,
    load,
    python,
    read_only,
    succeed,
    tiny_glue,
)
from hub_server import HubServer


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_glue(tmp_path_factory.mktemp("hub") / "glue")


@pytest.fixture
def server(glue: Path):
    with HubServer({"datasets": {DATASET: {REVISION: glue}}}) as server:
        yield server


def test_dataset_fetches_one_configuration_and_loads_offline(server, tmp_path):
    home = tmp_path / "home"
    folder = succeed(home, server.url, dataset_call())
    parquet = {f"sst2/{split}-00000-of-00001.parquet" for split in ("train", "validation")}
    assert files(folder) == {"README.md", *parquet}
    assert server.downloaded() == files(folder)
    asked = len(server.requests)

    locked = read_only(home, tmp_path / "locked")
    before = listing(locked)
    found = succeed(locked, server.url, dataset_call(), offline=True)
    said = load(locked, found, "sst2", tmp_path / "scratch")
    labels = "ClassLabel(names=['negative', 'positive'])"
    splits = f"{{'train': (6, {labels}), 'validation': (2, {labels})}}"
    assert said.strip() == f"{splits} {{'sentence': 'train 1', 'label': 1, 'idx': 1}}"
    assert len(server.requests) == asked
    assert listing(locked) == before


def test_second_configuration_is_added_to_the_same_snapshot(server, tmp_path):
    first = succeed(tmp_path, server.url, dataset_call())
    assert "not in the cache" in fail(tmp_path, server.url, dataset_call("ax"), offline=True)
    assert succeed(tmp_path, server.url, dataset_call("ax")) == first
    assert "ax/test-00000-of-00001.parquet" in files(first)
    assert succeed(tmp_path, server.url, dataset_call("ax"), offline=True) == first


def test_dataset_without_configurations_falls_back_to_folder_names(glue, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(glue, plain)
    (plain / "README.md").write_text("# no metadata\n")
    with HubServer({"datasets": {DATASET: {REVISION: plain}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
        assert {name.split("/")[0] for name in files(folder)} == {"README.md", "sst2"}
        assert "no data file matches 'mrpc/**'" in fail(tmp_path / "home", server.url, dataset_call("mrpc"))
        assert "'train': (6, Value('int64'))" in load(tmp_path / "home", folder, "sst2", tmp_path / "scratch")
        everything = succeed(tmp_path / "home", server.url, dataset_call(None))
        assert "ax/test-00000-of-00001.parquet" in files(everything)


def test_partial_data_files_are_found_without_a_cached_listing(glue, tmp_path):
    split = tmp_path / "split"
    shutil.copytree(glue, split)
    train = split / "sst2" / "train-00000-of-00001.parquet"
    shutil.copy(train, split / "sst2" / "train-00001-of-00002.parquet")
    train.rename(split / "sst2" / "train-00000-of-00002.parquet")
    with HubServer({"datasets": {DATASET: {REVISION: split}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
        shutil.rmtree(folder.parents[1] / "trees")
        assert succeed(tmp_path / "home", server.url, dataset_call(), offline=True) == folder
        (folder / "sst2" / "train-00001-of-00002.parquet").unlink()
        said = fail(tmp_path / "home", server.url, dataset_call(), offline=True)
        assert "sst2/train-00001-of-00002.parquet" in said


def test_first_configuration_loads_with_datasets_alone(glue, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(glue, first)
    ax = GLUE_CARD[GLUE_CARD.index("- config_name: ax") : GLUE_CARD.index("- config_name: sst2")]
    (first / "README.md").write_text(GLUE_CARD.replace(ax, ""))
    with HubServer({"datasets": {DATASET: {REVISION: first}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call(None))
    code = "import datasets, sys; print(datasets.load_dataset(sys.argv[1], 'sst2', cache_dir=sys.argv[2]))"
    done = python(["-c", code, str(folder), str(tmp_path / "scratch")], HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "num_rows: 6" in done.stdout


@pytest.mark.parametrize(
    "block",
    [
        "data_dir: sst2",
        "data_dir: ./sst2/",
        "data_files: [{split: train, path: ./sst2/train-*}, {split: test, path: sst2/v*.parquet}]",
    ],
)
def test_dataset_by_folder_and_by_plain_patterns(glue, tmp_path, block):
    """`data_dir`, and a list of patterns without splits, as data cards may have them."""
    configs = f"[{{config_name: ax, data_files: [ax/*.parquet]}}, {{config_name: sst2, {block}}}]"
    other = tmp_path / "other"
    shutil.copytree(glue, other)
    (other / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    with HubServer({"datasets": {DATASET: {REVISION: other}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
        assert {name.split("/")[0] for name in files(folder)} == {"README.md", "sst2"}
        assert "'train': (6, " in load(tmp_path / "home", folder, "sst2", tmp_path / "scratch")
        succeed(tmp_path / "home", server.url, dataset_call("ax"))
        assert "ax/test-00000-of-00001.parquet" in files(folder)


def test_rows_that_differ_from_the_card_are_refused(glue, tmp_path):
    short = tmp_path / "short"
    shutil.copytree(glue, short)
    (short / "README.md").write_text(GLUE_CARD.replace("num_examples: 6", "num_examples: 7"))
    with HubServer({"datasets": {DATASET: {REVISION: short}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
    done = python(["-c", LOADING, str(folder), "sst2", str(tmp_path / "scratch")], HF_HUB_OFFLINE="1")
    assert "NonMatchingSplitsSizesError" in done.stderr


def test_dataset_with_a_loading_script_alone(tmp_path):
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "glue.py").write_text("raise SystemExit('executed')")
    with HubServer({"datasets": {DATASET: {REVISION: folder}}}) as server:
        said = fail(tmp_path / "home", server.url, dataset_call(None))
        assert server.downloaded() == {"README.md"}
    assert "glue.py is not run" in said


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("configs: [1", "the `configs` in its YAML metadata cannot be read"),
        ("configs: [{config_name: sst2, data_files: 5}]", "`data_files` cannot be read, for 5 is no path"),
        ("configs: [{config_name: sst2, data_files: [{split: train}]}]", "cannot be read, for None is no path"),
    ],
)
def test_a_card_that_cannot_be_read_is_one_line(tmp_path, metadata, said):
    folder = tmp_path / "data"
    (folder / "sst2").mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n")
    (folder / "sst2/train.csv").write_text("text,label\na,1\n")
    with HubServer({"datasets": {DATASET: {REVISION: folder}}}) as server:
        found = fail(tmp_path / "home", server.url, dataset_call())
    assert said in found
    assert found.count("\n") == 1
