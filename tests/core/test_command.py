"""Commands that messages print, with the options of the call that prints them: they can be typed as they stand."""

import shlex
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.core.layout import COMMAND, REPOSITORY, command, tell_command

FILE = "--configfile=my.yaml"
CALLS = {
    f"--profile profiles/local estimate {FILE}": f"snakemake --profile profiles/local fetch {FILE}",
    f"-n --quiet rules {FILE}": f"snakemake --profile {REPOSITORY}/profiles/local fetch {FILE}",
    "-c 4 --configfile a.yaml b.yaml": "snakemake --cores 4 fetch --configfile=a.yaml b.yaml",
    "-s '/a b/Snakefile' -c1 -d there": "snakemake --snakefile '/a b/Snakefile' --directory there --cores 1 fetch",
    f"-c1 runs {FILE} --config 'seeds=[0, 1]'": f"snakemake --cores 1 fetch {FILE} --config 'seeds=[0, 1]'",
    "--profile mine --config": "snakemake fetch",  # which Snakemake refuses
}


@pytest.mark.parametrize("called", CALLS)
def test_a_command_has_the_options_of_the_call_that_prints_it(monkeypatch, tmp_path, called):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    monkeypatch.setenv(COMMAND, '["", ""]')  # and it is put back
    assert command("fetch") == "snakemake fetch"
    tell_command(shlex.split(called))
    assert command("fetch") == CALLS[called]


def test_the_profile_is_of_this_folder_or_the_users_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(COMMAND, '["", ""]')
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "mine")
    tell_command([FILE])
    assert command("fetch") == f"snakemake fetch {FILE}"
    monkeypatch.delenv("SNAKEMAKE_PROFILE")
    Path("profiles/local").mkdir(parents=True)
    tell_command([FILE])
    assert command("fetch") == f"snakemake --profile profiles/local fetch {FILE}"


def test_a_plan_prints_what_can_be_typed(tmp_path, tiny_bert):
    """The command that a message of the workflow names, typed as it stands."""
    tiny.write_inputs(tmp_path, tiny_bert)
    settings = tiny.config(tmp_path)
    tiny.snakemake(tmp_path, settings, "-n")  # which writes config.yaml
    (tmp_path / "config.yaml").rename(tmp_path / "my.yaml")
    asked = ("check_reference", f"--configfile={tmp_path}/my.yaml")
    said = tiny.snakemake(tmp_path, None, "-n", *asked, check=False).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    _, typed, _ = line.split("`")
    wanted = shlex.split(typed)
    assert wanted[0] == "snakemake" and wanted[-2:] == ["store_reference", asked[1]]
    plan = tiny.snakemake(tmp_path, None, "-n", *wanted[wanted.index("store_reference") :]).stdout
    assert "store_reference" in plan and wanted[1:5] == tiny.command(tmp_path)[3:7]
