"""Settings of the network that cannot work: proxies, certificates, the hub's address and token. Cheap to import."""

import importlib.util
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from peft_tradeoffs.core.errors import InputError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
SECONDS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")  # huggingface_hub reads them when it is imported
LIKE_THE_HUB = "it must be like https://huggingface.co (or unset it)"
SOCKS = ("socks5", "socks5h")


def check_hub_variables() -> None:
    """Raise InputError for variables that huggingface_hub cannot even be imported with."""
    try:
        _ = urlsplit(os.environ.get("HF_ENDPOINT", "")).port
    except ValueError as error:
        raise InputError(f"HF_ENDPOINT: no address that can be read ({error}); {LIKE_THE_HUB}") from error
    for name in SECONDS:
        value = os.environ.get(name, "0")
        try:
            int(value)
        except ValueError as error:
            raise InputError(f"{name}: {value!r} is no number of seconds; correct or unset it") from error


def complaints(bundles: tuple[str, ...] = BUNDLES) -> str | None:
    """What is wrong with address, proxies, certificates (`bundles`: their variables) and token; None if nothing is.

    Asked once something has failed, for a setting that is not used does no harm.
    """
    return "; ".join([*_endpoint(), *_proxies(), *_bundles(bundles), *_token()]) or None


def _endpoint() -> Iterator[str]:
    value = os.environ.get("HF_ENDPOINT")
    if value and (reason := _no_address(value, ("http", "https"))):
        yield f"HF_ENDPOINT: {reason}; {LIKE_THE_HUB}"


def _proxies() -> Iterator[str]:
    for name in (variable for upper in PROXIES for variable in (upper, upper.lower())):
        value = os.environ.get(name)
        if not value:
            continue
        reason = _no_address(value if "://" in value else f"http://{value}", ("http", "https", *SOCKS))
        if reason:
            yield f"{name}: {reason}; it must be like http://host:port"
        elif urlsplit(value).scheme in SOCKS and importlib.util.find_spec("socksio") is None:
            yield f"{name}: a SOCKS proxy needs the package socksio: pip install socksio, or give an http:// proxy"


def _no_address(value: str, schemes: tuple[str, ...]) -> str | None:
    """Why `value` is no address of one of these schemes; without the value, which may hold a password."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        return f"no address that can be read ({error})"
    if parts.scheme not in schemes:
        return f"an address of kind {parts.scheme or 'none'!r}, {', '.join(schemes)} are known"
    return None if parts.hostname else "an address without a host"


def _bundles(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = os.environ.get(name)
        if not value or (name != "SSL_CERT_FILE" and Path(value).is_dir()):  # requests takes a folder too
            continue
        try:
            ssl.create_default_context(cafile=value)
        except FileNotFoundError:
            yield f"{name}: {value}: no such file; give the certificates of your proxy or unset it"
        except ssl.SSLError:
            yield f"{name}: {value} holds no certificate in PEM form; give the certificates of your proxy or unset it"
        except OSError as error:
            yield f"{name}: {value} cannot be read ({error.strerror}); correct or unset it"


def _token() -> Iterator[str]:
    """Complaints of the hub's token, from a variable or a file; without the token."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", str(file)):
        value = os.environ.get(name)
        if name == str(file):
            try:
                value = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
        token = (value or "").strip()
        wrong = next((sign for sign in token if not "!" <= sign <= "~"), None)
        if wrong is not None:
            yield f"{name}: the token has a sign that none has ({wrong!a}); copy it again from the hub's settings"
