"""Tokenised splits: made, stored as .npz with .json beside it, loaded, and a dev split carved from train.

Training does without pyarrow and pandas, which tokenising needs.
"""

import dataclasses
import functools
import hashlib
import itertools
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peft_tradeoffs.core.errors import InputError, RowError
from peft_tradeoffs.core.files import atomic, read_json, read_object, sha256, write_json
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.inputs.model_check import check_ids, check_pad_token, load_tokenizer
from peft_tradeoffs.inputs.model_files import check_manifest
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import ANY_TEXT, GENERAL, OF_TOKENIZER, PLAIN, Form, NextToken, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Split:
    """One tokenised split: n texts of together t tokens."""

    input_ids: np.ndarray  # int32 [t]
    token_type_ids: np.ndarray | None  # int8 [t]
    offsets: np.ndarray  # int64 [n + 1]
    labels: np.ndarray  # [n] int64 class indices, or float64 values; float32 where they are scaled
    rows: np.ndarray  # int64 [n], row in the source
    targets: np.ndarray | None = None  # bool [t], tokens that are learned; None where labels are
    prompt_ids: np.ndarray | None = None  # int32 [p], what each text's last answer follows; None: no model is asked
    prompt_offsets: np.ndarray | None = None  # int64 [n + 1]

    @property
    def target_counts(self) -> np.ndarray | None:
        """Target tokens a text, int64 [n]; None where labels are learned."""
        if self.targets is None:
            return None
        return np.diff(np.concatenate([[0], np.cumsum(self.targets, dtype=np.int64)])[self.offsets])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a text, int64 [n]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The texts `indices`, in that order."""
        sizes = self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        tokens = np.repeat(self.offsets[indices] - offsets[:-1], sizes) + np.arange(offsets[-1])
        types = None if self.token_type_ids is None else self.token_type_ids[tokens]
        targets = None if self.targets is None else self.targets[tokens]
        taken = Split(self.input_ids[tokens], types, offsets, self.labels[indices], self.rows[indices], targets)
        if self.prompt_ids is None:
            return taken
        prompts = [self.prompts[index] for index in indices]
        ends = np.cumsum([0, *map(len, prompts)], dtype=np.int64)
        return dataclasses.replace(taken, prompt_ids=np.concatenate(prompts), prompt_offsets=ends)

    @property
    def prompts(self) -> list[np.ndarray]:
        """What each text's last answer follows, int32 [p_i]; none where no model is asked."""
        if self.prompt_ids is None or self.prompt_offsets is None:
            return []
        return np.split(self.prompt_ids, self.prompt_offsets[1:-1])


def load_tokens(path: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits in `path` (.npz) by name, and the description (.json) beside it.

    Raises InputError for tokens that are not those described: their SHA-256 is compared, once for each state of the
    file that this process meets.
    """
    description = read_description(path)
    check_tokens(path, description["sha256"])
    with np.load(path) as arrays:
        splits = {
            name: Split(
                arrays[f"{name}_input_ids"],
                arrays.get(f"{name}_token_type_ids"),
                arrays[f"{name}_offsets"],
                arrays[f"{name}_labels"],
                arrays[f"{name}_rows"],
                arrays.get(f"{name}_targets"),
                arrays.get(f"{name}_prompt_ids"),
                arrays.get(f"{name}_prompt_offsets"),
            )
            for name in description["rows"]
        }
    return splits, description


def read_description(path: Path) -> dict[str, Any]:
    """The description (.json) beside the tokens `path`. Raises InputError if there is none."""
    described = path.with_suffix(".json")
    try:
        description = read_json(described, _remedy(path))
    except FileNotFoundError:
        raise InputError(f"{described}: no such file; it is made with the tokens, by tokenize_dataset.py") from None
    missing = [key for key in ("sha256", "rows") if not isinstance(description, dict) or key not in description]
    if missing:
        raise InputError(f"{described}: not a description of tokens, no {', '.join(missing)}; {_remedy(path)}")
    return description


def check_tokens(path: Path, expected: str) -> None:
    """Raise InputError unless `path` has the SHA-256 that its description recorded."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with tokenize_dataset.py") from None
    if _sha256(path, found.st_mtime_ns, found.st_size, found.st_ino) != expected:
        raise InputError(
            f"{path}: its SHA-256 is not that of {path.with_suffix('.json').name} beside it, so it has other tokens; "
            f"{_remedy(path)}"
        )


