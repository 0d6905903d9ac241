"""A model folder's tokenizer, loaded without running code, and whether the model has its tokens."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from peft_tradeoffs.core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESIZE = "resize them: model.resize_token_embeddings(len(tokenizer)), then save model and tokenizer"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, with a pad token. Raises InputError for a folder without a usable tokenizer."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make it with fetch_model.py")
    tokenizer = bare_tokenizer(folder, f"{folder}: its tokenizer")
    # from a config.json alone Transformers makes a tokenizer that knows the special tokens only
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InputError(
            f"{folder}: no tokenizer; a tokenizer.json or the vocabulary its model type needs must be there"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or longest < 1:
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {longest!r}; write the most tokens that the "
            "model takes, or take it out"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{folder}: the tokenizer has no pad token and no eos token; set its pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def bare_tokenizer(folder: Path, which: str) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer as it is. Raises InputError that begins with `which` if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        _ = tokenizer.all_special_ids  # without end where the unknown token itself is unknown
        return tokenizer
    except Exception as error:  # the tokenizers library raises nothing narrower, Transformers whatever a file leads to
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{which} cannot be loaded: {said}") from error


def check_pad_token(folder: Path, tokenizer: "PreTrainedTokenizerBase", embeddings: int | None) -> None:
    """Raise InputError for a pad token that is none of the model's `embeddings` (None: it takes any)."""
    if embeddings is not None and tokenizer.pad_token_id >= embeddings:
        raise InputError(
            f"{folder}: the pad token {tokenizer.pad_token_id} ({tokenizer.pad_token!r}) is beyond the model's "
            f"{embeddings} embeddings; {RESIZE}, or make a token of the vocabulary the pad token"
        )


def tokens_beyond(tokenizer: "PreTrainedTokenizerBase", embeddings: int | None) -> list[str]:
    """The tokens whose ids are none of the model's `embeddings`, by id, as a message names them: 28 ('<user>')."""
    if embeddings is None:
        return []
    return [f"{i} ({token!r})" for token, i in sorted(tokenizer.get_vocab().items(), key=_by_id) if i >= embeddings]


def check_ids(
    place: str, rows: Iterable[list[int]], tokenizer: "PreTrainedTokenizerBase", embeddings: int | None
) -> None:
    """Raise InputError for rows with a token that is none of the model's `embeddings`; `place` names the split."""
    if embeddings is None:
        return
    found = [(number, max(ids)) for number, ids in enumerate(rows, start=1) if ids and max(ids) >= embeddings]
    if found:
        token = found[0][1]
        numbers = ", ".join(str(number) for number, _ in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise InputError(
            f"{place}, row{'s' if len(found) > 1 else ''} {numbers}{more}: token {token} "
            f"({tokenizer.convert_ids_to_tokens(token)!r}) is beyond the model's {embeddings} embeddings; {RESIZE}"
        )


def _by_id(item: tuple[str, int]) -> int:
    return item[1]
