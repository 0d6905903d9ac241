"""What the hub's refusals, and a network that does not work, mean for a user: one line, the hub's own words in it."""

import errno
import json
import ssl
from collections.abc import Iterable
from typing import NoReturn

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import network

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
        "Run `snakemake fetch` where there is network, with the same HF_HOME"
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
        refuse_offline(where, missing, f"the download failed ({' '.join(str(error).split())})", error)
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
