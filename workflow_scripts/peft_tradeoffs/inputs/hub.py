"""Models and data sets from the Hugging Face hub, at a pinned revision: the cache first, then the network.

A filled cache is only read, so it may belong to somebody else. Nothing that is fetched is executed.
"""

import errno
import fnmatch
import glob
import hashlib
import json
import posixpath
import re
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx2
import yaml
from fsspec.utils import glob_translate
from huggingface_hub import DatasetCard, HfApi, RepoFile, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.layout import command
from peft_tradeoffs.inputs import network
from peft_tradeoffs.inputs.file_kind import refuse_pointer
from peft_tradeoffs.inputs.model_files import (
    ADAPTER,
    CONFIG,
    WEIGHTS_INDEX,
    folder_files,
    has_vocabulary,
    refuse_lacking,
    refuse_no_tokenizer,
    required_files,
    tokenizer_files,
)

CHUNK = 1 << 20  # bytes read at once
HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def damaged(folder: Path, names: Iterable[str], tree: Mapping[str, RepoFile]) -> dict[str, str]:
    """What is wrong with those of the files `names` in snapshot `folder` that are not as the hub says, by name.

    All of this is known offline: the cache keeps a revision's listing, and a blob is named by its content. `tree` is
    the listing, as far as it is known. A file of which nothing is known is not damaged.
    """
    found = {}
    for name in sorted(names):
        if said := _difference(folder / name, tree.get(name)):
            found[name] = said
    return found


def _difference(path: Path, entry: RepoFile | None) -> str | None:
    size = path.stat().st_size
    if entry is not None and entry.size != size:
        return f"it has {size} bytes, the hub says {entry.size}"
    told = _told(path, entry)
    if told and not told & _hashes(path, size, {len(one) for one in told}):
        return f"its hash is not the hub's ({sorted(told)[0]})"
    return None