def _remedy(path: Path) -> str:
    """What helps against tokens that are damaged or changed."""
    return f"delete {path} and run again, which makes it anew"


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    return sha256(path)


# What is read of the files of the jobs before, with the types that it has.
DATASET: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "pair": (bool,),
    "labels": (list, type(None)),
    "splits": (dict,),
    "source": (dict,),
    "sha256": (str,),
}
MANIFEST: dict[str, tuple[type, ...]] = {"files": (dict,), "sha256": (str,)}
CHUNK = 4096  # rows encoded at once
# the models whose first position is padding_idx + 1, as in RoBERTa
OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}


DEV_GROUPS = "test_groups"
END_TOKENS = "end_token_ids"
LONGEST_PROMPT = "longest_prompt"  # tokens, beside those of train
BEGINS = "answers_begin"  # with which text a chat template begins answers, that no reference has
KEPT_OF_ANSWERS = (END_TOKENS, LONGEST_PROMPT, BEGINS, "data_sha256")  # that a dev split's description has too
DRAWS, NEXT_SEED = 20, 1_000_000  # of a dev split whose labels must vary


def read_dev_groups(path: Path) -> np.ndarray | None:
    """The groups of a dev split's rows, [n] from 0, of tokens that `carve_dev` wrote; None where there are none."""
    with np.load(path) as arrays:
        return np.asarray(arrays[DEV_GROUPS]) if DEV_GROUPS in arrays else None


def tokenize(data_dir: Path, model: Path, max_length: int, output: Path) -> None:
    """Write the tokens of a fetched data set by the tokenizer of the fetched model to `output`, .json beside it.

    The .npz has, for each split s, {s}_input_ids (int32, all rows joined), {s}_token_type_ids (int8, where the
    tokenizer returns them), {s}_offsets (int64 [n + 1]: row i is input_ids[offsets[i]:offsets[i + 1]]), {s}_labels
    (int64 class index, or float64 value) and {s}_rows (int64, row in the source split). Texts longer than
    `max_length` are truncated and counted; `tokens` in the .json are lengths before truncation, and `warnings` are what
    a reader of the results must know. Raises InputError for
    files that are missing or not as they were written, and for what the model does not take.
    """
    from peft_tradeoffs.inputs.splits import SPLITS  # with pyarrow, which training does without

    manifest, described = model.with_name(f"{model.name}.json"), data_dir / "dataset.json"
    for path, script in ((manifest, "fetch_model.py"), (described, "fetch_dataset.py")):
        if not path.is_file():
            raise InputError(f"{path}: no such file; make it with {script}")
    if not model.is_dir():
        raise InputError(f"{model}: no such folder; make it with fetch_model.py")
    dataset = read_object(described, DATASET, "a data set's description", "delete it, and the data set is read again")
    if dataset["task"] not in TASKS:
        raise InputError(f"{described}: no task {dataset['task']!r}; delete it, and the data set is read again")
    about = read_object(manifest, MANIFEST, "a model's manifest", "delete it, and the model is fetched again")
    check_manifest(model, about)
    tokenizer = load_tokenizer(model)
    embeddings = about.get("embeddings")
    check_pad_token(model, tokenizer, embeddings)
    check_max_length(max_length, model, tokenizer, dataset["pair"])

    arrays: dict[str, np.ndarray] = {}
    tokens, truncated, rows, texts, learned = {}, {}, {}, {}, {}
    for split in (split for split in (*SPLITS, GENERAL) if split in dataset["splits"]):
        path = data_dir / f"{split}.parquet"
        check_split(path, dataset["splits"][split])
        if (reader := ANY_TEXT if split == GENERAL else TASKS[dataset["task"]].reader) is None:
            of_split, lengths = tokenize_split(path, tokenizer, max_length, dataset["pair"], embeddings)
        else:
            form = Form(PLAIN) if split == GENERAL else Form.read(dataset["source"]["form"])
            of_split, lengths, learned[split] = encode_split(path, tokenizer, reader, form, max_length, embeddings)
        rows[split], texts[split] = len(of_split["rows"]), len(lengths)
        arrays |= {f"{split}_{name}": array for name, array in of_split.items()}
        truncated[split] = sum(length > max_length for length in lengths)
        tokens[split] = {
            "mean": round(float(np.mean(lengths)), 2),
            "p99": int(np.percentile(lengths, 99, method="higher")),
            "max": max(lengths),
        }
    said = _cut_texts(max_length, truncated, texts)
    of_targets: dict[str, Any] = {}
    if learned:
        stops = _stops(model, tokenizer)
        said += _left_out(max_length, learned, texts) + _open_ends(tokenizer, stops, dataset["source"]["form"], learned)
        of_targets = _begins(dataset["source"]["form"], learned, said)
        of_targets |= _of_targets(tokenizer, stops, dataset["source"]["form"], learned)
    for warning in said:
        print(f"warning: data set {output.parent.name}, model {model.name}: {warning}", file=sys.stderr)
    output.with_suffix(".json").unlink(missing_ok=True)  # a killed call leaves none that tells of other tokens
    _write(output, arrays)
    write_json(
        output.with_suffix(".json"),
        {
            "max_length": max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "num_labels": TASKS[dataset["task"]].outputs(dataset["labels"]),
            "labels": dataset["labels"],
            "task": dataset["task"],
            "truncated": truncated,
            "tokens": tokens,
            "rows": rows,
            **of_targets,
            "warnings": said,
            "data_sha256": dataset["sha256"],
            "model_sha256": about["sha256"],
            "sha256": sha256(output),
        },
    )


