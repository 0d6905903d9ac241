"""Text of others without their secrets. Cheap to import."""

import os
import re

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL|WEBHOOK", re.IGNORECASE)
HIDDEN = "…"


def redacted(text: str) -> str:
    """One line of `text` without what could be a credential.

    Left out are values of environment variables with a telling name, users and queries of URLs, and any word of 20 or
    more characters with a digit in it, as keys are.
    """
    line = " ".join(text.split())
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 4:
            line = line.replace(value, HIDDEN)
    line = re.sub(r"(://)[^/@\s]+@", rf"\1{HIDDEN}@", line)
    line = re.sub(r"(://[^\s?]+\?)\S+", rf"\1{HIDDEN}", line)
    return re.sub(r"(?=[\w-]*\d)[\w-]{20,}", HIDDEN, line)[:500]
