"""The configuration file: one mapping, no key twice, no Python, no bomb, and names that YAML leaves as they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.config.file import check_file
from peft_tradeoffs.core.errors import InputError


def said(folder: Path, text: str, name: str = "my.yaml") -> str:
    """The error of a file with this text, which stands in one line."""
    path = folder / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        check_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "read"),
    [
        *[("no", "false"), ("on", "true"), ("Yes", "true"), ("off", "false"), ("null", "null"), ("~", "null")],
        *[("010", "the number 8"), ("1_000", "the number 1000"), ("1.0e+3", "the number 1000.0"), ("1.50", "1.5")],
        *[("12:30", "the number 750"), ("2024-01-01", "the date 2024-01-01"), ("0x1f", "the number 31"), ("7", "7")],
    ],
)
@pytest.mark.parametrize("section", ["datasets", "models", "methods", "attribution", "imported"])
def test_a_name_that_yaml_reads_as_something_else(tmp_path, section, word, read):
    text = said(tmp_path, f"output: a\n{section}:\n  {word}: {{}}\n")
    assert text.startswith(f"config key {section}: YAML reads the name {word} as ")
    assert read in text
    assert f'put it in quotes: "{word}"' in text
    assert "line 3" in text


@pytest.mark.parametrize("word", ["no", "1e3", "010", "null", "12:30", "2024-01-01"])
def test_a_name_in_quotes(tmp_path, word):
    (tmp_path / "my.yaml").write_text(f'datasets: {{"{word}": {{}}}}')
    assert list(check_file(tmp_path / "my.yaml")["datasets"]) == [word]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("comparison: {baseline: no}", "comparison.baseline"),
        ("noise: {arms: [full, on]}", "noise.arms.1"),
        ("equal_memory: {arms: [1_0]}", "equal_memory.arms.0"),
        ("attribution: {both: [a, b, c, yes]}", "attribution.both.3"),
        ("output: 010", "output"),
        ("datasets: {a: {label: 2024-01-01}}", "datasets.a.label"),
        ("datasets: {a: {text: [body, off]}}", "datasets.a.text.1"),
        ("models: {a: {tokenizer: {path: 1.10}}}", "models.a.tokenizer.path"),
        ("x: &x {baseline: no}\ncomparison: {<<: *x}", "comparison.baseline"),
    ],
)
def test_a_text_that_yaml_reads_as_something_else(tmp_path, text, key):
    assert f"config key {key}: YAML reads " in said(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "key", "read"),
    [
        ("training: {batch_size: 016}", "training.batch_size", "016 as the number 14"),
        ("seeds: [0, 1:30]", "seeds.1", "1:30 as the number 90"),
        ("datasets: {a: {positive_class: 010}}", "datasets.a.positive_class", "010 as the number 8"),
        ("methods: {a: {peft: {r: 010}}}", "methods.a.peft.r", "010 as the number 8"),
    ],
)
def test_a_number_that_yaml_reads_in_another_base(tmp_path, text, key, read):
    assert f"config key {key}: YAML reads {read}; write the number that is meant" in said(tmp_path, text)


def test_what_may_be_no_text(tmp_path):
    """Numbers and booleans where the schema wants them, and numbers as keys of what Transformers reads."""
    written = {
        "models": {"m": {"source": "random", "config": {"id2label": {0: "a", 12: "b"}, "is_decoder": False}}},
        "methods": {"full": {"learning_rate": 1.0e-3, "gradient_checkpointing": True}},
        "comparison": {"baseline": None},
        "seeds": [0, 1],
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(written))
    assert check_file(tmp_path / "my.yaml") == written


@pytest.mark.parametrize("key", ["__use_yte__", "__definitions__", "__variables__"])
@pytest.mark.parametrize("name", ["my.yaml", "my.json"])
def test_python_in_a_file(tmp_path, key, name):
    text = json.dumps({key: True, "seeds": [0]})
    assert f"config key {key}: " in said(tmp_path, text, name)


def test_a_strangers_file_is_checked_without_snakemake(tmp_path):
    """The case of the audit: the command says no, and nothing of the file was run."""
    settings = {**tiny.config(tmp_path), "__use_yte__": True, "__definitions__": ["import os; os.system('touch RUN')"]}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    script = tiny.REPOSITORY / "workflow_scripts/check_config.py"
    done = subprocess.run([sys.executable, script, "my.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: config key __use_yte__: ")
    assert not (tmp_path / "RUN").exists()


def test_a_sound_file_is_checked_without_snakemake(tmp_path):
    tiny.write_inputs(tmp_path, tmp_path)
    hub = {"source": "hub", "path": "owner/model", "revision": "0" * 40}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tiny.config(tmp_path, output="~/x", models={"tiny": hub})))
    script = tiny.REPOSITORY / "workflow_scripts/check_config.py"
    done = subprocess.run(
        [sys.executable, script, "my.yaml"],
        cwd=tmp_path,
        env=tiny.environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert f"full, lora-r4, qlora-r4; 2 seed(s); results in {tmp_path}/x" in done.stdout, done.stderr
    assert not (tmp_path / "x").exists()


LEVELS = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 13)]
BOMBS = {
    "lists": "x0: &x0 [a, a]\n" + "".join(LEVELS),
    "mappings": "x0: &x0 {a: b}\n"
    + "".join(f"x{i}: &x{i} {{{', '.join(f'k{k}: *x{i - 1}' for k in range(9))}}}\n" for i in range(1, 13)),
    "merged": "x0: &x0 {a: b}\n"
    + "".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 13)),
    "itself": "x: &x [*x]\n",
    "a chain": "x0: &x0 [a]\n" + "".join(f"x{i}: &x{i} [*x{i - 1}]\n" for i in range(1, 600)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_aliases_that_never_end(tmp_path, name):
    assert "written out, the aliases (*name) make more than " in said(tmp_path, BOMBS[name])


def test_the_same_bombs_behind_snakemake():
    """What Snakemake read itself comes without its file's words."""
    from peft_tradeoffs.config.file import own_copy

    value: list = ["a"] * 9
    for _ in range(12):
        value = [value] * 9
    with pytest.raises(InputError, match=r"config key seeds\.0.*200,000 values, aliases written out"):
        own_copy({"seeds": value})
    value = ["a"]
    value.append(value)
    with pytest.raises(InputError, match="more than 50 levels"):
        own_copy({"seeds": value})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, ("line 1", "nested more than 50 levels deep")),
        ("".join(f"{'  ' * i}a:\n" for i in range(60)), ("nested more than 50 levels deep",)),
        ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", ("nested more than 50 levels deep",)),
        ('{"a": 1, "a": 2}', ("the key a stands twice",)),
        ("a: 1\nb: {c: 1, c: 2}", ("line 2: the key c stands twice",)),
        ("a: 1\n---\nb: 2\n", ("line 2", "expected a single document")),
        ("a: !!python/object/apply:os.system [x]", ("line 1", "could not determine a constructor")),
        ("a: !mine x", ("line 1", "could not determine a constructor")),
        ("a: 2024-13-45", ("month must be in 1..12", "put it in quotes")),
        ("? [a, b]\n: 1", ("a list or mapping stands for a key",)),
        ("a: *b", ("line 1", "undefined alias")),
        ("a: b\x01", ("special characters are not allowed",)),
        ("just words", ("a str; must hold the keys",)),
        ("# nothing\n", ("empty; must hold the keys",)),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, parts):
    error = said(tmp_path, text)
    assert error.startswith(("config key", str(tmp_path)))
    assert [part for part in parts if part not in error] == []


def test_anchors_and_merged_keys_stay(tmp_path):
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}], d: *x}\n"
    (tmp_path / "my.yaml").write_text(text)
    assert check_file(tmp_path / "my.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize("path", [*(tiny.REPOSITORY / "examples").glob("*.yaml"), tiny.REPOSITORY / "config.yaml"])
def test_our_own_files(path):
    assert check_file(path) == yaml.safe_load(path.read_text())