def carve_dev(tokens: Path, fraction: float, seed: int, output: Path, data_dir: Path | None = None) -> None:
    """Write tokens as `tokenize` does, without its test split: `test` is the dev split, on which trials are judged.

    That is the validation split where there is one, and `train` is all of train; elsewhere it is carved from train,
    with `seed`, and `train` is what is left. `dev` of the description says which. data_dir: the folder of the fetched
    data set, whose groups stay whole if it has any; those of the dev rows are written too (DEV_GROUPS, int64 [n] from
    0). Raises InputError as `read_groups` and `carve` do, and for a dev split whose labels are all the same.
    """
    from peft_tradeoffs.inputs.splits import read_groups  # with pyarrow, which training does without

    splits, description = load_tokens(tokens)
    source = VALIDATION if VALIDATION in splits else "train"
    whole = splits[source]
    groups = None if data_dir is None else read_groups(data_dir.parent, data_dir.name, source, whole.rows)
    if source == VALIDATION:
        train, dev = splits["train"], whole
        if dev.targets is None and len(np.unique(dev.labels)) < 2:
            same = f"the {len(dev)} rows of validation all have the same label"
            raise InputError(f"data set {tokens.parent.name}: {same}, so no learning rate can be chosen by them")
    else:
        strata = TASKS[description["task"]].strata(whole.labels)
        train, dev = _carve_varied(whole, strata, fraction, seed, groups)
    arrays: dict[str, np.ndarray] = {}
    for name, split in (("train", train), ("test", dev)):
        fields = {field.name: getattr(split, field.name) for field in dataclasses.fields(split)}
        arrays |= {f"{name}_{key}": value for key, value in fields.items() if value is not None}
    if groups is not None:
        of_row = dict(zip(whole.rows.tolist(), groups.tolist(), strict=True))
        arrays[DEV_GROUPS] = np.unique([of_row[row] for row in dev.rows.tolist()], return_inverse=True)[1]
    _write(output, arrays)
    write_json(
        output.with_suffix(".json"),
        {
            **{key: description[key] for key in ("max_length", "pad_token_id", "num_labels", "labels", "task")},
            **{key: description[key] for key in KEPT_OF_ANSWERS if key in description},
            "rows": {"train": len(train), "test": len(dev)},
            # Which of the texts that have max_length tokens were longer is not known any more.
            "truncated": dict.fromkeys(("train", "test"), None if description["truncated"]["train"] else 0),
            "dev": source,
            "carved": {"fraction": fraction, "seed": seed} if source == "train" else None,
            "carved_from_sha256": description["sha256"],
            "sha256": sha256(output),
        },
    )


def _carve_varied(
    train: Split, strata: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None
) -> tuple[Split, Split]:
    """As `carve`, with the first of the seeds `seed`, `seed` + NEXT_SEED and so on whose dev labels vary."""
    for draw in range(DRAWS):
        left, dev = carve(train, strata, fraction, seed + draw * NEXT_SEED, groups)
        if train.targets is not None or len(np.unique(dev.labels)) > 1:
            return left, dev
    raise InputError(
        f"config key tune.fraction: with {fraction} of the {len(train)} rows of train all labels of the dev split are "
        f"the same, in {DRAWS} draws of it; take a larger fraction, or more rows"
    )


