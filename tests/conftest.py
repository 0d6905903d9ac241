"""Fixtures that several test files share."""

from pathlib import Path

import pytest
import tiny


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist's --dist loadgroup, the tests of a file go to one worker, and those of Slurm, which is one, too."""
    slurm = Path(__file__).parent / "slurm"
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if item.path.is_relative_to(slurm) else item.path.stem))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT."""
    return tiny.bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama without a pad token."""
    return tiny.llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Folder of a finished small benchmark (full, LoRA, QLoRA; two seeds) beside its workflow. Copy it to change it."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.copy_workflow(folder)
    tiny.write_inputs(folder, tiny_bert)
    tiny.snakemake(folder, tiny.config(folder))
    return folder