def _told(path: Path, entry: RepoFile | None) -> set[str]:
    """The hashes by which the hub knows the file: that of large files, else Git's, and the blob's name."""
    told = set()
    if entry is not None:
        told.add(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
    if path.is_symlink() and (target := path.readlink()).parent.name == "blobs":
        told.add(target.name)
    return {one for one in told if HEX.fullmatch(one)}


def _hashes(path: Path, size: int, lengths: set[int]) -> set[str]:
    """The content's hashes of those lengths: SHA-256, or Git's SHA-1 and, as mirrors give it, the plain one."""
    made = [hashlib.sha256()] if 64 in lengths else []
    if 40 in lengths:
        made += [hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha1(usedforsecurity=False)]
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for one in made:
                one.update(chunk)
    return {one.hexdigest() for one in made}


LOGIN = "log in with `hf auth login` or set HF_TOKEN"
BUNDLES = ("SSL_CERT_FILE",)  # those of network.BUNDLES that httpx2 reads
# What a download raises; ImportError and ValueError come of proxies and tokens that cannot be used.
FAILURES = (HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError)


def listed(names: Iterable[str]) -> str:
    """The first six names, and how many more there are."""
    every = sorted(names)
    return ", ".join(every[:6]) + (f" and {len(every) - 6} more" if len(every) > 6 else "")


def refuse_offline(where: str, missing: Iterable[str], why: str, cause: Exception | None = None) -> NoReturn:
    """Raise InputError: the files `missing` are needed from the network, which is not to be had."""
    raise InputError(
        f"{where}: not in the cache {constants.HF_HUB_CACHE}: {listed(missing)}; and {why}. "
        f"Run `{command('fetch')}` where there is network, with the same HF_HOME"
    ) from cause


def explain(where: str, missing: Iterable[str], error: Exception) -> NoReturn:
    """Raise InputError for one of FAILURES; one that has no remedy here is passed on."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, OSError | httpx2.HTTPError):
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        _explain_answer(where, missing, error)
    # A proxy or certificate that cannot work is named; the failure itself says little of it.
    if wrong := network.complaints(BUNDLES):
        refuse_offline(where, missing, wrong, error)
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | ssl.SSLError):
        refuse_offline(where, missing, f"the hub at {constants.ENDPOINT} cannot be reached ({error})", error)
    if isinstance(error, json.JSONDecodeError):
        said = f"{constants.ENDPOINT} does not answer as the hub does (check HF_ENDPOINT and the proxy)"
        refuse_offline(where, missing, said, error)
    if not isinstance(error, OSError):
        raise error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise InputError(
            f"{where}: not in the cache {constants.HF_HUB_CACHE}: {listed(missing)}; and the cache cannot "
            "be written: set HF_HOME to a folder of your own, or ask its owner to fetch"
        ) from error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise InputError(
            f"{where}: no space left in the cache {constants.HF_HUB_CACHE}: free some or set HF_HOME to another disk"
        ) from error
    if error.errno is None:
        refuse_offline(where, missing, f"the download failed ({error_text(error)})", error)
    raise error


def _explain_answer(where: str, missing: Iterable[str], error: HfHubHTTPError) -> NoReturn:
    """Raise InputError for an answer that is a refusal, with what the hub says of it."""
    status = error.response.status_code
    words = " ".join((error.response.headers.get("X-Error-Message") or error.server_message or "").split())
    said = f"; the hub says ({status}): {words[:300]}" if words else f" ({status})"
    if isinstance(error, GatedRepoError):
        raise InputError(f"{where}: gated: accept its licence on the hub, then {LOGIN}{said}") from error
    if isinstance(error, DisabledRepoError):
        raise InputError(f"{where}: the hub has disabled this repository; take another one{said}") from error
    if isinstance(error, RevisionNotFoundError):
        raise InputError(f"{where}: no such revision; copy a commit from the hub (Files, History){said}") from error
    if status == 401 and _token_was_sent(error):
        raise InputError(
            f"{where}: the hub does not take the token, which may have expired, or there is no such repository: make a "
            f"new token or, for a public one, unset HF_TOKEN (`hf auth logout`), and check `path`{said}"
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise InputError(
            f"{where}: no such repository; check `path`. If it is private or gated, {LOGIN}, and accept its "
            f"licence{said}"
        ) from error
    if status in (401, 403):
        raise InputError(f"{where}: access refused: {LOGIN}, and accept its licence{said}") from error
    again = "; wait, or log in, which raises the limit" if status == 429 else ""
    refuse_offline(
        where, missing, f"the hub at {constants.ENDPOINT} answered {status}{again}{said if words else ''}", error
    )


def _token_was_sent(error: HfHubHTTPError) -> bool:
    request = error.response.request
    return request is not None and "authorization" in request.headers


if TYPE_CHECKING:
    import datasets

README = "README.md"
DATA_FILE = re.compile(r"\.(csv|tsv|jsonl?|ndjson|parquet|arrow|txt)(\.(gz|bz2|xz|zst))?$")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
LEADING = {README, WEIGHTS_INDEX}  # they name further files, so they must be whole first
PROBE_TIMEOUT_S = 20.0
ASK_TIMEOUT_S = 8.0  # of a question that may go without an answer

# (folder, names, complete) -> names needed. `names` are the repository's files; not `complete` means that
# only those in the cache are known: then what is lacking is named too, for the repository may have it.
Wanted = Callable[[Path | None, set[str], bool], set[str]]


def model_snapshot(path: str, revision: str) -> Path:
    """The cache's snapshot folder of model `path` at commit `revision`, downloaded where it is not complete.

    Holds config.json, the tokenizer and safetensors weights. Raises InputError for a repository that is not
    found, gated, without safetensors, or that is not in the cache and cannot be reached.
    """

    def wanted(folder: Path | None, names: set[str], complete: bool) -> set[str]:
        if ADAPTER in names:
            return {ADAPTER}  # refused once it is read: it says which model it belongs to
        files, lacking = required_files(folder, names)
        if complete:
            refuse_lacking(_where("model", path, revision), names, lacking)
        return files | set(lacking)

    return _snapshot("model", path, revision, wanted)


def newest_commit(path: str) -> str:
    """The commit at the head of model `path`: the hub's, or where it is not to be had the one in the cache.

    Raises InputError for a repository that is not found or gated, and where neither tells it.
    """
    where = f"hub model {path}"
    try:
        if constants.is_offline_mode():
            raise OSError("HF_HUB_OFFLINE is set")
        return str(HfApi().model_info(path, timeout=ASK_TIMEOUT_S).sha)
    except HFValidationError as error:
        raise InputError(f"{where}: not a repository id such as `owner/name`, and no folder here ({error})") from error
    except FAILURES as error:
        if isinstance(error, HfHubHTTPError) and (
            isinstance(error, RepositoryNotFoundError) or error.response.status_code in (401, 403)
        ):
            _explain_answer(where, [], error)
        try:
            return Path(snapshot_download(path, local_files_only=True, allow_patterns=[])).name
        except LocalEntryNotFoundError:
            raise Unreached(f"the hub at {constants.ENDPOINT} cannot be asked ({error_text(error)})") from error


class Unreached(InputError):
    """The hub could not be asked."""


def cached_model(path: str, revision: str) -> Path | None:
    """What the cache has of a model at a commit; None where it has nothing."""
    return _cached_folder("model", path, revision)


def tokenizer_snapshot(path: str, revision: str) -> Path:
    """As model_snapshot, for the tokenizer and config.json (which may say its class) alone."""

    def wanted(folder: Path | None, names: set[str], complete: bool) -> set[str]:
        if complete:
            refuse_no_tokenizer(_where("model", path, revision), names)
        files = tokenizer_files(names) | ({CONFIG} & names)
        return files if has_vocabulary(files) else files | {"tokenizer.json"}

    return _snapshot("model", path, revision, wanted)


def dataset_snapshot(path: str, revision: str, config: str | None) -> Path:
    """The cache's snapshot folder of data set `path` at commit `revision`, downloaded where not complete.

    Holds README.md and the data files of `config` alone (None: the default one); `load_dataset` loads it.
    Raises InputError as model_snapshot does, and for an unknown configuration or one without data files.
    """
    where = _where("dataset", path, revision)

    def wanted(folder: Path | None, names: set[str], complete: bool) -> set[str]:
        card = folder / README if folder is not None else None
        if card is not None and card.is_file():
            configs = _configs(card)
        elif README in names or not complete:
            return {README}
        else:
            configs = {}
        files = _data_files(where, configs, config, names, complete) | ({README} & names)
        return files if complete else _with_all_shards(files)

    return _snapshot("dataset", path, revision, wanted)


def load_dataset(folder: Path, config: str | None, cache_dir: Path) -> "datasets.DatasetDict":
    """All splits of `config` in a folder from `dataset_snapshot`, with the features that its README.md states.

    `datasets` wants the files of other configurations too, at least the first one's. So it is given, below
    `cache_dir` (where it writes as well), links to the data files and a README.md with this configuration alone.
    Raises what `datasets.load_dataset` raises, and InputError for an unknown configuration.
    """
    import datasets

    view = cache_dir / "snapshot"
    for name in folder_files(folder) - {README}:
        refuse_pointer(folder / name)
        (view / name).parent.mkdir(parents=True, exist_ok=True)
        (view / name).symlink_to((folder / name).resolve())
    card = folder / README
    configs = _configs(card) if card.is_file() else {}
    if not configs:
        data_dir = None if config in (None, "default") else config
        return datasets.load_dataset(str(view), data_dir=data_dir, cache_dir=str(cache_dir))
    name = _choose(str(card), configs, config)
    infos = DatasetCard.load(card).data.get("dataset_info") or []
    infos = [info for info in (infos if isinstance(infos, list) else [infos]) if isinstance(info, dict)]
    stated = [info for info in infos if str(info.get("config_name", "default")) == name]
    metadata = yaml.safe_dump({"configs": [configs[name]], "dataset_info": stated})
    (view / README).write_text(f"---\n{metadata}---\n", encoding="utf-8")
    return datasets.load_dataset(str(view), name, cache_dir=str(cache_dir))


def _where(kind: str, path: str, revision: str) -> str:
    return f"hub {'data set' if kind == 'dataset' else kind} {path} at {revision}"


def _snapshot(kind: str, path: str, revision: str, wanted: Wanted) -> Path:
    where = _where(kind, path, revision)
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f"{where}: the revision is not a commit; give its 40 hex digits "
            "(the hub shows them under Files, History), so that the run can be repeated"
        )
    try:
        folder = _cached_folder(kind, path, revision)
        tree = _cached_tree(kind, path, revision)
    except HFValidationError as error:
        raise InputError(f"{where}: `path` is not a repository id such as `owner/name` ({error})") from error

    present = folder_files(folder) if folder is not None else set()
    known = tree or {}
    broken = damaged(folder, present & LEADING, known) if folder is not None else {}
    needed = wanted(None if broken else folder, present if tree is None else set(known), tree is not None)
    if folder is not None:
        broken |= damaged(folder, (needed & present) - broken.keys(), known)
    missing = needed - present
    if folder is not None and not missing and not broken:
        return folder
    if constants.is_offline_mode():
        if broken:
            _refuse_damaged(where, broken, f"HF_HUB_OFFLINE is set: run `{command('fetch')}` where there is network")
        refuse_offline(where, missing, "HF_HUB_OFFLINE is set")
    try:
        return _download(kind, path, revision, wanted)
    except FAILURES as error:
        explain(where, missing | broken.keys(), error)


def _cached_folder(kind: str, path: str, revision: str) -> Path | None:
    try:
        folder = snapshot_download(path, repo_type=kind, revision=revision, local_files_only=True, allow_patterns=[])
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def _cached_tree(kind: str, path: str, revision: str) -> dict[str, RepoFile] | None:
    """The files of the revision by path, if the cache has their listing."""
    try:
        return {file.path: file for file in get_cached_repo_tree(path, repo_type=kind, revision=revision)}
    except CachedRepoTreeNotFoundError:
        return None


def _download(kind: str, path: str, revision: str, wanted: Wanted) -> Path:
    """The snapshot's folder once all that is `wanted` is in it; what is damaged in the cache comes anew."""
    if not sys.stderr.isatty():
        disable_progress_bars()  # a log is no place for them
    api = HfApi()
    # Fails at once where the hub cannot be reached; listing the files would retry for half a minute.
    api.repo_info(path, repo_type=kind, revision=revision, timeout=PROBE_TIMEOUT_S)
    entries = api.list_repo_tree(path, repo_type=kind, revision=revision, recursive=True)
    tree = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    names, where = set(tree), _where(kind, path, revision)
    folder = _cached_folder(kind, path, revision)
    fresh: set[str] = set()
    for _ in range(2):  # README.md and the weights index name further files, once they are there and whole
        present = folder_files(folder) if folder is not None else set()
        leading = damaged(folder, (present & LEADING) - fresh, tree) if folder is not None else {}
        needed = wanted(None if leading else folder, names, True)
        missing, stale = needed - present, (needed & present) - fresh
        broken = set(damaged(folder, stale, tree)) if folder is not None else set()
        if unknown := missing - names:
            raise InputError(
                f"{where}: the repository lacks {listed(unknown)}, which its own index names; pin another revision"
            )
        if missing:
            folder = _fetch(kind, path, revision, missing)
        if broken:
            folder = _fetch(kind, path, revision, broken, anew=True)
        fresh |= missing | broken
    if folder is None:  # nothing was wanted
        raise InputError(f"{where}: the repository has none of the files that are needed")
    if still := damaged(folder, fresh, tree):
        _refuse_damaged(where, still, "it came so from the network: run again, or check the proxy or mirror in between")
    return folder


def _fetch(kind: str, path: str, revision: str, names: set[str], anew: bool = False) -> Path:
    """Download `names` into the cache, `anew` even if they are there."""
    patterns = [glob.escape(name) for name in sorted(names)]
    return Path(
        snapshot_download(path, repo_type=kind, revision=revision, allow_patterns=patterns, force_download=anew)
    )


def _refuse_damaged(where: str, broken: Mapping[str, str], remedy: str) -> NoReturn:
    said = "; ".join(f"{name}: {reason}" for name, reason in sorted(broken.items())[:3])
    raise InputError(f"{where}: damaged in the cache {constants.HF_HUB_CACHE}: {said}; {remedy}")


def _configs(card: Path) -> dict[str, dict[str, Any]]:
    try:
        configs = DatasetCard.load(card).data.get("configs") or []
        return {str(block["config_name"]): block for block in configs}
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = error_text(error)
        raise InputError(
            f"{card}: the `configs` in its YAML metadata cannot be read ({reason}); pin another revision"
        ) from error


def _choose(where: str, configs: dict[str, dict[str, Any]], config: str | None) -> str:
    if config is None:
        defaults = [name for name, block in configs.items() if name == "default" or block.get("default")]
        config = next(iter(defaults or (configs if len(configs) == 1 else ())), None)
    if config not in configs:
        said = "several configurations and none given" if config is None else f"no configuration {config!r}"
        raise InputError(f"{where}: {said}; set `config` to one of {', '.join(configs)}")
    return config


def _patterns(where: str, data_files: Any) -> list[str]:
    """The patterns in any of the forms that `data_files` in a data card may have, of all splits."""
    entries = list(data_files.values()) if isinstance(data_files, dict) else data_files
    found: list[Any] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        paths = entry.get("path") if isinstance(entry, dict) else entry
        found += paths if isinstance(paths, list) else [paths]
    if odd := [pattern for pattern in found if not isinstance(pattern, str)]:
        raise InputError(
            f"{where}: the data card's `data_files` cannot be read, for {odd[0]!r} is no path; pin another revision"
        )
    return found


def _data_files(
    where: str, configs: dict[str, dict[str, Any]], config: str | None, names: set[str], complete: bool
) -> set[str]:
    if configs:
        block = configs[_choose(where, configs, config)]
        data_dir = block.get("data_dir")
        patterns = _patterns(where, block.get("data_files") or []) or [f"{data_dir}/**" if data_dir else "**"]
        patterns = [posixpath.normpath(pattern) for pattern in patterns]  # ./sst2/ is sst2
    elif config not in (None, "default"):
        patterns = [f"{config}/**"]
    else:
        patterns = ["**"]
    data = {name for name in names if DATA_FILE.search(name)}
    files: set[str] = set()
    for pattern in patterns:
        matched = _matching(where, pattern, data)
        if not matched and complete:
            scripts = fnmatch.filter(names, "*.py")
            raise InputError(
                f"{where}: no data file matches {pattern!r}"
                + (f"; its loading script {scripts[0]} is not run" if scripts else "")
                + "; pin a revision that has CSV, JSON lines or Parquet files, or use `source: files`"
            )
        files |= matched or {pattern}
    return files


def _matching(where: str, pattern: str, names: set[str]) -> set[str]:
    try:
        regex = re.compile(glob_translate(pattern))
    except (ValueError, re.error) as error:
        raise InputError(f"{where}: the data card's pattern {pattern!r} cannot be read: {error}") from error
    return {name for name in names if regex.match(name)}


def _with_all_shards(names: set[str]) -> set[str]:
    """`names` and, for each `x-00001-of-00003`, its siblings (counted from 0, as in data sets)."""
    every = set(names)
    for name in names:
        if match := SHARD.search(name):
            head, tail, total = name[: match.start()], name[match.end() :], match[2]
            every |= {f"{head}-{i:05d}-of-{total}{tail}" for i in range(int(total))}
    return every