def carve(
    train: Split, strata: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[Split, Split]:
    """`train` without the dev split, and the dev split: about `fraction` of its texts.

    Drawn from each of the `strata` ([n] int64); texts of the same tokens stay on one side, or rows of the same of the
    `groups` ([n] int64) where there are such. Raises InputError if either side would get too few rows.
    """
    if groups is not None:
        return _carve_groups(train, strata, fraction, seed, groups)
    from peft_tradeoffs.inputs.splits import stratified_sample  # with pyarrow, which training does without

    ids: dict[bytes, int] = {}
    groups = np.array(
        [
            ids.setdefault(train.input_ids[start:end].tobytes(), len(ids))
            for start, end in itertools.pairwise(train.offsets)
        ]
    )
    first = np.unique(groups, return_index=True)[1]
    strata = strata[first]
    size, least = round(fraction * len(first)), max(2, len(np.unique(strata)))
    if not least <= size <= len(first) - least:
        raise InputError(
            f"config key tune.fraction: {fraction} of the {len(first)} different texts of train is {size}, at least "
            f"{least} are needed on either side; take another fraction, or more rows"
        )
    in_dev = np.isin(groups, stratified_sample(strata, size, seed))
    return train.take(np.flatnonzero(~in_dev)), train.take(np.flatnonzero(in_dev))


def _carve_groups(
    train: Split, strata: np.ndarray, fraction: float, seed: int, groups: np.ndarray
) -> tuple[Split, Split]:
    from peft_tradeoffs.inputs.groups import draw_groups

    in_dev = draw_groups(groups, strata, fraction, seed)
    for rows in (in_dev, ~in_dev):
        lost = len(np.unique(strata)) - len(np.unique(strata[rows]))
        if lost or len(np.unique(groups[rows])) < 2:
            missing = f"{lost} classes would be missing" if lost else "fewer than 2 groups would be"
            raise InputError(
                f"config key tune.fraction: of {fraction} of the {len(groups)} rows of train, in "
                f"{len(np.unique(groups))} groups that are not parted, {missing} on one side; take another fraction, "
                "or data in more groups"
            )
    return train.take(np.flatnonzero(~in_dev)), train.take(np.flatnonzero(in_dev))


def longest_input(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The most tokens the model takes: the lower of its position embeddings and its tokenizer's limit."""
    config = read_json(folder / "config.json")
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    limits = [tokenizer.model_max_length]  # a huge number where it has none
    if positions and positions > 0:
        padding = config.get("pad_token_id")
        offset = (1 if padding is None else padding) + 1
        limits.append(positions - (offset if config.get("model_type") in OFFSET_POSITIONS else 0))
    return min(limits)


def check_max_length(max_length: int, folder: Path, tokenizer: "PreTrainedTokenizerBase", pair: bool) -> None:
    """Raise InputError unless `max_length` tokens fit the model and leave room for text."""
    longest = longest_input(folder, tokenizer)
    if max_length > longest:
        raise InputError(
            f"max_length {max_length} is above what the model {folder.name!r} takes, {longest} tokens; "
            f"set it to {longest} or less"
        )
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length < special + 1 + pair:
        raise InputError(
            f"max_length {max_length}: the model {folder.name!r} adds {special} special tokens, so at least "
            f"{special + 1 + pair} are needed"
        )


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: list[tuple[str, ...]], max_length: int
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Token lists by name for n rows of one or two texts, and their n lengths before truncation."""
    encoded: dict[str, list[list[int]]] = {"input_ids": []}
    if "token_type_ids" in tokenizer.model_input_names:
        encoded["token_type_ids"] = []
    lengths: list[int] = []
    for start in range(0, len(texts), CHUNK):
        columns = [list(column) for column in zip(*texts[start : start + CHUNK], strict=True)]
        whole = tokenizer(*columns, verbose=False)
        lengths += map(len, whole["input_ids"])
        if max(lengths[start:]) > max_length:
            whole = tokenizer(*columns, truncation=True, max_length=max_length)
        for name, lists in encoded.items():
            lists += whole[name]
    return encoded, lengths


def check_split(path: Path, described: dict[str, Any]) -> None:
    """Raise InputError unless the split's file is there and is the one that dataset.json `described`."""
    remedy = f"delete {path.parent} and run again, which reads the data set anew"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    recorded = described.get("sha256")
    if recorded is not None and recorded != sha256(path):
        raise InputError(f"{path}: changed since dataset.json was written, which has another sha256 of it; {remedy}")


def tokenize_split(
    path: Path, tokenizer: "PreTrainedTokenizerBase", max_length: int, pair: bool, embeddings: int | None
) -> tuple[dict[str, np.ndarray], list[int]]:
    """A split's arrays by name (see `tokenize`) and its rows' lengths before truncation.

    Raises InputError for a row without tokens, or with one that is none of the model's `embeddings`.
    """
    import pyarrow.parquet as pq  # which training does without

    table = pq.read_table(path)
    columns = ("text_a", "text_b") if pair else ("text_a",)
    texts = list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))
    rows = table.column("row").to_pylist()
    encoded, lengths = encode(tokenizer, texts, max_length)
    empty = [row for row, length in enumerate(lengths) if not length]
    if empty:
        raise InputError(f"{path}, row {rows[empty[0]] + 1}: {texts[empty[0]]} has no tokens; take such rows out")
    check_ids(str(path), encoded["input_ids"], tokenizer, embeddings, rows)
    arrays = {
        "offsets": np.cumsum([0, *map(len, encoded["input_ids"])], dtype=np.int64),
        "labels": table.column("label").to_numpy(),
        "rows": table.column("row").to_numpy(),
    }
    for name, lists in encoded.items():
        flat = itertools.chain.from_iterable(lists)
        arrays[name] = np.fromiter(flat, dtype=np.int32 if name == "input_ids" else np.int8)
    return arrays, lengths


def encode_split(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    reader: NextToken,
    form: Form,
    max_length: int,
    embeddings: int | None,
) -> tuple[dict[str, np.ndarray], list[int], dict[str, Any]]:
    """As `tokenize_split`, of rows without labels: arrays with {targets} (bool), lengths, and what is learned of them.

    Rows of which no target is left are dropped, and counted. Raises InputError for what cannot be read, and for a split
    of which fewer than 2 rows are left.
    """
    import pyarrow.parquet as pq  # which training does without

    arrays: dict[str, list[Any]] = {"input_ids": [], "targets": [], "rows": []}
    sizes, lengths, prompts, begins, dropped = [], [], [], [], 0
    ends: Counter[int] = Counter()
    for batch in pq.ParquetFile(path).iter_batches(CHUNK):  # not all texts at once
        rows = batch.column("row").to_pylist()
        columns = [batch.column(name).to_pylist() for name in ("text_a", "text_b") if name in batch.schema.names]
        try:
            encoded = reader.encode(tokenizer, list(zip(*columns, strict=True)), form, max_length)
        except RowError as error:
            raise InputError(f"{path}, row {rows[error.index] + 1}: {error.said}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        check_ids(str(path), [one.ids for one in encoded], tokenizer, embeddings, rows)
        for row, one in zip(rows, encoded, strict=True):
            lengths.append(one.length)
            if not any(one.targets):
                dropped += 1
                continue
            arrays["input_ids"].append(np.array(one.ids, dtype=np.int32))
            arrays["targets"].append(np.array(one.targets))
            arrays["rows"].append(row)
            sizes.append(len(one.ids))
            if one.prompt is not None:
                prompts.append(np.array(one.prompt, dtype=np.int32))
                begins.append(one.begins)
            if one.length <= max_length:
                ends[one.ids[int(np.flatnonzero(one.targets)[-1])]] += 1
    if len(sizes) < 2:
        raise InputError(
            f"{path}: {dropped} of {len(lengths)} rows have no token to learn within max_length {max_length}, and at "
            "least 2 rows are needed; raise max_length"
        )
    found = {
        "input_ids": np.concatenate(arrays["input_ids"]),
        "targets": np.concatenate(arrays["targets"]),
        "rows": np.array(arrays["rows"], dtype=np.int64),
        "labels": np.zeros(len(sizes), dtype=np.int64),
        "offsets": np.cumsum([0, *sizes], dtype=np.int64),
    }
    if prompts:
        found["prompt_ids"] = np.concatenate(prompts)
        found["prompt_offsets"] = np.cumsum([0, *map(len, prompts)], dtype=np.int64)
    longest = max(map(len, prompts), default=0)
    of_targets = {"targets": int(found["targets"].sum()), "dropped": dropped, "ends": dict(ends), "prompt": longest}
    of_targets["begins"] = Counter(begins)
    return found, lengths, of_targets


def _cut_texts(max_length: int, truncated: dict[str, int], texts: dict[str, int]) -> list[str]:
    """One sentence on texts that were cut, if any was."""
    counts = _by_split(truncated, texts)
    return [f"max_length {max_length} cut the end of texts: {counts}."] if counts else []


def _left_out(max_length: int, learned: dict[str, Any], texts: dict[str, int]) -> list[str]:
    """One sentence on rows without a target, if there is any."""
    counts = _by_split({split: one["dropped"] for split, one in learned.items()}, texts)
    return [f"Rows that have no token to learn within max_length {max_length} were left out: {counts}."] * bool(counts)


def _by_split(found: dict[str, int], of: dict[str, int]) -> str:
    """Counts for readers, of the splits that have any."""
    counts = [f"{count:,} of {of[split]:,} rows of {split}" for split, count in found.items() if count]
    *before, last = counts or [""]
    return f"{', '.join(before)} and {last}" if before else last


def _open_ends(
    tokenizer: "PreTrainedTokenizerBase", stops: list[int], form: dict[str, Any], learned: dict[str, Any]
) -> list[str]:
    """One sentence on completions that end with no token at which generation stops, if there are any."""
    if form["kind"] == PLAIN:
        return []
    ends = {split: Counter(one["ends"]) for split, one in learned.items() if split != GENERAL}
    open_ends = {split: {token: own[token] for token in own if token not in stops} for split, own in ends.items()}
    if not any(open_ends.values()):
        return []
    counts = _by_split(
        {split: sum(own.values()) for split, own in open_ends.items()},
        {split: own.total() for split, own in ends.items()},
    ).replace(" rows of ", " of ")
    token = sum(map(Counter, open_ends.values()), Counter()).most_common(1)[0][0]
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in stops)
    at = f"it stops at {names}" if names else "it has no token to stop at"
    return [
        f"Completions that were not cut end with {tokenizer.convert_ids_to_tokens(token)!r}, at which this model's "
        f"generation does not stop ({at}): {counts}."
    ]


def _begins(form: dict[str, Any], learned: dict[str, Any], said: list[str]) -> dict[str, str]:
    """The text with which a chat template begins answers; a sentence on rows of which it does not goes to `said`."""
    found = {split: one["begins"] for split, one in learned.items() if one["begins"]}
    alike = {begin: count for begin, count in sum(found.values(), Counter()).items() if begin is not None}
    most = max(alike, key=alike.__getitem__, default="")
    counts = _by_split(
        {split: own.total() - own[most] for split, own in found.items()},
        {split: own.total() for split, own in found.items()},
    )
    if counts:
        whose = "of the tokenizer " if form["chat_template"] == OF_TOKENIZER else "in `chat_template` "
        does = "the text has special tokens in it, which no answer has"
        if form["chat_template"]:
            does = (
                f"the chat template {whose}writes the assistant's last turn otherwise than its text, or behind a start "
                f"that other rows do not have, or {does}"
            )
        said.append(f"An answer as it was learned is no exact match in {counts}: {does}.")
    return {BEGINS: most} if found else {}


def _of_targets(
    tokenizer: "PreTrainedTokenizerBase", stops: list[int], form: dict[str, Any], learned: dict[str, Any]
) -> dict[str, Any]:
    """What tokens.json says of the targets: how many, rows dropped for having none, and where generation stops."""
    template = None if form["chat_template"] is None else template_of(tokenizer, form["chat_template"])
    return {
        "target_tokens": {split: one["targets"] for split, one in learned.items()},
        "dropped": {split: one["dropped"] for split, one in learned.items()},
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "stop_token_ids": stops,
        LONGEST_PROMPT: max(one["prompt"] for split, one in learned.items() if split != "train"),
        END_TOKENS: _end_tokens(tokenizer, stops, learned["train"]["ends"]),
    }


def _end_tokens(tokenizer: "PreTrainedTokenizerBase", stops: list[int], ends: dict[int, int]) -> list[int]:
    """The tokens that end what a trained model writes: those at which generation stops, and special tokens with which
    training texts end. Of a chat that is what its template writes behind a turn, whatever the tokenizer's eos is.
    """
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(index for index, token in added if token.special)}
    return sorted({*stops, *(token for token in ends if token in special)})


def _stops(model: Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens at which generation stops: those of generation_config.json, else of config.json, and eos."""
    found: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (model / name).is_file() and (own := read_json(model / name).get("eos_token_id")) is not None:
            found += own if isinstance(own, list) else [own]
            break
    return sorted({token for token in found if isinstance(token, int)})


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
